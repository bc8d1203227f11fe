"""
A training step of `LionSFTTrainer` beside a bare PyTorch loop over the same model and batch: time and peak memory.

As a program (`python -m laboratory.speed.training`), a few steps of one of the two, for its peak memory.
"""

import argparse
import dataclasses
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from configuration_lion.configuration_lion import LEVELS
from laboratory.speed.measurement import Figure, median_ratio, synchronize
from laboratory.speed.session import Session
from laboratory.speed.sizes import Sizes, make_inputs, make_lion
from processing_lion.image_processing_lion import LionImageProcessor
from processing_lion.processing_lion import LionProcessor
from processing_lion.prompts_lion import SOFT_PROMPT_TOKEN
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import STAGES, get_stage


logger = logging.getLogger(__name__)

_LEARNING_RATE = 1e-4
_MAX_GRAD_NORM = 1.0
_MEMORY_STEPS = 3


def measure_training_step(session: Session) -> None:
    """Seconds of a step, for what each stage trains; the two take turns, step by step, on one model."""
    cases = {f"training-step/{stage}": stage for stage in STAGES}
    for name in session.wanted(*cases):
        stage = cases[name]
        logger.info("%s (%s)", name, session.key)
        model, batch = _make_model_and_batch(session.sizes, stage, session.device, session.dtype)
        bare_step = make_bare_step(model, batch, session.device)
        turns = _TakeTurns(bare_step, session.device)
        with tempfile.TemporaryDirectory() as directory:
            trainer = make_trainer(model, batch, stage, session.repeats + 1, directory, session.device, [turns])
            trainer.train()
        candidate, reference = turns.trainer_seconds[1:], turns.bare_seconds[1:]
        session.add(
            Figure(
                name=name,
                title=f"step of `LionSFTTrainer` : bare loop, {stage}, batch {session.sizes.training_batch_size}",
                value=median_ratio(candidate, reference),
                target=1.05,
                seconds={"LionSFTTrainer": statistics.median(candidate), "bare loop": statistics.median(reference)},
                rounds={"LionSFTTrainer": candidate, "bare loop": reference},
                details={"load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None},
            )
        )


def measure_training_memory(session: Session) -> None:
    """Peak memory of a few steps, each of the two in processes of its own that import the same."""
    cases = {f"training-memory/{stage}": stage for stage in STAGES}
    for name in session.wanted(*cases):
        rounds: dict[str, list[float]] = {"LionSFTTrainer": [], "bare loop": []}
        losses = {}
        for _ in range(min(session.repeats, 2)):
            for label, peaks in rounds.items():
                result = _run_alone(session, cases[name], bare=label == "bare loop")
                peaks.append(result["peak_memory_mib"])
                losses[label] = result["losses"]
                logger.info("    %s: %.1f MiB", label, peaks[-1])
        if session.dtype == torch.float32:
            torch.testing.assert_close(*map(torch.tensor, losses.values()), rtol=1e-4, atol=1e-4)
        session.add(
            Figure(
                name=name,
                title=f"peak memory of {_MEMORY_STEPS} steps, `LionSFTTrainer` : bare loop, {cases[name]}",
                value=median_ratio(*rounds.values()),
                target=1.0,
                details={"peak_memory_mib": {k: statistics.median(v) for k, v in rounds.items()}, "losses": losses},
                rounds=rounds,
            )
        )


def make_bare_step(model: nn.Module, batch: dict[str, torch.Tensor], device: str) -> Callable[[], torch.Tensor]:
    """What a hand-written loop would do in a step: AdamW without decay on vectors, clipped gradients, a schedule."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=_LEARNING_RATE, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def step() -> torch.Tensor:
        model.train()
        loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, _MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def make_trainer(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    stage: str,
    steps: int,
    directory: str,
    device: str,
    callbacks: list[TrainerCallback],
) -> LionSFTTrainer:
    """A trainer whose every batch is `batch`."""
    batch_size = len(batch["labels"])
    args = LionSFTConfig(
        output_dir=directory,
        stage=stage,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=_LEARNING_RATE,
        weight_decay=0.01,
        max_grad_norm=_MAX_GRAD_NORM,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        save_strategy="no",
        plots=False,
        bf16=False,
        use_cpu=device == "cpu",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = datasets.Dataset.from_dict(
        {"prompt": ["what?"] * steps * batch_size, "completion": ["this"] * steps * batch_size}
    )
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    trainer = LionSFTTrainer(
        model,
        args,
        train_dataset=rows,
        processing_class=_make_processor(),
        data_collator=lambda rows: dict(batch),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _TakeTurns(TrainerCallback):
    """Lets a bare step follow every step of the trainer, and times both; what the trainer does in between is its."""

    def __init__(self, bare_step: Callable[[], Any], device: str):
        self.bare_step, self.device = bare_step, device
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.started = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        ended = self._now()
        self.trainer_seconds.append(ended - self.started)
        self.bare_step()
        self.bare_seconds.append(self._now() - ended)
        logger.info("    step %d: %.3f s, %.3f s", state.global_step, self.trainer_seconds[-1], self.bare_seconds[-1])
        self.started = self._now()

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def _make_model_and_batch(
    sizes: Sizes, stage: str, device: str, dtype: torch.dtype
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A LION of both branches with what `stage` trains, and a batch on the CPU, where data loaders leave it."""
    model = make_lion(sizes, LEVELS, device=device, dtype=dtype)
    get_stage(stage).freeze(model)
    batch_size = sizes.training_batch_size
    batch = make_inputs(sizes, batch_size, "cpu", dtype)
    generator = torch.Generator().manual_seed(2)
    batch["labels"] = torch.randint(2, sizes.vocab_size - 2, (batch_size, sizes.answer_tokens), generator=generator)
    levels = get_stage(stage).levels
    batch["level_ids"] = torch.tensor([LEVELS.index(levels[row % len(levels)]) for row in range(batch_size)])
    return model, batch


def _make_processor() -> LionProcessor:
    """The trainer wants one, but the batch is made already."""

    def tokenizer(*words: str) -> PreTrainedTokenizerFast:
        vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
        tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="</s>"
        )

    return LionProcessor(LionImageProcessor(), tokenizer(SOFT_PROMPT_TOKEN), tokenizer())


def _run_alone(session: Session, stage: str, bare: bool) -> dict[str, Any]:
    settings = {
        "sizes": dataclasses.asdict(session.sizes),
        "stage": stage,
        "bare": bare,
        "device": session.device,
        "dtype": session.dtype_name,
        "threads": session.threads,
    }
    process = subprocess.run(
        [sys.executable, "-m", "laboratory.speed.training", json.dumps(settings)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        raise RuntimeError(f"Training in a process of its own failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


class _RecordLosses(TrainerCallback):
    """Seeds the first step, and keeps what the model's forward gives at each."""

    def __init__(self, model: nn.Module):
        self.losses: list[torch.Tensor] = []
        model.register_forward_hook(lambda module, args, outputs: self.losses.append(outputs["loss"].detach()))

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            torch.manual_seed(3)


def _peak_memory_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main(arguments: list[str] | None = None) -> None:
    """Take some steps, and print the peak memory and the losses as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("settings", type=json.loads, help="what `_run_alone` says, as JSON")
    settings = parser.parse_args(arguments).settings
    torch.set_num_threads(settings["threads"])
    stage, device = settings["stage"], settings["device"]
    model, batch = _make_model_and_batch(Sizes(**settings["sizes"]), stage, device, getattr(torch, settings["dtype"]))
    recorder = _RecordLosses(model)
    if settings["bare"]:
        step = make_bare_step(model, batch, device)
        torch.manual_seed(3)
        for _ in range(_MEMORY_STEPS):
            step()
    else:
        with tempfile.TemporaryDirectory() as directory:
            make_trainer(model, batch, stage, _MEMORY_STEPS, directory, device, [recorder]).train()
    losses = [loss.item() for loss in recorder.losses]
    print(json.dumps({"peak_memory_mib": _peak_memory_mib(device), "losses": losses}))


if __name__ == "__main__":
    main()
