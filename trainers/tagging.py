"""Tags for many images: from a folder or a data set, through the tagger, into JSON Lines or a data set's column."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from datasets import Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_lion.tagger_lion import LionTagger
from processing_lion.image_loading_lion import load_image
from processing_lion.image_processing_lion import LionImageProcessor
from trainers.resumable_jsonl import ResumableJsonl


logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_DATA_FILES = {".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class Tagger(LionTagger):
    """A tagger on this process's accelerator."""

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, device: str | torch.device | None = None, **kwargs: Any
    ) -> Self:
        """
        As [`LionTagger.from_pretrained`].

        Args:
            name_or_path (`str` or `os.PathLike`): a tagger, or a LION checkpoint with one; directory or Hub repository.
            device (`str` or `torch.device`, *optional*): by default this process's accelerator, else the CPU.

        Raises:
            OSError: there is no tagger at that place.
            ValueError: there is no such device.
        """
        tagger = super().from_pretrained(name_or_path, **kwargs)
        try:
            tagger.model.to(device or _process_state().device)
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"device {device!r} cannot be used: {error}") from error
        return tagger


def _process_state() -> PartialState:
    # Processes on CPUs find one another only if they are told that it is CPUs.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU", not torch.accelerator.is_available()))


class ImageFolder:
    """
    All images below a folder, sorted by their path; hidden files and folders are left out.

    `names` are paths relative to the folder, with forward slashes. As `file_name` they are what the `imagefolder`
    builder of `datasets` reads from a `metadata.jsonl` in that folder.

    Raises:
        ValueError: there is no image.
    """

    key = "file_name"

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.names: Sequence[str] = sorted(_find_images(self.folder))
        if not self.names:
            raise ValueError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")

    def __getitem__(self, index: int) -> Path:
        return self.folder / self.names[index]

    def to_dataset(self) -> Dataset:
        """A data set of the same order with the column `image`."""
        paths = [str(self.folder / name) for name in self.names]
        return Dataset.from_dict({"image": paths}, features=Features({"image": Image()}))


def _find_images(folder: Path) -> Iterator[str]:
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield (Path(directory) / name).relative_to(folder).as_posix()


class ImageFiles:
    """
    Images by their path; these are the `names`.

    Args:
        paths (`Iterable[str]`): Each path once.
    """

    key = "path"

    def __init__(self, paths: Iterable[str]) -> None:
        self.names: Sequence[str] = list(paths)

    def __getitem__(self, index: int) -> str:
        return self.names[index]


class ImageColumn:
    """
    The images in one column of a data set: decoded images, or paths or URLs as strings. `names` are row numbers.

    Args:
        dataset (`Dataset`): the data set.
        column (`str`, *optional*): by default the one column of images.

    Raises:
        ValueError: there is no such column, or none or several to choose from.
    """

    key = "row"

    def __init__(self, dataset: Dataset, column: str | None = None) -> None:
        self.dataset = dataset
        self.column = _choose_column(dataset, column)
        self.names: Sequence[int] = range(len(dataset))
        self._values = dataset.select_columns([self.column]).with_format(None)
        if isinstance(dataset.features[self.column], Image):
            # Undecoded, so that a broken image is one row's problem.
            self._values = self._values.cast_column(self.column, Image(decode=False))

    def __getitem__(self, index: int) -> Any:
        value = self._values[index][self.column]
        if isinstance(value, dict):
            return value["path"] if value["bytes"] is None else value["bytes"]
        return value

    def to_dataset(self) -> Dataset:
        """The data set itself."""
        return self.dataset


def _choose_column(dataset: Dataset, column: str | None) -> str:
    texts = (Value("string"), Value("large_string"))
    usable = [name for name, kind in dataset.features.items() if isinstance(kind, Image) or kind in texts]
    if column is not None:
        if column not in usable:
            raise ValueError(
                f"image_column {column!r} is no column of images or paths; the data set has {dataset.features}"
            )
        return column
    images = [name for name in usable if isinstance(dataset.features[name], Image)]
    images = images or [name for name in usable if name == "image"]
    if len(images) != 1:
        raise ValueError(
            f"image_column must be given: of the columns {dataset.column_names}, {images or 'none'} hold images"
        )
    return images[0]


def open_images(
    source: str | os.PathLike,
    split: str | None = None,
    image_column: str | None = None,
    subset: str | None = None,
) -> ImageFolder | ImageColumn:
    """
    Open a folder of images or a data set.

    A directory that holds images is read as a folder of images, unless `split`, `image_column` or `subset` is given.
    Else the source is a data set: a directory written by `save_to_disk`, a data file (arrow, csv, json, parquet) or a
    directory of these, or a Hub name.

    Args:
        source (`str`): path or Hub name.
        split (`str`, *optional*): split of the data set; needed if it has several.
        image_column (`str`, *optional*): its column of images; needed if it has several.
        subset (`str`, *optional*): its configuration, where it has several.

    Raises:
        ValueError, OSError: nothing fitting is there.
    """
    path = Path(source)
    if path.is_dir() and split is image_column is subset is None and any(_find_images(path)):
        return ImageFolder(path)
    return ImageColumn(_load_split(str(source), split, subset), image_column)


def _load_split(source: str, split: str | None, subset: str | None) -> Dataset:
    path = Path(source)
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            dataset = load_from_disk(source)
            if split is not None and isinstance(dataset, DatasetDict):
                dataset = dataset.get(split, dataset)
        elif path.is_file():
            if path.suffix not in _DATA_FILES:
                raise ValueError(f"{source}: expected a folder, a data set or a file of {sorted(_DATA_FILES)}")
            dataset = load_dataset(_DATA_FILES[path.suffix], data_files=source, split=split)
        elif not path.exists() and (path.is_absolute() or source.startswith((".", "~"))):
            raise FileNotFoundError(f"there is no folder or file {source}")
        else:
            dataset = load_dataset(source, subset, split=split)
    except DatasetsError as error:
        raise ValueError(f"{source} could not be read as a data set: {error}") from error
    if isinstance(dataset, Dataset):
        return dataset
    if split is None and len(dataset) == 1:
        return next(iter(dataset.values()))
    raise ValueError(f"split must be one of {list(dataset)}, got {split!r}")


@dataclass
class TaggingReport:
    """
    What a run did, over all processes.

    Args:
        tagged (`int`): images tagged now.
        present (`int`): images that an earlier run had tagged.
        broken (`list`): names of the images that could not be read.
    """

    tagged: int = 0
    present: int = 0
    broken: list[str | int] = field(default_factory=list)


class _Preprocessed(torch.utils.data.Dataset):
    """Names with pixel values, or with the reason why there are none."""

    def __init__(
        self, images: ImageFolder | ImageColumn | ImageFiles, indices: list[int], processor: LionImageProcessor
    ) -> None:
        self.images = images
        self.indices = indices
        self.processor = processor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[str | int, torch.Tensor | str]:
        index = self.indices[position]
        try:
            image = load_image(self.images[index])
        except (OSError, TypeError, ValueError) as error:
            return self.images.names[index], str(error)
        return self.images.names[index], self.processor(image, return_tensors="pt")["pixel_values"][0]


def tag_images(
    tagger: Tagger,
    images: ImageFolder | ImageColumn | ImageFiles,
    output: str | os.PathLike,
    *,
    language: str = "en",
    tags_column: str = "tags",
    batch_size: int = 16,
    num_workers: int = 0,
) -> TaggingReport:
    """
    Tag images into a JSON Lines file: `{"file_name": "a/b.jpg", "tags": ["cat", "sofa"]}`; `"row": 7` for a data set.

    Images that the file already holds are skipped, so that an interrupted run goes on where it stopped. An image that
    cannot be read is logged by name and left out. Under `accelerate launch` each process takes its share.

    Args:
        tagger (`Tagger`): the tagger.
        images (`ImageFolder`, `ImageColumn` or `ImageFiles`): the images.
        output (`str`): the file.
        language (`str`): `"en"` or `"zh"`.
        tags_column (`str`): the field for the tags.
        batch_size (`int`): images per forward pass of each process.
        num_workers (`int`): worker processes that read and preprocess images; 0 for none.

    Returns:
        [`TaggingReport`].

    Raises:
        ValueError: `output` exists and is no such file, an argument does not fit, or no image at all could be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if tags_column == images.key:
        raise ValueError(f"tags_column must not be {images.key!r}, the field that names an image")
    state = _process_state()
    file = ResumableJsonl(output, images.key, [tags_column], state.process_index, state.num_processes)
    if state.is_main_process:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.recover()
    state.wait_for_everyone()
    present = {record[images.key] for record in file.records()}
    waiting = [index for index, name in enumerate(images.names) if name not in present]

    tagged, broken = 0, []
    share = waiting[state.process_index :: state.num_processes]
    loader = DataLoader(
        _Preprocessed(images, share, tagger.image_processor),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    with tqdm(total=len(share), unit="image", disable=not state.is_main_process) as progress:
        for batch in loader:
            readable = [(name, pixels) for name, pixels in batch if isinstance(pixels, torch.Tensor)]
            for name, reason in batch:
                if isinstance(reason, str):
                    logger.warning("skipped %s=%s: %s", images.key, name, reason)
                    broken.append(name)
            if readable:
                tags = tagger.tag_pixel_values(torch.stack([pixels for _, pixels in readable]), language)
                file.append(
                    {images.key: name, tags_column: image_tags}
                    for (name, _), image_tags in zip(readable, tags, strict=True)
                )
            tagged += len(readable)
            progress.update(len(batch))

    report = TaggingReport(
        tagged=sum(gather_object([tagged])),
        present=len(images.names) - len(waiting),
        broken=sorted(gather_object(broken)),
    )
    state.wait_for_everyone()
    if state.is_main_process:
        file.join(images.names)
    state.wait_for_everyone()
    if report.broken and not report.tagged + report.present:
        raise ValueError(f"none of the {len(report.broken)} images could be read")
    return report


def tag_to_dataset(
    tagger: Tagger,
    images: ImageFolder | ImageColumn,
    directory: str | os.PathLike,
    *,
    tags_column: str = "tags",
    **options: Any,
) -> TaggingReport:
    """
    Tag images into a data set for `datasets.load_from_disk`: the rows of the source with a column of tags, a list of
    strings each. Rows whose image cannot be read are left out.

    Until it is complete, the tags lie in `DIRECTORY.tags.jsonl`, from which an interrupted run goes on.

    Args:
        tagger, images: as in [`tag_images`].
        directory (`str`): where to write; must not exist.
        tags_column (`str`): name of the new column.
        options: the other arguments of [`tag_images`].

    Raises:
        ValueError: the directory or the column exists already, or as in [`tag_images`].
    """
    directory = Path(directory)
    dataset = images.to_dataset()
    if directory.exists():
        raise ValueError(f"{directory} exists already")
    if tags_column in dataset.column_names:
        raise ValueError(f"tags_column {tags_column!r} is a column of the data set already")
    progress = directory.with_name(f"{directory.name}.tags.jsonl")
    report = tag_images(tagger, images, progress, tags_column=tags_column, **options)
    state = _process_state()
    if state.is_main_process:
        tags = {record[images.key]: record[tags_column] for record in ResumableJsonl(progress, images.key).records()}
        rows = [index for index, name in enumerate(images.names) if name in tags]
        column = [tags[images.names[index]] for index in rows]
        feature = Features({tags_column: [Value("string")]})[tags_column]
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        dataset.select(rows).add_column(tags_column, column, feature=feature).save_to_disk(partial)
        partial.rename(directory)
        progress.unlink()
    state.wait_for_everyone()
    return report


__all__ = [
    "IMAGE_SUFFIXES",
    "ImageColumn",
    "ImageFiles",
    "ImageFolder",
    "Tagger",
    "TaggingReport",
    "open_images",
    "tag_images",
    "tag_to_dataset",
]
