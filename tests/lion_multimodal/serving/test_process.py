"""`lion serve` as a process: what it says, what it refuses to begin with, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from lion_multimodal.cli.main import main
from lion_multimodal.cli.serve import api_keys
from tests.lion_multimodal.serving.conftest import QUESTIONS, data_url, image_part


ROOT = Path(__file__).parents[3]


def metric(url, name):
    with urllib.request.urlopen(f"{url}/metrics") as response:
        return float(re.search(rf"^{name} (.*)$", response.read().decode(), re.MULTILINE)[1])


def test_sigterm_loses_no_accepted_request(pipe, tmp_path):
    (tmp_path / "keys").write_text("# for the test\na-key\n")
    command = [sys.executable, "-m", "lion_multimodal.cli.main", "serve", "--port", "0", "--device", "cpu"]
    # All requests wait for a batch that is never full, so that none is answered before the signal.
    command += ["--max-wait-ms", "60000", "--max-batch-size", "64", "--api-key-file", str(tmp_path / "keys")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            line = process.stdout.readline()
            assert re.fullmatch(r"lion: nano is served at http://127.0.0.1:\d+/v1 \(cpu\); .*\n", line), line
            base_url = line.split()[5]
            url = base_url.removesuffix("/v1")
            client = openai.OpenAI(base_url=base_url, api_key="a-key", max_retries=0, timeout=60)

            def ask(prompt):
                messages = [{"role": "user", "content": [image_part(data_url()), {"type": "text", "text": prompt}]}]
                return client.chat.completions.create(model="nano", messages=messages).choices[0].message.content

            with ThreadPoolExecutor(12) as pool:
                asked = [pool.submit(ask, prompt) for prompt in QUESTIONS * 2]
                end = time.monotonic() + 50
                while metric(url, "lion_queue_length") < 12:
                    assert time.monotonic() < end
                    time.sleep(0.02)
                process.send_signal(signal.SIGTERM)
                answers = [future.result(60) for future in asked]
            expected = [pipe(data_url(), prompt=prompt)[0]["generated_text"] for prompt in QUESTIONS]
            assert answers == expected * 2
            assert process.wait(30) == 0
            # A line of transformers 4.
            assert process.stderr.read().replace("Device set to use cpu\n", "") == ""
        finally:
            process.kill()


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr("lion_multimodal.engine.LionEngine.from_pretrained", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"lion: error: cannot listen on --host 127.0.0.1 --port {port}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port must be 0 to 65535, got 70000"),
        (["--host", "no-such-host.invalid", "--port", "0"], "cannot listen on --host no-such-host.invalid"),
        (["--api-key-file", "no_such_file"], "no_such_file"),
        (["--model", "no/such/checkpoint", "--port", "0"], "no/such/checkpoint"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(capsys, arguments, message):
    assert main(["serve", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lion: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--max-batch-size", "--max-queue", "--request-timeout", "--max-wait-ms"])
def test_options_are_checked(capsys, option):
    with pytest.raises(SystemExit):
        main(["serve", option, "-1"])
    assert option in capsys.readouterr().err


def test_keys_come_from_the_environment_and_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv("LION_API_KEY", raising=False)
    assert api_keys(None) == ()
    file = tmp_path / "keys"
    file.write_text("\n# who they belong to\nfirst \nsecond\n")
    assert api_keys(str(file)) == ("first", "second")
    monkeypatch.setenv("LION_API_KEY", "third")
    assert api_keys(str(file)) == ("third", "first", "second")
    assert api_keys(None) == ("third",)
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="--api-key-file must hold a key a line"):
        api_keys(str(file))


@pytest.mark.parametrize(("package", "extra"), [("uvicorn", "serve"), ("fastapi", "serve"), ("peft", "train")])
def test_the_extra_that_is_missing_is_named(capsys, monkeypatch, package, extra):
    for name in [name for name in sys.modules if name.startswith("lion_multimodal.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["serve", "--port", "0", "--adapter", "nowhere"]) == 1
    error = capsys.readouterr().err
    assert f'pip install "lion-multimodal[{extra}]"' in error
    assert package in error
    assert error.count("\n") == 1
