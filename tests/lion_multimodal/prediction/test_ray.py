"""`lion predict --ray`: the machines of a cluster give the file of one process, also when one of them is lost."""

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


@pytest.fixture
def cluster(monkeypatch):
    """A head that computes nothing, and two machines."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def workers() -> list[psutil.Process]:
    """The processes that hold a model."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("MapWorker" in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_a_cluster_gives_the_file_of_one_process_though_a_worker_dies(photos, predict, cluster, monkeypatch):
    from lion_multimodal.prediction.outputs import Output

    monkeypatch.setenv("LION_TRACEBACK", "1")
    assert predict(*ARGUMENTS, "--output", "alone.jsonl")[0] == 1
    killed, append = [], Output.append

    def kill_one(self, batch):
        append(self, batch)
        if not killed:
            running = workers()
            assert len(running) == 2
            killed.append(running[0].pid)
            os.kill(running[0].pid, signal.SIGKILL)

    monkeypatch.setattr(Output, "append", kill_one)
    options = ["--ray", cluster.address, "--ray-workers", "2", "--output", "ray.jsonl"]
    assert main(["predict", *ARGUMENTS, *FEW, *options]) == 1
    assert len(killed) == 1
    for end in (".jsonl", ".errors.jsonl", ".jsonl.run.json"):
        assert Path(f"ray{end}").read_bytes() == Path(f"alone{end}").read_bytes()


def test_no_cluster_is_one_line(photos, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert main(["predict", "photos", "--ray", "127.0.0.1:1", "--output", "out.jsonl"]) == 1
    assert "lion: error: --ray 127.0.0.1:1: no Ray cluster there" in capsys.readouterr().err
