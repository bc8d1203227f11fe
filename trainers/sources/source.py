"""What a source of training data is: its files, how a record becomes rows, what is asked of each, and its weight."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from processing_lion import LEVELS, format_prompt
from trainers.record import Record


if TYPE_CHECKING:
    from trainers.sources.inputs import Inputs


SPLITS = ("train", "validation")


@dataclass
class Sample:
    """
    A row as a reader makes it: without its wording, its image not looked for yet.

    Args:
        id (`str`): Names the row within its source and kind, the same in every run.
        fields (`dict`): What the wording asks for: `question`, `choices`, `expression` or `box`.
        completion (`list[str]`): The answers it allows, of which each epoch picks one.
        image (`Any`): File name below the source's folder of images, or `{"bytes": ..., "path": ...}`. Not needed where
            `coco_id` names an image of COCO that is a file.
        coco_id (`int`, *optional*): Its image's number in COCO.
        kind (`str`): Which of the source's kinds of row it is.
    """

    id: str
    fields: dict[str, Any]
    completion: list[str]
    image: Any = None
    coco_id: int | None = None
    kind: str = ""


@dataclass(frozen=True)
class LeftOut:
    """
    A part of a record that makes no row, where others of it do.

    Args:
        reason (`str`): Why.
        rule (`bool`): Whether it is left out by the source's rule, so that it is counted under its reason. A fault of
            the data is named as well.
    """

    reason: str
    rule: bool = False


@dataclass(frozen=True)
class SourceForm:
    """
    One form in which people have a source: its authors' files, or a dataset on the Hub.

    Args:
        name (`str`): What reports call it.
        files (`Mapping[str, Mapping[str, str]]`): By split, the pattern of the file's name for each role; of several
            with `|` in between, the first that fits.
        records (`Callable`): `records(inputs, split)` yields the [`Record`]s of a split, always in the same order.
        samples (`Callable`): `samples(record)` yields its [`Sample`]s, and [`LeftOut`] for parts that make none;
            raises `ValueError` where nothing in it is usable.
        schema (`str`): Where the schema is documented.
        hub (`str`, *optional*): The Hub repository of a form that can be read from there.
        held_out_files (`Mapping[str, str]`): Files by role that tell which images of COCO benchmarks test on.
        held_out (`Callable`, *optional*): `held_out(inputs)` yields pairs of the split's name and an image's COCO id.
        note (`str`): What is special about it.
    """

    name: str
    files: Mapping[str, Mapping[str, str]]
    records: Callable[[Inputs, str], Iterator[Record]]
    samples: Callable[[Record], Iterable[Sample | LeftOut]]
    schema: str
    hub: str | None = None
    held_out_files: Mapping[str, str] = field(default_factory=dict)
    held_out: Callable[[Inputs], Iterator[tuple[str, int]]] | None = None
    note: str = ""


@dataclass(frozen=True)
class RowKind:
    """
    Rows of a source that are asked in the same way. Each kind has a folder of its own.

    Args:
        name (`str`): Empty where the source has one kind only.
        prompts (`tuple[str, ...]`): Wordings with the fields of the samples; a row always gets the same one of them.
        prompt_source (`str`): Where the wordings come from.
        level (`str`): `"image_level"` or `"region_level"`.
        expected (`Mapping[str, int]`): Published number of rows by split, before anything is left out.
        exact (`bool`): Whether `expected` is exact.
        splits (`tuple[str, ...]`): Splits in which there are rows of this kind.
    """

    name: str
    prompts: tuple[str, ...]
    prompt_source: str
    level: str
    expected: Mapping[str, int]
    exact: bool = True
    splits: tuple[str, ...] = ("train",)

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {self.level!r:.100}")

    @property
    def weight(self) -> float:
        """Share in the mixture: InstructBLIP's rule (arXiv 2305.06500, 2.3), by the root of its rows in thousands."""
        return round(math.sqrt(self.expected["train"] / 1000), 1)

    def prompt(self, identifier: str, fields: Mapping[str, Any]) -> str:
        """The instruction of a row; its name decides on the wording."""
        wording = self.prompts[zlib.crc32(identifier.encode()) % len(self.prompts)]
        if "choices" in fields:  # how choices are written down is known there
            return format_prompt("vqa_choices", **fields)
        return wording.format_map(fields)


@dataclass(frozen=True)
class TrainingSource:
    """
    A source of training data, as data.

    Args:
        name (`str`): As on the command line; also the folder of its annotations and of its rows.
        title (`str`): As in papers.
        stage (`str`): The stage that is trained on it.
        kinds (`tuple[RowKind, ...]`): Its kinds of row.
        forms (`tuple[SourceForm, ...]`): The forms it is read from, the preferred one first.
        folders (`tuple[str, ...]`): Names of the folder of its annotations. Capitals and separators do not matter.
        image_folders (`tuple[str, ...]`): Names of the folder of its images, of which `folders` are looked at as well.
        homepage (`str`): Where the files come from.
        licence (`str`): Of annotations and images.
        left_out (`str`): What is left out, besides images of benchmarks and broken ones, and why.
        augment (`bool`): Whether images may be cropped and flipped while training.
    """

    name: str
    title: str
    stage: str
    kinds: tuple[RowKind, ...]
    forms: tuple[SourceForm, ...]
    folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    homepage: str
    licence: str
    left_out: str
    augment: bool = True

    def kind(self, name: str) -> RowKind:
        """The kind of that name."""
        return next(kind for kind in self.kinds if kind.name == name)

    def row_folder(self, kind: str) -> str:
        """The folder of the rows of a kind, relative to the output."""
        return f"{self.name}/{kind}" if kind else self.name

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of which there are rows."""
        return tuple(split for split in SPLITS if any(split in kind.splits for kind in self.kinds))
