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
    EXPECTED_COLUMNS,
    BadRowError,
    BadRows,
    TooManyBadRowsError,
    find_encoding_problem,
    find_text_problem,
    is_address,
    open_image,
    read_exchange,
    read_image_source,
    read_tags,
)


logger = logging.getLogger(__name__)

_IGNORED_LABEL = -100


class LionDataCollator:
    """
    Makes a batch of prompt-completion rows.

    A row has `image` (anything `load_image` takes, or undecoded `datasets.Image`) or `images` (a list of one), `prompt`
    and `completion` (strings, or TRL's conversational lists; several strings as `completion` are alternatives) or
    `messages` (of which the exchange number `turn`, or the last, is the row: LION has no memory of turns). It may have
    `tags` (a string or a list of strings; None means no tag sentence), `level` (`"image_level"`, `"region_level"` or
    `"auto"`), `augment` (bool, over what the level says), `source` and `index`.

    A row that turns out to be unusable is recorded in `bad_rows`. Its place in the batch stays, with an empty picture
    and no label, so that it has no part in the loss and every process keeps its number of batches.

    Args:
        processor ([`LionProcessor`]): Makes tensors.
        augmentation ([`Augmentation`], *optional*): None for evaluation.
        augmented_levels (`Collection[str]`, *optional*): Levels whose rows are augmented.
        seed (`int`, *optional*): With the epoch and a row's source and index, it alone decides about its augmentation:
            neither order nor number of earlier rows matters.
        bad_rows ([`BadRows`], *optional*): Skips and logs by default.
        allow_private_addresses (`bool`, *optional*):
            Whether an address in a row may lead to one that is not public; see `load_image`.
    """

    def __init__(
        self,
        processor: Any,
        augmentation: Augmentation | None = None,
        augmented_levels: Collection[str] = ("image_level",),
        seed: int = 42,
        bad_rows: BadRows | None = None,
        allow_private_addresses: bool | None = None,
    ):
        unknown = set(augmented_levels) - set(LEVELS)
        if unknown:
            raise ValueError(f"`augmented_levels` must be among {list(LEVELS)}, got {sorted(unknown)}.")
        self.processor = processor
        self.augmentation = augmentation
        self.augmented_levels = frozenset(augmented_levels)
        self.seed = seed
        self.bad_rows = bad_rows or BadRows()
        self.allow_private_addresses = allow_private_addresses
        self._fetched_sources: set[str] = set()
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

    def find_problem(self, row: Mapping[str, Any]) -> str | None:
        """What is wrong with a row, or None. Nothing is recorded."""
        try:
            self._open(row)
        except Exception as error:
            return _describe(error)
        return None

    def _read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        source = row.get("source") or "rows"
        index = row.get("index")
        if index is None:
            index = _fingerprint(row)
        try:
            example = self._open(row)
            prompt, completions, image = example["prompt"], example["completions"], example["image"]
            completion = completions[0]
            if self.augmentation is not None:
                name = zlib.crc32(str(source).encode("utf-8", "surrogatepass"))
                turn = [row["turn"]] if row.get("turn") else []
                rng = np.random.default_rng([self.seed, int(self._epoch), name, index, row.get("position") or 0, *turn])
                completion = completions[int(rng.integers(len(completions)))]
                augment = row.get("augment")
                if example["level"] in self.augmented_levels if augment is None else augment:
                    image, (prompt, completion) = self.augmentation(image, [prompt, completion], rng)
        except (BadRowError, TooManyBadRowsError):
            raise
        # Whatever is bad in it, it is one row's problem: a run of days must not end at one of a million images.
        except Exception as error:
            self.bad_rows.report(source, index, _describe(error))
            return _UNUSABLE
        self.bad_rows.accept(source)
        return {**example, "image": image, "prompt": prompt, "completion": completion, "unusable": False}

    def _open(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if row.get("messages") is None and not {"prompt", "completion"} <= set(row):
            raise ValueError(f"has the columns {sorted(row)}; expected {EXPECTED_COLUMNS}")
        prompt, completions = read_exchange(row)
        level = row.get("level") or (row["task"] if row.get("task") in LEVELS else "auto")
        tags = read_tags(row.get("tags"))
        problem = find_text_problem(prompt, completions, level) or find_encoding_problem("tags", tags)
        if problem is not None:
            raise ValueError(problem)
        image = read_image_source(row)
        if is_address(image):
            self._say_that_images_are_fetched(str(row.get("source") or "rows"), image)
        return {
            "image": open_image(image, self.allow_private_addresses),
            "prompt": prompt,
            "completions": completions,
            "tags": tags,
            "level": infer_level(prompt) if level == "auto" else level,
        }

    def _say_that_images_are_fetched(self, source: str, address: Any) -> None:
        if source not in self._fetched_sources:
            self._fetched_sources.add(source)
            address = address["path"] if isinstance(address, Mapping) else address
            logger.warning("Images of %r are fetched from addresses in its rows, the first: %.200s", source, address)


def _describe(error: Exception) -> str:
    # Our own say what the row has or lacks; those of others are named with their kind.
    return str(error) if type(error) is ValueError else f"cannot be read: {type(error).__name__}: {error}"


def _fingerprint(row: Mapping[str, Any]) -> int:
    """Tells rows of a dataset that nobody numbered apart by what they say."""
    try:
        prompt, completions = read_exchange(row)
    except Exception:
        prompt, completions = str(sorted(row)), []
    return zlib.crc32("\0".join([prompt, *completions]).encode("utf-8", "surrogatepass"))


_UNUSABLE = {
    "image": PIL.Image.new("RGB", (32, 32)),
    "prompt": "",
    "tags": None,
    "level": "image_level",
    "completion": "",
    "unusable": True,
}
