"""Which images of benchmarks are in a training set: by their number in COCO, and by what they look like."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from tqdm import tqdm

from lion_multimodal.evaluation.benchmark import Benchmark, Example
from lion_multimodal.evaluation.rows import DataUnavailableError, load_image, read_examples
from trainers.resumable_jsonl import ResumableJsonl
from trainers.sources.images import perceptual_hash, read_coco_id, walk_files


logger = logging.getLogger(__name__)

MOST_DIFFERENT_BITS = 4
"""Images whose hashes differ in at most so many of their 64 bits count as the same."""

_AT_ONCE = 256
_ROW_SUFFIXES = (".parquet", ".jsonl", ".tar")


@dataclass(frozen=True)
class TrainingImage:
    """
    An image of a training set.

    Attributes:
        name: its path, or another name within the set.
        coco_id: its number in COCO, if it is known to be there.
        content: what to open: a path, bytes, or `None` where it is not there.
    """

    name: str
    coco_id: int | None
    content: Any


@dataclass
class Overlap:
    """
    What a benchmark has in common with a training set.

    Attributes:
        benchmark: its name.
        images: its images.
        with_coco_id: those of them that are known to be COCO's.
        by_coco_id: those of them that the training set has by their number in COCO.
        by_hash: those that look like one of its images.
        not_hashed: those that could not be read or have no contrast to compare.
        found: each of them: `{"image": ..., "training_image": ..., "by": ["coco_id", "hash"], "bits": ...}`.
        error: why the benchmark was not compared.
    """

    benchmark: str
    images: int = 0
    with_coco_id: int = 0
    by_coco_id: int = 0
    by_hash: int = 0
    not_hashed: int = 0
    found: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None


class TrainingSet:
    """
    The images of a training set, by their number in COCO and by their hash.

    Args:
        images: the images; those of the same name, or of the same number in COCO, count once.
        hashes: JSON Lines file of hashes that an earlier run has made, and that this one adds to.
    """

    def __init__(self, images: Iterable[TrainingImage], hashes: str | os.PathLike) -> None:
        self.coco_ids: dict[int, str] = {}
        self.count = 0
        self.unreadable = 0
        names: list[str] = []
        values: list[int] = []
        for name, value in self._hashes(images, ResumableJsonl(hashes, "image", ["hash"])):
            if value is not None:
                names.append(name)
                values.append(value)
        self.names = names
        self.values = np.array(values, dtype=np.uint64)

    def _hashes(self, images: Iterable[TrainingImage], file: ResumableJsonl) -> Iterator[tuple[str, int | None]]:
        file.recover()
        known = {record["image"]: record["hash"] for record in file.records()}
        distinct = self._distinct(images)
        bar = tqdm(desc="training images", unit="image", disable=not sys.stderr.isatty(), leave=False)
        with ThreadPoolExecutor() as threads, bar:
            while batch := list(islice(distinct, _AT_ONCE)):
                missing = [image for image in batch if image.name not in known]
                made = dict(zip((image.name for image in missing), threads.map(_hash, missing)))
                file.append({"image": name, "hash": value} for name, value in made.items())
                for image in batch:
                    value = known.get(image.name) if image.name in known else made[image.name]
                    self.count += 1
                    self.unreadable += value is None
                    yield image.name, None if value is None else int(value, 16)
                bar.update(len(batch))

    def _distinct(self, images: Iterable[TrainingImage]) -> Iterator[TrainingImage]:
        names: set[str] = set()
        for image in images:
            if image.coco_id is not None and image.coco_id in self.coco_ids:
                continue
            if image.coco_id is not None:
                self.coco_ids[image.coco_id] = image.name
            if image.name not in names:
                names.add(image.name)
                yield image

    def find(self, value: int) -> tuple[str, int] | None:
        """The image whose hash is most like this one, and in how many bits it differs, if those are few enough."""
        if not len(self.values):
            return None
        differences = _count_bits(self.values ^ np.uint64(value))
        nearest = int(differences.argmin())
        bits = int(differences[nearest])
        return (self.names[nearest], bits) if bits <= MOST_DIFFERENT_BITS else None


_BITS = np.array([bin(number).count("1") for number in range(1 << 16)], dtype=np.uint8)


def _count_bits(values: np.ndarray) -> np.ndarray:
    return _BITS[values.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.uint8)


def _hash(image: TrainingImage) -> str | None:
    if image.content is None:
        return None
    try:
        with PIL.Image.open(io.BytesIO(image.content) if isinstance(image.content, bytes) else image.content) as opened:
            value = perceptual_hash(opened)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        logger.warning("%s is not compared: %s", image.name, error)
        return None
    return None if value is None else f"{value:016x}"


def read_training_images(data: str) -> Iterator[TrainingImage]:
    """
    The images of a training set.

    Args:
        data: the folder that `lion data prepare` wrote, of whose rows those of training count; a file of such rows
            (.parquet, .jsonl, .tar); or anything that `lion tag` takes, such as a folder of images or a dataset.

    Raises:
        ValueError, OSError: there is none.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        files = [file for file in walk_files(path) if file.name.startswith("train-") and file.suffix in _ROW_SUFFIXES]
        if files:
            return (image for file in files for image in _read_rows(file, path))
    if path.is_file() and path.suffix in _ROW_SUFFIXES:
        return _read_rows(path, path.parent)
    return _read_dataset(data)


def _read_rows(file: Path, root: Path) -> Iterator[TrainingImage]:
    if file.suffix == ".tar":
        yield from _read_tar(file)
        return
    for row in _parquet_rows(file) if file.suffix == ".parquet" else _jsonl_rows(file):
        source = row.get("image")
        if isinstance(source, dict):
            source = source.get("bytes") or source.get("path")
        if isinstance(source, str):
            place = root / source  # which is `source` itself where that is absolute
            yield TrainingImage(str(place), _coco_id(row, source), str(place) if place.is_file() else None)
        elif isinstance(source, bytes):
            coco_id = _coco_id(row, "")
            yield TrainingImage(f"{file}:{row['number']}", coco_id, source)


def _coco_id(row: dict[str, Any], name: str) -> int | None:
    return row["coco_id"] if isinstance(row.get("coco_id"), int) else read_coco_id(name)


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        if "image" not in names:
            raise ValueError(f"{file} has no column `image`; its columns are {names}")
        number = 0
        for batch in table.iter_batches(_AT_ONCE, columns=[name for name in ("image", "coco_id") if name in names]):
            for row in batch.to_pylist():
                yield {**row, "number": number}
                number += 1


def _jsonl_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number + 1} is no JSON: {error}") from error
            if isinstance(row, dict):
                yield {**row, "number": number}


def _read_tar(file: Path) -> Iterator[TrainingImage]:
    """A shard of WebDataset: an image and what is known of it stand beside each other."""
    stem, content, coco_id = "", None, None
    with tarfile.open(file) as tar:
        for member in tar:
            name, _, kind = member.name.partition(".")
            if name != stem and content is not None:
                yield TrainingImage(f"{file}:{stem}", coco_id, content)
                content, coco_id = None, None
            stem = name
            opened = tar.extractfile(member)
            if opened is None:
                continue
            if kind in ("jpg", "jpeg", "png", "webp"):
                content = opened.read()
            elif kind == "coco_id.txt":
                coco_id = int(opened.read() or 0) or None
    if content is not None:
        yield TrainingImage(f"{file}:{stem}", coco_id, content)


def _read_dataset(data: str) -> Iterator[TrainingImage]:
    from trainers.tagging import open_images

    images = open_images(data)
    for index, name in enumerate(images.names):
        content = images[index]
        if isinstance(content, str | Path):
            yield TrainingImage(str(content), read_coco_id(str(content)), content if Path(content).is_file() else None)
        else:
            yield TrainingImage(f"{data}:{name}", None, content if isinstance(content, bytes) else None)


def find_overlap(
    benchmarks: Sequence[Benchmark],
    data: str,
    output: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
) -> list[Overlap]:
    """
    Compare the images of benchmarks with those of a training set; writes `overlap.json` into the output.

    Args:
        benchmarks: the benchmarks.
        data: the training set, as for [`read_training_images`].
        output: folder for the result, and for the hashes of the training set, which another run needs not make again.
        data_dir: as in [`read_examples`].
        limit: as in [`read_examples`].

    Raises:
        ValueError, OSError: the training set cannot be read or has no image.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    training = TrainingSet(read_training_images(data), output / "overlap_hashes.jsonl")
    if not training.count:
        raise ValueError(f"{data} has no image")
    if training.unreadable:
        logger.warning("%d of %d training images are compared by number only", training.unreadable, training.count)
    overlaps = []
    for benchmark in benchmarks:
        try:
            examples = read_examples(benchmark, data_dir, limit)
        except DataUnavailableError as error:
            overlaps.append(Overlap(benchmark.name, error=str(error)))
            continue
        overlaps.append(_compare(benchmark.name, examples, training))
    result = {
        "training_set": data,
        "training_images": training.count,
        "training_images_of_coco": len(training.coco_ids),
        "training_images_not_hashed": training.unreadable,
        "most_different_bits": MOST_DIFFERENT_BITS,
        "benchmarks": [asdict(overlap) for overlap in overlaps],
    }
    (output / "overlap.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    return overlaps


def _compare(name: str, examples: Sequence[Example], training: TrainingSet) -> Overlap:
    overlap = Overlap(name)
    seen: set[str] = set()
    for example in tqdm(examples, f"{name}: comparing", unit="row", leave=False, disable=not sys.stderr.isatty()):
        if example.image_id in seen:
            continue
        seen.add(example.image_id)
        overlap.images += 1
        coco_id = example.coco_id if example.coco_id is not None else _example_coco_id(example)
        overlap.with_coco_id += coco_id is not None
        by: list[str] = []
        training_image, bits = None, None
        if coco_id is not None and coco_id in training.coco_ids:
            by.append("coco_id")
            training_image = training.coco_ids[coco_id]
            overlap.by_coco_id += 1
        try:
            value = perceptual_hash(load_image(example))
        except ValueError as error:
            logger.warning("%s", error)
            value = None
        overlap.not_hashed += value is None
        nearest = None if value is None else training.find(value)
        if nearest is not None:
            by.append("hash")
            overlap.by_hash += 1
            bits = nearest[1]
            training_image = training_image or nearest[0]
        if by:
            overlap.found.append({"image": example.image_id, "training_image": training_image, "by": by, "bits": bits})
    return overlap


def _example_coco_id(example: Example) -> int | None:
    """By the name of its file, or by the name that the benchmark has for it."""
    image = example.image
    if isinstance(image, dict):
        image = image.get("path")
    names = (str(image) if isinstance(image, str | Path) else "", example.image_id)
    return next((found for name in names if (found := read_coco_id(name)) is not None), None)


def overlap_table(overlaps: Sequence[Overlap]) -> str:
    """The result as a table in Markdown."""
    lines = [
        "| benchmark | images | of COCO | in the training set by COCO id | by perceptual hash | either |",
        "|---|---|---|---|---|---|",
    ]
    for overlap in overlaps:
        if overlap.error is not None:
            lines.append(f"| {overlap.benchmark} | not compared: {overlap.error} | | | | |")
            continue
        counts = (overlap.images, overlap.with_coco_id, overlap.by_coco_id, overlap.by_hash, len(overlap.found))
        lines.append(f"| {overlap.benchmark} | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines)
