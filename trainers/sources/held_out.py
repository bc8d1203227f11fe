"""The images that benchmarks test on, which no source may train on."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trainers.record import RECORD_ERRORS, describe_problem
from trainers.sources.captioning import COCO_CAPTIONS
from trainers.sources.inputs import Inputs
from trainers.sources.locating import Locator, MissingFilesError
from trainers.sources.referring import REFCOCO, REFCOCO_PLUS, REFCOCOG
from trainers.sources.source import TrainingSource


logger = logging.getLogger(__name__)

HELD_OUT: Mapping[str, TrainingSource] = {
    "karpathy": COCO_CAPTIONS,
    "refcoco": REFCOCO,
    "refcoco_plus": REFCOCO_PLUS,
    "refcocog": REFCOCOG,
}
"""Benchmarks on COCO's images, with the source whose files say which of them they test on."""


@dataclass
class HeldOut:
    """
    COCO images that are kept out of training.

    Args:
        images (`dict[str, frozenset[int]]`): COCO ids by split, such as `"karpathy_test"` or `"refcoco_testA"`.
        origins (`dict[str, list[str]]`): The files that said so, by benchmark.
    """

    images: dict[str, frozenset[int]] = field(default_factory=dict)
    origins: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._splits: dict[int, str] = {}
        for name, images in self.images.items():
            for image in images:
                self._splits.setdefault(image, name)

    def split_of(self, coco_id: int | None) -> str | None:
        """The split that tests on an image; the first one, if several do."""
        return None if coco_id is None else self._splits.get(coco_id)

    @property
    def digest(self) -> str:
        """A number for these images."""
        text = repr(sorted((name, sorted(images)) for name, images in self.images.items()))
        return f"{zlib.crc32(text.encode()):08x}"


def parse_names(names: str) -> list[str]:
    """
    Benchmarks by name.

    Args:
        names (`str`): `"all"`, `"none"`, or names with commas between.

    Raises:
        ValueError: a name is unknown.
    """
    if names in ("all", "none"):
        return list(HELD_OUT) if names == "all" else []
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted or (unknown := [name for name in wanted if name not in HELD_OUT]):
        got = repr(unknown[0] if wanted else names)
        raise ValueError(f"`hold_out` must be 'all', 'none' or among {', '.join(HELD_OUT)}, got {got}")
    return wanted


def find_held_out(names: Iterable[str], locator: Locator) -> HeldOut:
    """
    Read which images benchmarks test on.

    Args:
        names (`Iterable[str]`): Keys of [`HELD_OUT`].
        locator (`Locator`): Where their files are.

    Raises:
        MissingFilesError: the files of one of them are not there, so that leakage could not be kept out.
        ValueError: a file cannot be used.
    """
    images: dict[str, set[int]] = {}
    origins: dict[str, list[str]] = {}
    for name in names:
        source = HELD_OUT[name]
        for form in source.forms:
            files = form.held_out and locator.find_files(source, form, form.held_out_files)
            if not files or form.held_out is None:
                continue
            origins[name] = [str(path) for paths in files.values() for path in paths]
            try:
                for split, coco_id in form.held_out(Inputs(files)):
                    images.setdefault(split, set()).add(coco_id)
            except RECORD_ERRORS as error:
                raise ValueError(f"{', '.join(origins[name])}: {describe_problem(error)}") from error
            break
        else:
            wanted = "; or ".join(
                " and ".join(form.held_out_files.values()) for form in source.forms if form.held_out is not None
            )
            wanted = wanted.replace("|", " or ")
            raise MissingFilesError(
                f"the images that {source.title} tests on are not known: no folder {' or '.join(source.folders)} below "
                f"{'the Hub' if locator.hub else locator.root} holds {wanted}. To train on them all the same, leave "
                f"{name!r} out of `hold_out`"
            )
    held_out = HeldOut({name: frozenset(ids) for name, ids in images.items()}, origins)
    for split, ids in held_out.images.items():
        logger.info("%s: %d images are held out", split, len(ids))
    return held_out
