"""From rows to the model's inputs: pictures are opened and augmented, texts go through the processor."""

import logging
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from configuration_lion import LEVELS
from processing_lion import infer_level
from trainers.augmentation import Augmentation
from trainers.rows import (
    BadRows,
    find_text_problem,
    open_image,
    read_completions,
    read_image_source,
    read_tags,
    read_text,
)


logger = logging.getLogger(__name__)

_IGNORED_LABEL = -100


class LionDataCollator:
    """
    Makes a batch of prompt-completion rows.

    A row has `image` (anything `load_image` takes, or undecoded `datasets.Image`) or `images` (a list of one), `prompt`
    and `completion` (strings, or TRL's conversational lists; several strings as `completion` are alternatives), and
    may have `tags` (a string or a list of strings; None means no tag sentence), `level` (`"image_level"`,
    `"region_level"` or `"auto"`), `augment` (bool, over what the level says), `source` and `index`.

    A row that turns out to be unusable is recorded in `bad_rows`. Its place in the batch stays, with an empty picture
    and no label, so that it has no part in the loss and every process keeps its number of batches.

    Args:
        processor ([`LionProcessor`]): Makes tensors.
        augmentation ([`Augmentation`], *optional*): None for evaluation.
        augmented_levels (`Collection[str]`, *optional*): Levels whose rows are augmented.
        seed (`int`, *optional*): With the epoch and a row's source and index, it alone decides about its augmentation:
            neither order nor number of earlier rows matters.
        bad_rows ([`BadRows`], *optional*): Skips and logs by default.
    """

    def __init__(
        self,
        processor: Any,
        augmentation: Augmentation | None = None,
        augmented_levels: Collection[str] = ("image_level",),
        seed: int = 42,
        bad_rows: BadRows | None = None,
    ):
        unknown = set(augmented_levels) - set(LEVELS)
        if unknown:
            raise ValueError(f"`augmented_levels` must be among {list(LEVELS)}, got {sorted(unknown)}.")
        self.processor = processor
        self.augmentation = augmentation
        self.augmented_levels = frozenset(augmented_levels)
        self.seed = seed
        self.bad_rows = bad_rows or BadRows()
        # Shared memory, so that the workers of a data loader see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; its crops, flips and choices differ from those of the others."""
        self._epoch.fill_(epoch)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Returns:
            What the processor returns, with `labels` (B, T) int64, -100 where there is nothing to learn.
        """
        examples = [self._read(row) for row in rows]
        batch = self.processor(
            images=[e["image"] for e in examples],
            text=[e["prompt"] for e in examples],
            tags=[e["tags"] for e in examples],
            level=[e["level"] for e in examples],
            answers=[e["completion"] for e in examples],
            return_tensors="pt",
        )
        for position, example in enumerate(examples):
            if example["unusable"]:
                batch["labels"][position] = _IGNORED_LABEL
        return dict(batch)

    def _read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        prompt, completions = read_text(row.get("prompt")), read_completions(row.get("completion"))
        level = row.get("level") or (row["task"] if row.get("task") in LEVELS else "auto")
        source = row.get("source") or "rows"
        # Rows of a data set that nobody numbered are told apart by what they say.
        index = row.get("index")
        if index is None:
            index = zlib.crc32("\0".join([prompt, *completions]).encode())
        try:
            problem = find_text_problem(prompt, completions, level)
            if problem is not None:
                raise ValueError(problem)
            image = open_image(read_image_source(row))
        except ValueError as error:
            self.bad_rows.report(source, index, str(error))
            return _UNUSABLE

        level = infer_level(prompt) if level == "auto" else level
        completion = completions[0]
        if self.augmentation is not None:
            name = zlib.crc32(str(source).encode())
            rng = np.random.default_rng([self.seed, int(self._epoch), name, index, row.get("position") or 0])
            completion = completions[int(rng.integers(len(completions)))]
            augment = row.get("augment")
            if level in self.augmented_levels if augment is None else augment:
                image, (prompt, completion) = self.augmentation(image, [prompt, completion], rng)
        return {
            "image": image,
            "prompt": prompt,
            "tags": read_tags(row.get("tags")),
            "level": level,
            "completion": completion,
            "unusable": False,
        }


_UNUSABLE = {
    "image": PIL.Image.new("RGB", (32, 32)),
    "prompt": "",
    "tags": None,
    "level": "image_level",
    "completion": "",
    "unusable": True,
}
