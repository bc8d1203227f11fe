"""
Puts load on `lion serve`: `python -m laboratory.speed.serving`.

Clients with a connection each ask questions of both levels about held-out images of the synthetic world, as fast as
they are answered, first one by one (`--max-batch-size 1`), then batched, then one by one again, then more than the
server takes. Every answer is compared with the pipeline's. No image's encoding is kept from one batch to the next.
"""

import argparse
import asyncio
import base64
import io
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from laboratory.world.dataset import ask
from laboratory.world.scene import SPLITS, render, sample_scene
from lion_multimodal import asking


logger = logging.getLogger(__name__)

NUM_IMAGES = 100
_TASKS = (("caption",), ("color", "object", "count", "relation", "existence"), ("rec",))
_CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Exchange:
    """A request's body, and what the pipeline answers."""

    body: bytes
    text: str
    boxes: list[list[float]]


@dataclass
class Load:
    """
    What came of some seconds of load.

    Args:
        seconds (`float`): How long it took.
        latencies (`list[float]`): Seconds of each answer, in the order of their ends.
        statuses (`Counter`): Answers by HTTP status; 0 for connections that broke.
        wrong (`list[str]`): Answers that are not the pipeline's.
        rss (`list[int]`): The server's resident memory in bytes, at every second.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Figures."""
        found: dict[str, Any] = {"seconds": round(self.seconds, 1), "answers": len(self.latencies)}
        found |= {"statuses": dict(self.statuses), "wrong": len(self.wrong)}
        found["answers_per_second"] = round(len(self.latencies) / self.seconds, 2)
        if len(self.latencies) > 1:
            cuts = statistics.quantiles(self.latencies, n=100)
            found |= {"p50_seconds": round(cuts[49], 3), "p95_seconds": round(cuts[94], 3)}
        if self.rss:
            quarter = max(1, len(self.rss) // 4)
            parts = [
                max(self.rss[start : start + quarter]) for start in range(0, quarter * 4, quarter) if self.rss[start:]
            ]
            found["rss_mib_by_quarter"] = [round(part / 2**20, 1) for part in parts]
        return found


def make_exchanges(pipe: Any, num_images: int) -> list[Exchange]:
    """A caption, a question and a location about each of some held-out images, and the pipeline's answers."""
    exchanges = []
    for number in range(num_images):
        scene = sample_scene(SPLITS["test"][number])
        image, file = render(scene), io.BytesIO()
        image.save(file, format="PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        for tasks in _TASKS:
            prompt = ask(scene, tasks, 1)[0].prompt
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]
            body = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
            answer = pipe(image, prompt=prompt)[0]
            exchanges.append(Exchange(body, answer["generated_text"], answer.get("boxes", [])))
    return exchanges


async def request(reader: Any, writer: Any, host: str, body: bytes) -> tuple[int, bytes]:
    """An HTTP request on a connection that stays open: status and body of the answer."""
    headers = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body))}
    head = [f"POST {_CHAT} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(head).encode() + body)
    await writer.drain()
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = int(re.search(r"(?i)content-length: (\d+)", answer)[1])  # type: ignore[index]
    return int(answer.split()[1]), await reader.readexactly(length)


async def drive(url: str, exchanges: Sequence[Exchange], clients: int, seconds: float, pid: int | None = None) -> Load:
    """Load by a number of clients for some seconds; what was begun then is waited for."""
    parts, load = urlsplit(url), Load()
    started = time.monotonic()
    end = started + seconds

    async def client(number: int) -> None:
        connection = None
        for turn in range(number, 10**9, clients):
            if time.monotonic() >= end:
                break
            exchange = exchanges[turn % len(exchanges)]
            begun = time.monotonic()
            try:
                if connection is None:
                    connection = await asyncio.open_connection(parts.hostname, parts.port)
                status, content = await request(*connection, parts.netloc, exchange.body)
            except (OSError, EOFError):
                load.statuses[0] += 1
                connection = None
                continue
            load.statuses[status] += 1
            if status != 200:
                await asyncio.sleep(0.2)
                continue
            load.latencies.append(time.monotonic() - begun)
            message = json.loads(content)["choices"][0]["message"]
            if (message["content"], message["boxes"]) != (exchange.text, exchange.boxes):
                load.wrong.append(f"{message['content']!r} is not {exchange.text!r}")
        if connection is not None:
            connection[1].close()

    async def watch() -> None:
        import psutil

        while pid is not None:
            load.rss.append(psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client(number) for number in range(clients)))
    watching.cancel()
    load.seconds = time.monotonic() - started
    return load


@contextmanager
def server(*options: str) -> Iterator[tuple[str, int]]:
    """`lion serve` with options: its address and its process's number. It must end well."""
    command = [sys.executable, "-m", "lion_multimodal.cli.main", "serve", "--port", "0", "--device", "cpu", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "is served at" not in line:
                raise RuntimeError(f"the server did not start: {line!r}")
            yield line.split("served at ")[1].split("/v1")[0], process.pid
            process.terminate()
            if process.wait(120) != 0:
                raise RuntimeError(f"the server ended with {process.returncode}")
        finally:
            process.kill()


def batches(url: str) -> dict[str, float]:
    """The mean size of the server's batches, and how many had both levels."""
    import urllib.request

    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    names = ("lion_batch_size_sum", "lion_batch_size_count", "lion_mixed_batches_total")
    total, count, mixed = (float(re.search(rf"^{name} (.*)$", text, re.M)[1]) for name in names)  # type: ignore[index]
    return {"mean_batch_size": round(total / count, 2), "mixed_batches": round(mixed / count, 3)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All phases."""
    exchanges = make_exchanges(asking.load_pipeline(device="cpu"), options.images)
    logger.info("%d questions about %d images", len(exchanges), options.images)
    found: dict[str, Any] = {"clients": options.clients, "cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    plain = ("--image-cache-bytes", "0", "--max-queue", "1000")
    few = ("--image-cache-bytes", "0", "--max-queue", str(max(1, options.clients // 4)))
    phases = (
        ("unbatched_before", options.seconds / 4, (*plain, "--max-batch-size", "1")),
        ("batched", options.seconds, plain),
        ("unbatched_after", options.seconds / 4, (*plain, "--max-batch-size", "1")),
        ("overload", options.seconds / 8, few),
    )
    for name, seconds, settings in phases:
        with server(*settings) as (url, pid):
            asyncio.run(drive(url, exchanges, min(4, options.clients), min(3, seconds)))  # warm
            load = asyncio.run(drive(url, exchanges, options.clients, seconds, pid))
            found[name] = load.summary() | batches(url)
            if name == "overload":
                after = asyncio.run(drive(url, exchanges, 2, min(5, seconds)))
                found["after_overload"] = after.summary()
        logger.info("%s: %s", name, json.dumps(found[name]))
        for wrong in load.wrong[:3]:
            logger.warning("wrong: %s", wrong)
    unbatched = [found[name]["answers_per_second"] for name in ("unbatched_before", "unbatched_after")]
    found["times_unbatched"] = round(found["batched"]["answers_per_second"] / statistics.mean(unbatched), 2)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; 1 where an answer was wrong or missing."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.speed.serving", description=__doc__.split("\n")[1])
    parser.add_argument("--clients", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the batched phase (default: %(default)s)")
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="different images (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/speed/serving.json"), help="file for the figures")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    found = run(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{found['times_unbatched']} times the answers of one by one: {options.output}")
    phases = [value for value in found.values() if isinstance(value, dict)]
    allowed = {200, 429}
    return int(any(phase["wrong"] or set(phase["statuses"]) - allowed for phase in phases))


if __name__ == "__main__":
    sys.exit(main())
