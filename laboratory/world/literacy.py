"""
Batches for the language model of a staged nano, which learns to read and write from text and symbols alone.

What is asked is in [`~laboratory.world.text_tasks`]. Exercises are made once, on all cores, and kept as numbers; a
batch draws from them by the shares of the tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
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

_PROMPT_WIDTH, _LABEL_WIDTH, _SYMBOLS = 64, 24, 8
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
        task = self.arrays.pop("task")
        self.rows = {name: np.flatnonzero(task == number) for number, name in enumerate(_TASKS)}
        answer = (self.arrays["labels"] != _IGNORED_LABEL).sum(1)
        self.lengths = np.stack([self.arrays["length"], self.arrays["symbol_mask"].sum(1), answer], axis=1)

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

    @classmethod
    def load(cls, path: Path) -> ExercisePool:
        """A pool that [`save`] has written."""
        return cls(load_file(path))

    def save(self, path: Path) -> None:
        """Write the exercises to a safetensors file."""
        task = np.empty(len(self.lengths), dtype=np.int16)
        for number, rows in enumerate(self.rows.values()):
            task[rows] = number
        save_file({**self.arrays, "task": task}, path)

    def shares(self) -> np.ndarray:
        """Shares of a batch by task; they add up to 1."""
        wanted = np.array([share if len(self.rows[name]) else 0 for name, share in TASK_SHARES.items()])
        return wanted / wanted.sum()

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Numbers of `size` rows."""
        counts = rng.multinomial(size, self.shares())
        return np.concatenate(
            [self.rows[name][rng.integers(len(self.rows[name]), size=n)] for name, n in zip(_TASKS, counts) if n]
        )

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The rows as [`~laboratory.world.text_tasks.encode_exercises`] gives them."""
        prompt, symbols, answer = self.lengths[rows].max(0)
        of_symbols = slice(_SYMBOLS - symbols, None)  # they are padded in front
        widths = {"input_ids": slice(prompt), "labels": slice(answer)}
        chosen = {name: torch.from_numpy(values[rows]) for name, values in self.arrays.items()}
        length = chosen.pop("length").long()
        batch = {
            name: values[:, widths.get(name, of_symbols)].to(torch.float32 if name == "symbol_place" else torch.int64)
            for name, values in chosen.items()
        }
        batch["attention_mask"] = (torch.arange(prompt) < length[:, None]).long()
        return batch


def cut_by_length(lengths: np.ndarray, parts: int) -> list[np.ndarray]:
    """
    Cut rows into parts that need little padding: of all cuts of one of the parts, each is the one that saves most.

    Args:
        lengths (`np.ndarray` of shape `(rows, kinds)`): Tokens of each kind; a part is as wide as its longest of each.
        parts (`int`): How many parts, at most.

    Returns:
        `list[np.ndarray]`: Numbers of the rows of each part.
    """
    found = [(*_best_cut(lengths), np.arange(len(lengths)))]
    while len(found) < parts:
        saved, first, rows = found.pop(max(range(len(found)), key=lambda number: found[number][0]))
        if saved <= 0:
            found.append((saved, first, rows))
            break
        found += [(*_best_cut(lengths[half]), half) for half in (rows[first], rows[~first])]
    return [rows for _, _, rows in found]


def _best_cut(lengths: np.ndarray) -> tuple[int, np.ndarray]:
    """Tokens saved by the best cut in two, and which rows are in its first part."""
    best = 0, np.ones(len(lengths), dtype=bool)
    whole = len(lengths) * int(lengths.max(0).sum())
    for kind in range(lengths.shape[1]):
        for limit in np.unique(lengths[:, kind])[:-1]:
            first = lengths[:, kind] <= limit
            cost = sum(len(part) * int(part.max(0).sum()) for part in (lengths[first], lengths[~first]))
            best = max(best, (whole - cost, first), key=lambda cut: cut[0])
    return best


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
        first = width - values.shape[1] if name.startswith("symbol_") else 0
        whole[:, first : first + values.shape[1]] = values
        return whole

    return {
        "input_ids": padded("input_ids", _PROMPT_WIDTH),
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
        parts (`int`): How many parts a batch is read in, each of exercises alike in length: the more there are, the
            less is padded, and the more often the model is called. What is learnt is the same.
    """

    def __init__(self, pool: ExercisePool, num_batches: int, rows: int, seed: int = 0, parts: int = 1):
        self.pool, self.num_batches, self.rows, self.seed, self.parts = pool, num_batches, rows, seed, parts

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> dict[str, dict[str, torch.Tensor]]:
        drawn = self.pool.draw(np.random.default_rng([self.seed, index]), self.rows)
        parts = cut_by_length(self.pool.lengths[drawn], self.parts)
        return {f"part_{number}": self.pool.batch(drawn[rows]) for number, rows in enumerate(parts)}


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
        """The parts of a batch, however it was cut."""
        weights = {name: (part["labels"] != _IGNORED_LABEL).sum(1) ** 0.5 for name, part in parts.items()}
        total = sum(weight.sum() for weight in weights.values())
        return {"loss": sum(self._loss(weights[name], **part) for name, part in parts.items()) / total}

    def _loss(self, weights: torch.Tensor, labels: torch.Tensor, **batch: torch.Tensor) -> torch.Tensor:
        inputs = encoder_inputs(self.lion, self.vocabulary, batch)
        read = self.lion.language_model.prepare_decoder_input_ids_from_labels(labels)
        logits = self.lion.language_model(**inputs, decoder_input_ids=read).logits
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none").view(labels.shape)
        return (losses.sum(1) / weights).sum()
