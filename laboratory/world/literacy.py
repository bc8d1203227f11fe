"""
Batches for the language model of a staged nano, which learns to read and write from text and symbols alone.

What is asked is in [`~laboratory.world.text_tasks`]. Exercises are made once, on all cores, and kept as numbers; a
batch draws from them by the shares of the tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from laboratory.world.dataset import LEVELS, MISSING_TAGS, WRONG_TAGS, ask, noisy_tags
from laboratory.world.scene import SPLITS, sample_scene
from laboratory.world.side_by_side import side_by_side
from laboratory.world.text_tasks import (
    SCENE_TASK_WEIGHTS,
    Exercise,
    SymbolVocabulary,
    encode_exercises,
    encoder_inputs,
    sample_exercises,
    scene_symbols,
)
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion.processing_lion import LionProcessor


TASK_SHARES = {
    "caption": 3,
    "color": 1,
    "object": 1,
    "count": 4,
    # Tasks that take comparing are learnt last: they are asked more often.
    "side": 4,
    "position": 4,
    "direction": 8,
    "relation": 10,
    "statement": 6,
    "existence": 4,
    # Each place in a list of a symbol is read in its own way, which takes the longest of all.
    "packed list": 13,
    "packed name": 4.2,
    "packed word": 2.8,
    "text list": 3.5,
    "text name": 3.5,
    "named numbers": 2.8,
    "named number": 1.4,
    "copy": 2.8,
    "larger": 2.8,
}
"""How often each task is asked, beside the others."""

PROMPT_WIDTHS = (24, 64)
"""Tokens of a prompt, short or long: those of a batch are read in two parts, since most are short."""

_LABEL_WIDTH, _SYMBOLS = 24, 8
_CHUNK = 128
_QUESTIONS = 5
_TAGGED = 0.1
_IGNORED_LABEL = -100
_TASKS = tuple(TASK_SHARES)


class ExercisePool:
    """
    Exercises as numbers.

    Args:
        arrays (`Mapping[str, np.ndarray]`): What [`make_exercises`] gives, or several of them behind one another.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = dict(arrays)
        task, width = self.arrays.pop("task"), np.searchsorted(PROMPT_WIDTHS, arrays["length"])
        self.rows = [
            {name: np.flatnonzero((task == number) & (width == part)) for number, name in enumerate(_TASKS)}
            for part in range(len(PROMPT_WIDTHS))
        ]

    @classmethod
    def make(
        cls,
        processor: LionProcessor,
        num_scenes: int,
        first_scene: int,
        num_slots: int,
        most_objects: int | None = None,
        processes: int | None = None,
    ) -> ExercisePool:
        """Five questions about each of `num_scenes` scenes, and as many exercises without a scene."""
        calls = [
            (processor, start, min(_CHUNK, first_scene + num_scenes - start), num_slots, most_objects)
            for start in range(first_scene, first_scene + num_scenes, _CHUNK)
        ]
        parts = list(side_by_side(make_exercises, calls, processes))
        return cls({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def shares(self) -> np.ndarray:
        """Shares of a batch by width and task, so that every task has its share; they add up to 1."""
        counts = np.array([[len(rows[name]) for name in _TASKS] for rows in self.rows], dtype=float)
        wanted = np.where(counts.sum(0) > 0, list(TASK_SHARES.values()), 0)
        return counts / np.maximum(counts.sum(0), 1) * wanted / wanted.sum()

    def draw(self, rng: np.random.Generator, size: int) -> list[np.ndarray]:
        """Numbers of `size` rows, those of each width by themselves."""
        counts = rng.multinomial(size, self.shares().flatten()).reshape(len(PROMPT_WIDTHS), -1)
        return [
            np.concatenate(
                [rows[name][rng.integers(len(rows[name]), size=n)] for name, n in zip(_TASKS, row) if n] or [[]]
            )
            for rows, row in zip(self.rows, counts)
        ]

    def batch(self, rows: np.ndarray, width: int) -> dict[str, torch.Tensor]:
        """The rows as [`~laboratory.world.text_tasks.encode_exercises`] gives them, prompts `width` tokens long."""
        chosen = {name: torch.from_numpy(values[rows]) for name, values in self.arrays.items()}
        length = chosen.pop("length").long()
        batch = {name: values if name == "symbol_place" else values.long() for name, values in chosen.items()}
        batch["input_ids"] = batch["input_ids"][:, :width]
        batch["attention_mask"] = (torch.arange(width) < length[:, None]).long()
        return batch


def make_exercises(
    processor: LionProcessor, first_scene: int, num_scenes: int, num_slots: int, most_objects: int | None
) -> dict[str, np.ndarray]:
    """Exercises of some scenes of the training split, and as many without a scene, as arrays of fixed widths."""
    rng = np.random.default_rng([0, first_scene])
    tasks = [task for task in LEVELS["image_level"] for _ in range(SCENE_TASK_WEIGHTS[task])]
    plain: list[Exercise] = []
    tagged: list[Exercise] = []
    tags: list[Sequence[str]] = []
    for seed in SPLITS["train"][first_scene : first_scene + num_scenes]:
        scene = sample_scene(seed, most_objects=most_objects)
        symbols = scene_symbols(scene, num_slots)
        asked = [Exercise(item.prompt, item.completion, symbols, item.task) for item in ask(scene, tasks, _QUESTIONS)]
        if rng.random() < _TAGGED:
            tagged += asked
            tags += [noisy_tags(scene, MISSING_TAGS, WRONG_TAGS)] * len(asked)
        else:
            plain += asked
    others = [item for _ in range(num_scenes) for item in sample_exercises(rng, _QUESTIONS)]
    parts = [
        _fixed_width(encode_exercises(processor, exercises, given), exercises)
        for exercises, given in ((plain, None), (tagged, tags), (others, None))
        if exercises
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _fixed_width(batch: Mapping[str, torch.Tensor], exercises: Sequence[Exercise]) -> dict[str, np.ndarray]:
    def padded(name: str, width: int, fill: int = 0, dtype: type = np.int16) -> np.ndarray:
        values = batch[name].numpy()
        whole = np.full((len(values), width, *values.shape[2:]), fill, dtype=dtype)
        whole[:, : values.shape[1]] = values
        return whole

    return {
        "input_ids": padded("input_ids", PROMPT_WIDTHS[-1]),
        "length": batch["attention_mask"].sum(1).numpy().astype(np.int16),
        "labels": padded("labels", _LABEL_WIDTH, _IGNORED_LABEL),
        "symbol_words": padded("symbol_words", _SYMBOLS),
        "symbol_numbers": padded("symbol_numbers", _SYMBOLS, -1),
        "symbol_place": padded("symbol_place", _SYMBOLS, dtype=np.float32),
        "symbol_slot": padded("symbol_slot", _SYMBOLS),
        "symbol_mask": padded("symbol_mask", _SYMBOLS),
        "task": np.array([_TASKS.index(item.task) for item in exercises], dtype=np.int16),
    }


class LiteracyBatches(Dataset):
    """
    Batches of a pool; number i is always the same.

    Args:
        pool ([`ExercisePool`]): The exercises.
        num_batches (`int`): How many batches there are.
        rows (`int`): Exercises of a batch.
        seed (`int`): Decides, with its number, what is in a batch.
    """

    def __init__(self, pool: ExercisePool, num_batches: int, rows: int, seed: int = 0):
        self.pool, self.num_batches, self.rows, self.seed = pool, num_batches, rows, seed

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> dict[str, dict[str, torch.Tensor]]:
        drawn = self.pool.draw(np.random.default_rng([self.seed, index]), self.rows)
        names = (f"prompts_of_{width}" for width in PROMPT_WIDTHS)
        return {
            name: self.pool.batch(rows, width) for name, rows, width in zip(names, drawn, PROMPT_WIDTHS) if len(rows)
        }


class LiteracyTeacher(nn.Module):
    """
    Teaches the language model from a batch of [`LiteracyBatches`].

    The loss is the mean cross-entropy of the tokens of the answers, where an answer of n tokens weighs as much as
    sqrt(n): a caption counts more than a yes, but does not drown it.
    """

    def __init__(self, lion: LionForConditionalGeneration, vocabulary: SymbolVocabulary):
        super().__init__()
        self.lion, self.vocabulary = lion, vocabulary

    def forward(self, **parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parts of a batch, which each count by their exercises."""
        total = sum(len(part["labels"]) for part in parts.values())
        return {"loss": sum(self._loss(**part) * (len(part["labels"]) / total) for part in parts.values())}

    def _loss(self, labels: torch.Tensor, **batch: torch.Tensor) -> torch.Tensor:
        inputs = encoder_inputs(self.lion, self.vocabulary, batch)
        logits = self.lion.language_model(**inputs, labels=labels).logits
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none").view(labels.shape)
        lengths = (labels != _IGNORED_LABEL).sum(1)
        return (losses.sum(1) * lengths**-0.5).sum() / (lengths**0.5).sum()
