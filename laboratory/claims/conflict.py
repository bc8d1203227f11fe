"""
Whether image-level and region-level tasks pull the weights that they share in opposite directions.

Cosines between mean gradients of the two levels, part by part, along a training on both at once; beside them what two
samples of one and the same level give, since gradients of few samples are noisy. A conflict is a cosine below zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from laboratory.world.dataset import LEVELS
from modeling_lion.modeling_lion import LionForConditionalGeneration
from trainers.atomic import read_json, write_json
from trainers.stages import AGGREGATOR_PARTS, Q_FORMER_PARTS


PARTS = {
    "Q-Former": Q_FORMER_PARTS,
    "aggregator": AGGREGATOR_PARTS,
    "adapters": ("language_model.",),
}
"""Parts of the model, by the beginnings of their parameters' names."""

CONFLICT = "conflict.json"
"""Cosines between the levels' gradients, beside a model that was trained on both at once."""

_ROWS, _BATCH = 128, 64
_TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def share_adapters(model: LionForConditionalGeneration) -> None:
    """Fix every router at one for all adapters and levels: together they are one adapter that both levels share."""
    for name, parameter in model.named_parameters():
        if name.endswith(".router_ratios"):
            torch.nn.init.ones_(parameter)


def part_of(name: str) -> str | None:
    """The part that a parameter belongs to."""
    return next((part for part, starts in PARTS.items() if name.startswith(starts)), None)


def gradients(
    model: LionForConditionalGeneration, collate: Callable[[Sequence[dict]], dict], rows: Sequence[dict]
) -> dict[str, torch.Tensor]:
    """Mean gradient of a loss over rows, as one vector for each part; the model's own gradients are cleared."""
    device = next(model.parameters()).device
    model.zero_grad()
    for start in range(0, len(rows), _BATCH):
        chosen = rows[start : start + _BATCH]
        batch = {name: value.to(device) for name, value in collate(chosen).items()}
        (model(**batch).loss * (len(chosen) / len(rows))).backward()
    found: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part is not None and parameter.grad is not None and not name.endswith(".router_ratios"):
            found.setdefault(part, []).append(parameter.grad.flatten().clone())
    model.zero_grad()
    return {part: torch.cat(vectors) for part, vectors in found.items()}


def cosines_between_levels(
    model: LionForConditionalGeneration,
    collate: Callable[[Sequence[dict]], dict],
    halves: Mapping[tuple[str, int], Sequence[dict]],
) -> dict[str, dict[str, float]]:
    """
    Cosines by part and pair (`"between levels"`, and each level with itself).

    Args:
        model: The model as it is in training.
        collate: Makes a batch of rows.
        halves: Rows by level and by number, 0 or 1: two samples of each level.
    """
    was_training = model.training
    model.eval()  # no dropout: two samples of one level differ by their rows alone
    found = {half: gradients(model, collate, rows) for half, rows in halves.items()}
    model.train(was_training)
    pairs = {
        "between levels": (("image_level", 0), ("region_level", 0)),
        **{level: ((level, 0), (level, 1)) for level in LEVELS},
    }
    return {
        part: {
            pair: torch.cosine_similarity(found[one][part], found[other][part], dim=0).item()
            for pair, (one, other) in pairs.items()
        }
        for part in PARTS
        if part in found["image_level", 0]
    }


class GradientCosines(TrainerCallback):
    """
    Measures cosines along a training and keeps them in `conflict.json`.

    Args:
        model ([`LionForConditionalGeneration`]): The model that is trained.
        collate (`Callable`): Makes a batch of rows.
        rows (`Sequence[dict]`): The training's rows, of both levels; the last of each level are measured on.
        steps (`int`): The training's steps.
        directory (`Path`): Where the file goes.
    """

    def __init__(self, model: Any, collate: Any, rows: Sequence[dict], steps: int, directory: Path):
        self.model, self.collate, self.path = model, collate, directory / CONFLICT
        self.steps = {round(time * steps): time for time in _TIMES}
        self.halves: dict[tuple[str, int], list[dict]] = {}
        for level in LEVELS:
            of_level = [row for row in rows if row["level"] == level][-2 * _ROWS :]
            self.halves[level, 0], self.halves[level, 1] = of_level[::2], of_level[1::2]

    def on_train_begin(self, args, state, control, **kwargs):
        """Measure before the first step."""
        if state.global_step == 0:
            self._measure(0)

    def on_step_end(self, args, state, control, **kwargs):
        """Measure at the steps that were chosen."""
        if state.global_step in self.steps:
            self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        known = read_json(self.path) if self.path.is_file() else {}
        known[str(self.steps[step])] = cosines_between_levels(self.model, self.collate, self.halves)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, known)
