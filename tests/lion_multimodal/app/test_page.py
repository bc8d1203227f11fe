"""The page as a server: what it gives away, and what it does not."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from lion_multimodal.hub import space_files, write_space


ROOT = Path(__file__).parents[3]


def test_options_are_read_and_wrong_ones_named(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("lion_multimodal.app.launch", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert main(["app", "--model", "m", "--adapter", "a", "--device", "cpu", "--port", "7000", "--share"]) == 0
    assert calls == [(("m", "a", "cpu"), {"host": None, "port": 7000, "share": True})]
    with pytest.raises(SystemExit):
        main(["app", "--port", "70000"])
    assert "must be a port from 1 to 65535" in capsys.readouterr().err


def test_without_the_extra_one_line_says_so():
    hidden = "import sys; sys.modules['gradio'] = None; from importlib import util; find = util.find_spec; "
    hidden += "util.find_spec = lambda name, *rest: None if name == 'gradio' else find(name, *rest); "
    code = hidden + "from lion_multimodal.cli.main import main; sys.exit(main(['app']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == 'lion: error: lion app needs gradio: pip install "lion-multimodal[app]"\n'


@pytest.fixture(scope="module")
def page():
    """A page that is served by this process: its Blocks and its address."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    from lion_multimodal.app import launch

    blocks, address, public = launch(device="cpu", prevent_thread_lock=True)
    assert public is None
    assert address.startswith("http://127.0.0.1:")
    yield blocks, address
    blocks.close()


def get(address: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def call(page, function: str, data: list) -> dict:
    """Call a function of the page, as a browser (or whoever imitates one) would."""
    blocks, address = page
    index = next(index for index, fn in blocks.fns.items() if fn.name == function)
    body = json.dumps({"data": data, "fn_index": index, "session_hash": f"s{time.monotonic_ns()}"}).encode()
    session = json.loads(body)["session_hash"]
    request = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).read()
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                if event["msg"] in ("process_completed", "unexpected_error"):
                    return event
    raise AssertionError("the stream ended without a result")


@pytest.mark.parametrize(
    "path", ["/etc/hostname", str(ROOT / "pyproject.toml"), str(checkpoints.path("nano") / "config.json")]
)
def test_no_file_of_the_server_is_given_away(page, path):
    assert Path(path).exists()
    assert get(f"{page[1]}gradio_api/file={path}")[0] == 403
    event = call(page, "open_image", [{"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert not event.get("success", False), event


@pytest.mark.parametrize("function", ["open_image", "answer_all"])
def test_no_address_is_fetched(page, function, monkeypatch):
    """The browser sends files; a request that names an address in their place makes this server fetch nothing."""
    import gradio.processing_utils

    asked = []

    async def fetch(url):
        asked.append(url)
        raise OSError("fetched")

    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_get", fetch)
    for url in ("http://127.0.0.1:9/secret.png", "https://example.com/large.png"):
        for payload in ({"path": url}, {"path": url, "url": url}, {"path": "image.png", "url": url}, {"url": url}):
            file = {**payload, "meta": {"_type": "gradio.FileData"}}
            call(page, function, [file] if function == "open_image" else [[file], "", "auto", True])
    assert asked == []


def test_the_page_names_nothing_of_this_machine_and_nothing_from_elsewhere(page):
    status, config = get(f"{page[1]}config")
    assert status == 200
    text = config.decode()
    assert str(ROOT) not in text
    assert os.path.expanduser("~") + "/" not in text
    assert "fonts.googleapis" not in get(f"{page[1]}theme.css")[1].decode()
    assert "fonts.googleapis" not in text
    assert json.loads(text)["analytics_enabled"] is False


def test_there_is_no_programming_interface_beside_the_page(page):
    status, content = get(f"{page[1]}gradio_api/info")
    assert status != 200 or json.loads(content)["named_endpoints"] == {}


def test_no_event_of_the_page_is_without_a_limit(page):
    limits = {fn.name: fn.concurrency_limit for fn in page[0].fns.values()}
    assert {"open_image", "ask_question", "score_candidates", "answer_all"} <= set(limits)
    assert limits["ask_question"] == limits["answer_all"] == 1
    assert page[0].max_file_size == 32 * 2**20
    assert page[0].state_session_capacity <= 200


def test_gradio_writes_no_file_into_the_package(page):
    assert list((ROOT / "lion_multimodal").rglob("*.pyi")) == []


def test_the_app_of_a_space_runs_with_a_local_model(tmp_path):
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    write_space(tmp_path, space_files("demo", str(checkpoints.path("nano"))))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        try:
            said = ""
            for line in process.stdout:
                said += line
                if found := re.search(r"http://\S+", line):
                    break
            else:
                pytest.fail(said)
            assert b"<title>LION</title>" in get(found[0])[1] or get(found[0])[0] == 200
            assert json.loads(get(f"{found[0].rstrip('/')}/config")[1])["title"] == "LION"
        finally:
            process.terminate()
