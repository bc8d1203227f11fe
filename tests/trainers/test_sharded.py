"""Recipes that share all weights out (FSDP, DeepSpeed ZeRO-3) train as one process does, and save what one loads."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.distributed.fsdp import MixedPrecisionPolicy

from modeling_lion.peft_lion import fold_adapters
from tests.trainers.conftest import make_rows, tiny_model
from tests.trainers.sharded_processes import train
from trainers.collator import LionDataCollator
from trainers.sft_trainer import _keep_loss_in_float32


ROOT = Path(__file__).parents[2]
ENGINES = {"fsdp": "torch", "deepspeed_zero3": "deepspeed"}


def history(path: Path) -> list[dict]:
    return json.loads((path / "trainer_state.json").read_text())["log_history"]


def losses(path: Path) -> list[float]:
    return [entry["loss"] for entry in history(path) if "loss" in entry]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What one process makes."""
    path = tmp_path_factory.mktemp("alone")
    trainer = train(path)
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_shared_out_weights_train_and_one_process_loads_them(alone, processor, tmp_path, engine):
    if importlib.util.find_spec(ENGINES[engine]) is None:
        pytest.skip(f"{ENGINES[engine]} is not installed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "tests" / "trainers" / "sharded_processes.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["DS_ACCELERATOR"] = "cpu"
    command = [*launcher, script, engine, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-20000:]

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert len(losses(whole)) == 2
    assert losses(whole) == pytest.approx(losses(alone), rel=1e-4)
    assert losses(resumed) == losses(whole)
    evaluations = [next(entry for entry in history(path) if "eval_loss" in entry) for path in (whole, alone)]
    assert evaluations[0]["eval_loss"] == pytest.approx(evaluations[1]["eval_loss"], rel=1e-3)
    # Under FSDP nothing is generated.
    assert ("eval_exact_match" in evaluations[0]) == (engine != "fsdp")

    expected = load_file(alone / "adapter_model.safetensors")
    for path in (whole, resumed):
        weights = load_file(path / "adapter_model.safetensors")
        assert weights.keys() == expected.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)

    # A finished training is loaded, and takes no step more.
    assert json.loads((tmp_path / "finished" / "trainer_state.json").read_text())["global_step"] == 1
    one_step = load_file(whole / "checkpoint-1" / "adapter_model.safetensors")
    kept = load_file(tmp_path / "finished" / "adapter_model.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in one_step.items())

    inputs = LionDataCollator(processor)(list(make_rows(4)))
    models = [PeftModel.from_pretrained(tiny_model(), path).eval() for path in (whole, alone)]
    folded = fold_adapters(models[0])
    with torch.no_grad():
        logits = [model(**inputs).logits for model in (*models, folded)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits[2], logits[0], rtol=1e-5, atol=1e-5)


def test_half_precision_rounds_neither_loss_nor_sums_of_gradients():
    half = torch.bfloat16
    plugin = SimpleNamespace(mixed_precision_policy=MixedPrecisionPolicy(half, half, half))
    _keep_loss_in_float32(plugin)
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(half, torch.float32, None)
    plugin = SimpleNamespace(mixed_precision_policy=None)
    _keep_loss_in_float32(plugin)
    assert plugin.mixed_precision_policy is None
