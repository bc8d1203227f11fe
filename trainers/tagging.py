"""Tags for many images: from a folder or a dataset, through the tagger, into JSON Lines or a dataset's column."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_lion.device_lion import default_device
from modeling_lion.extras_lion import needs_extra
from modeling_lion.tagger_lion import LionTagger
from processing_lion.image_loading_lion import load_image
from processing_lion.image_processing_lion import LionImageProcessor
from trainers.atomic import atomic_directory
from trainers.resumable_jsonl import ResumableJsonl
from trainers.rows import is_address


with needs_extra("train", "Tagging of folders and datasets"):
    from accelerate import PartialState
    from accelerate.utils import gather_object, parse_flag_from_env
    from datasets import Dataset, Features, Image, Value, load_from_disk
    from datasets.exceptions import DatasetsError

    from trainers.opening import FILE_FORMATS, open_dataset


logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)


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
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU", default_device().type == "cpu"))


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
        """A dataset of the same order with the column `image`."""
        paths = [str(self.folder / name) for name in self.names]
        return Dataset.from_dict({"image": paths}, features=Features({"image": Image()}))


def _find_images(folder: Path) -> Iterator[str]:
    # Linked folders are part of a collection, too; none is entered twice, so that a link upwards ends somewhere.
    entered = {os.path.realpath(folder)}
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(subfolders):
            real = os.path.realpath(os.path.join(directory, name))
            if not name.startswith(".") and real not in entered:
                entered.add(real)
                kept.append(name)
        subfolders[:] = kept
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
    The images in one column of a dataset: decoded images, or paths or URLs as strings. `names` are row numbers.

    Args:
        dataset (`Dataset`): the dataset.
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
        """The dataset itself."""
        return self.dataset


def _choose_column(dataset: Dataset, column: str | None) -> str:
    texts = (Value("string"), Value("large_string"))
    usable = [name for name, kind in dataset.features.items() if isinstance(kind, Image) or kind in texts]
    if column is not None:
        if column not in usable:
            raise ValueError(
                f"image_column {column!r} is no column of images or paths; the dataset has {dataset.features}"
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
    Open a folder of images or a dataset.

    A directory that holds images is read as a folder of images, unless `split`, `image_column` or `subset` is given.
    Else the source is a dataset: a directory written by `save_to_disk`, a data file (arrow, csv, json, parquet) or a
    directory of these, or a Hub name.

    Args:
        source (`str`): path or Hub name.
        split (`str`, *optional*): split of the dataset; needed if it has several.
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
        if path.is_file() and path.suffix not in FILE_FORMATS:
            raise ValueError(f"{source}: expected a folder, a dataset or a file of {sorted(FILE_FORMATS)}")
        dataset = open_dataset(source, subset, split)
    except DatasetsError as error:
        raise ValueError(f"{source} could not be read as a dataset: {error}") from error
    if isinstance(dataset, Dataset):
        return dataset
    if split is None and len(dataset) == 1:
        return next(iter(dataset.values()))
    raise ValueError(f"split must be one of {list(dataset)}, got {split!r:.100}")


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
    thresholds: float | Sequence[float] | None = None,
    scores_column: str | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
) -> TaggingReport:
    """
    Tag images into a JSON Lines file: `{"file_name": "a/b.jpg", "tags": ["cat", "sofa"]}`; `"row": 7` for a dataset.

    Images that the file already holds are skipped, so that an interrupted run goes on where it stopped. An image that
    cannot be read is logged by name and left out. Under `accelerate launch` each process takes its share.

    Args:
        tagger (`Tagger`): the tagger.
        images (`ImageFolder`, `ImageColumn` or `ImageFiles`): the images.
        output (`str`): the file.
        language (`str`): `"en"` or `"zh"`.
        tags_column (`str`): the field for the tags.
        thresholds (`float` or one for each tag, *optional*): in place of the tagger's own.
        scores_column (`str`, *optional*): a field for the tags' probabilities, in the order of the tags.
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
    columns = [tags_column] if scores_column is None else [tags_column, scores_column]
    state = _process_state()
    file = ResumableJsonl(output, images.key, columns, state.process_index, state.num_processes)
    if state.is_main_process:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.recover()
    state.wait_for_everyone()
    present = {record[images.key] for record in file.records()}
    waiting = [index for index, name in enumerate(images.names) if name not in present]

    if state.is_main_process and waiting and is_address(images[waiting[0]]):
        logger.warning("Images are fetched from addresses in the dataset, the first: %.200s", images[waiting[0]])
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
                pixel_values = torch.stack([pixels for _, pixels in readable])
                found: Any = (
                    [(tags,) for tags in tagger.tag_pixel_values(pixel_values, language, thresholds)]
                    if scores_column is None
                    else [
                        (list(scores), [round(score, 4) for score in scores.values()])
                        for scores in tagger.score_pixel_values(pixel_values, language, thresholds)
                    ]
                )
                file.append(
                    {images.key: name, **dict(zip(columns, values))}
                    for (name, _), values in zip(readable, found, strict=True)
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
    scores_column: str | None = None,
    **options: Any,
) -> TaggingReport:
    """
    Tag images into a dataset for `datasets.load_from_disk`: the rows of the source with a column of tags, a list of
    strings each. Rows whose image cannot be read are left out.

    Until it is complete, the tags lie in `DIRECTORY.tags.jsonl`, from which an interrupted run goes on.

    Args:
        tagger, images: as in [`tag_images`].
        directory (`str`): where to write; must not exist.
        tags_column (`str`): name of the new column.
        scores_column (`str`, *optional*): name of a new column of the tags' probabilities.
        options: the other arguments of [`tag_images`].

    Raises:
        ValueError: the directory or the column exists already, or as in [`tag_images`].
    """
    directory = Path(directory)
    dataset = images.to_dataset()
    progress = directory.with_name(f"{directory.name}.tags.jsonl")
    if directory.exists():
        if not progress.exists():
            raise ValueError(f"{directory} exists already")
        # The run that wrote it ended between its last two steps.
        return _finish_dataset(directory, progress, images, tags_column)
    columns = [name for name in (tags_column, scores_column) if name is not None]
    for name, column in zip(("tags_column", "scores_column"), columns):
        if column in dataset.column_names:
            raise ValueError(f"{name} {column!r} is a column of the dataset already")
    report = tag_images(tagger, images, progress, tags_column=tags_column, scores_column=scores_column, **options)
    state = _process_state()
    if state.is_main_process:
        records = {record[images.key]: record for record in ResumableJsonl(progress, images.key).records()}
        rows = [index for index, name in enumerate(images.names) if name in records]
        tagged = dataset.select(rows)
        for column, kind in zip(columns, ("string", "float32")):
            values = [records[images.names[index]][column] for index in rows]
            tagged = tagged.add_column(column, values, feature=Features({column: [Value(kind)]})[column])
        with atomic_directory(directory) as partial:
            tagged.save_to_disk(partial)
        progress.unlink()
    state.wait_for_everyone()
    return report


def _finish_dataset(
    directory: Path, progress: Path, images: ImageFolder | ImageColumn, tags_column: str
) -> TaggingReport:
    """Clean up behind a dataset that is complete: written elsewhere and renamed, its progress not yet removed."""
    records = ResumableJsonl(progress, images.key).records()
    try:
        written = load_from_disk(str(directory))
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory} exists already and is no dataset ({error})") from error
    if not isinstance(written, Dataset) or tags_column not in written.column_names or len(written) != len(records):
        raise ValueError(f"{directory} exists already, and is not the dataset whose tags are in {progress}")
    state = _process_state()
    state.wait_for_everyone()
    if state.is_main_process:
        progress.unlink()
    present = {record[images.key] for record in records}
    return TaggingReport(present=len(present), broken=[name for name in images.names if name not in present])


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
