"""`lion predict --ray`: the workers of a cluster give the file of one process, also when one of them dies."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from lion_multimodal.cli.main import main
from tests.lion_multimodal.prediction.conftest import FEW


ray = pytest.importorskip("ray", reason="`make test-ray` installs it")

ROOT = Path(__file__).parents[3]
ARGUMENTS = [*(["photos"] * 4), "--no-tags", "--batch-size", "2"]


def workers() -> list[psutil.Process]:
    """The processes that hold a model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        if any("MapWorker" in word for word in process.cmdline()):
            found.append(process)
    return found


def test_a_cluster_gives_the_file_of_one_process_though_a_worker_dies(photos, predict, monkeypatch):
    from lion_multimodal.prediction.outputs import Output

    monkeypatch.setenv("LION_TRACEBACK", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # A machine that does other work, too, is slow to start a cluster, whose workers would stand behind all else.
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "200000")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    assert predict(*ARGUMENTS, "--output", "alone.jsonl")[0] == 1
    killed, append = [], Output.append

    def kill_one(self, batch):
        append(self, batch)
        if not killed:
            running = workers()
            assert len(running) == 2, running
            killed.append(running[0].pid)
            os.kill(running[0].pid, signal.SIGKILL)

    monkeypatch.setattr(Output, "append", kill_one)
    options = ["--ray", "local", "--ray-workers", "2", "--output", "ray.jsonl"]
    assert main(["predict", *ARGUMENTS, *FEW, *options]) == 1
    assert len(killed) == 1
    for end in (".jsonl", ".errors.jsonl", ".jsonl.run.json"):
        assert Path(f"ray{end}").read_bytes() == Path(f"alone{end}").read_bytes()


def test_no_cluster_is_one_line(photos, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert main(["predict", "photos", "--ray", "127.0.0.1:1", "--output", "out.jsonl"]) == 1
    assert "lion: error: --ray 127.0.0.1:1: no Ray cluster there" in capsys.readouterr().err
