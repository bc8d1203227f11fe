"""Two processes on the CPU (gloo) give the losses and the weights of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys

from tests.trainers.conftest import make_processor, make_rows, tiny_model
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import get_stage

path, batch_size, streaming = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "stream"
rows = make_rows(12)
trainer = LionSFTTrainer(
    tiny_model(dropout=0.0),
    LionSFTConfig(
        output_dir=path,
        use_cpu=True,
        max_steps=4,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=2,
        # Adam would blow rounding errors up where gradients are next to nothing.
        optim="sgd",
        learning_rate=1e-1,
        logging_steps=1,
        save_strategy="no",
        generation_max_new_tokens=4,
        disable_tqdm=True,
    ),
    train_dataset=rows.add_column("index", range(12)).to_iterable_dataset().repeat(None) if streaming else rows,
    eval_dataset=make_rows(4),
    processing_class=make_processor(),
    peft_config=get_stage("stage3").peft_config(bottleneck_size=4),
)
trainer.train()
trainer.evaluate()
trainer.save_model()
trainer.save_state()
"""


def train(path: Path, processes: int, kind: str) -> tuple[list[float], dict, dict[str, torch.Tensor]]:
    script = path.with_suffix(".py")
    script.write_text(SCRIPT)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    # The global batch is the same, however many processes share it.
    command = [*launcher, str(script), str(path), str(4 // processes), kind]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    history = json.loads((path / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluation = next(entry for entry in history if "eval_loss" in entry)
    return losses, evaluation, load_file(path / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", ["map", "stream"])
def test_two_processes_are_one(tmp_path, kind):
    losses, evaluation, weights = train(tmp_path / "one", 1, kind)
    shared_losses, shared_evaluation, shared_weights = train(tmp_path / "two", 2, kind)
    assert len(losses) == 4
    assert shared_losses == pytest.approx(losses, rel=1e-4)
    assert shared_evaluation["eval_exact_match"] == evaluation["eval_exact_match"]
    for name, value in weights.items():
        torch.testing.assert_close(shared_weights[name], value, rtol=1e-3, atol=1e-5, msg=name)
