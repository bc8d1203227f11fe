"""Real servers on this machine, all on one engine."""

import base64
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from lion_multimodal import asking
from lion_multimodal.engine import LionEngine
from lion_multimodal.serving import ServerSettings, Service, create_app
from lion_multimodal.serving.server import Server, address_of, bind, make_config


SCENE = Path(__file__).parents[3] / "docs" / "images" / "scene.png"
CAPTION = "Please describe the image in detail."
WHERE = "In the image <image>, can you locate the orange umbrella and let me know its coordinates?"
QUESTIONS = [
    CAPTION,
    WHERE,
    "Question: what color is the flower? Short answer:",
    "In the image <image>, can you locate the red flower and let me know its coordinates?",
    "Question: how many umbrellas are there? Short answer:",
    "For the given image <image>, can you provide a unique description of the area [0.333,0.302,0.708,0.646]?",
]


@dataclass
class Running:
    """A server that runs: its address, a client without patience, and what is behind it."""

    url: str
    client: openai.OpenAI
    service: Service
    server: Server

    def ask(self, prompt: Any, image: str | None = None, **options: Any) -> Any:
        """A chat completion about the scene."""
        messages = [{"role": "user", "content": [image_part(image or data_url()), {"type": "text", "text": prompt}]}]
        extra = {name: options.pop(name) for name in ("tags", "level") if name in options}
        return self.client.chat.completions.create(model="nano", messages=messages, extra_body=extra, **options)


def data_url(content: bytes | None = None) -> str:
    """The scene, or another file, as a data: URL."""
    return "data:image/png;base64," + base64.b64encode(content or SCENE.read_bytes()).decode()


def image_part(url: str) -> dict[str, Any]:
    """A part of a message that shows an image."""
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture(scope="session")
def pipe():
    return asking.load_pipeline(device="cpu")


@pytest.fixture(scope="session")
def engine(pipe):
    return LionEngine(pipe)


@contextlib.contextmanager
def serving(engine: LionEngine, **settings: Any) -> Iterator[Running]:
    """A server in a thread."""
    settings = {"model_name": "nano", "max_wait_ms": 2, "shutdown_timeout": 10, **settings}
    app = create_app(engine, ServerSettings(**settings))
    bound, ready = bind("127.0.0.1", 0), threading.Event()
    server = Server(make_config(app), app.state.service, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    url = address_of(bound)
    thread.start()
    assert ready.wait(60)
    loop = server._loop
    key = settings.get("api_keys", ("none",))[0]
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60) as client:
            yield Running(url, client, app.state.service, server)
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def running(engine) -> Iterator[Running]:
    with serving(engine) as running:
        yield running


@pytest.fixture
def held(engine, monkeypatch):
    """The model begins to answer when this event is set; it notes the batches' prompts."""
    gate, answer = threading.Event(), engine.answer
    gate.batches = []

    def waiting(images, questions, **options):
        gate.batches.append([question.prompt for question in questions])
        assert gate.wait(60)
        return answer(images, questions, **options)

    monkeypatch.setattr(engine, "answer", waiting)
    yield gate
    gate.set()


class ImageHandler(BaseHTTPRequestHandler):
    """Gives the scene at `/scene.png`, a redirect at `/to/URL`, nothing for long at `/slow`, and no image elsewhere."""

    def do_GET(self):
        with contextlib.suppress(OSError):
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
                return
            if self.path == "/slow":
                self.server.stopped.wait(10)
            content = SCENE.read_bytes() if self.path == "/scene.png" else b"<html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def images() -> Iterator[int]:
    """The port of a server of images."""
    server = ThreadingHTTPServer(("", 0), ImageHandler)
    server.daemon_threads, server.stopped = True, threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port
    server.stopped.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
