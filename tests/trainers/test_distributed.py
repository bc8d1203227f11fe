"""Two processes on the CPU (gloo) give the losses and the weights of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.two_processes import KINDS, train


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """What two processes made of every kind of data."""
    path = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "tests" / "trainers" / "two_processes.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [*launcher, script, str(path)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stderr[-20000:]
    return path


def results(path: Path) -> tuple[list[float], dict, dict[str, torch.Tensor]]:
    history = json.loads((path / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluation = next(entry for entry in history if "eval_loss" in entry)
    return losses, evaluation, load_file(path / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(tmp_path, shared, kind):
    train(tmp_path, kind, processes=1)
    losses, evaluation, weights = results(tmp_path)
    shared_losses, shared_evaluation, shared_weights = results(shared / kind)
    assert len(losses) == 4
    assert shared_losses == pytest.approx(losses, rel=1e-4)
    assert shared_evaluation["eval_exact_match"] == evaluation["eval_exact_match"]
    for name, value in weights.items():
        torch.testing.assert_close(shared_weights[name], value, rtol=1e-3, atol=1e-5, msg=name)
