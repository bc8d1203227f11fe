"""From the files of a source to the rows of a recipe: in a stream, resumable, no image of a benchmark among them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainers.atomic import write_json, write_text
from trainers.record import RECORD_ERRORS, Record, describe_problem
from trainers.rows import find_text_problem
from trainers.sources.held_out import HeldOut, find_held_out, parse_names
from trainers.sources.images import ImageIndex, find_image_problem, image_bytes
from trainers.sources.inputs import Inputs
from trainers.sources.locating import Locator, MissingFilesError
from trainers.sources.shards import FORMATS, Shards
from trainers.sources.source import LeftOut, Sample, SourceForm, TrainingSource


logger = logging.getLogger(__name__)

REPORTS = "reports"
IMAGES = "images"
CHECKS = ("decode", "exists")
_LOGGED = 20
# If so many images are missing and none was found, none will be.
_HOPELESS = 1000


class NoImagesError(RuntimeError):
    """None of a source's images is there. No `ValueError`, which would be taken for one of a record."""


@dataclass
class SplitReport:
    """
    What became of a split of a source.

    Args:
        files (`list[str]`): What was read.
        records (`int`): Records of the files that were read.
        rows (`dict[str, int]`): Rows that were written, by kind.
        held_out (`dict[str, int]`): Rows that were left out because a benchmark tests on their image, by its split.
        held_out_images (`int`): How many images that were.
        missing_images, broken_images (`int`): Images that are not there or cannot be read.
        without_image (`int`): Rows that were left out because of that.
        by_rule (`dict[str, int]`): Rows that were left out by the source's own rules.
        unusable (`int`): Records, or parts of them, that make no row.
        done (`bool`): Whether the split is complete.
    """

    files: list[str] = field(default_factory=list)
    records: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    held_out: dict[str, int] = field(default_factory=dict)
    held_out_images: int = 0
    missing_images: int = 0
    broken_images: int = 0
    without_image: int = 0
    by_rule: dict[str, int] = field(default_factory=dict)
    unusable: int = 0
    done: bool = False


@dataclass
class SourceReport:
    """
    What became of a source; `reports/NAME.json` in the output.

    Args:
        name (`str`): The source.
        form (`str`): The form that it was read from.
        settings (`dict`): What it was prepared with; another run goes on only with the same.
        splits (`dict[str, SplitReport]`): By split.
        expected (`dict[str, dict[str, int]]`): Published numbers of rows by kind and split.
    """

    name: str
    form: str
    settings: dict[str, Any]
    splits: dict[str, SplitReport] = field(default_factory=dict)
    expected: dict[str, dict[str, int]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report in words."""
        lines = []
        for split, report in self.splits.items():
            written = ", ".join(
                f"{count:,} rows{f' of {kind}' if kind else ''} (published: {self._published(kind, split)})"
                for kind, count in report.rows.items()
            )
            left_out = [f"{count:,} rows of {name}'s images" for name, count in report.held_out.items()]
            if report.held_out:
                left_out[-1] += f" ({report.held_out_images:,} images in all)"
            if report.without_image:
                broken = f"{report.missing_images:,} missing and {report.broken_images:,} broken images"
                left_out.append(f"{report.without_image:,} rows of {broken}")
            left_out += [f"{count:,} {reason}" for reason, count in report.by_rule.items()]
            if report.unusable:
                left_out.append(f"{report.unusable:,} unusable records")
            lines.append(f"{self.name} ({split}): {written or 'no rows'}; left out: {', '.join(left_out) or 'nothing'}")
        return lines

    def _published(self, kind: str, split: str) -> str:
        expected = self.expected.get(kind, {}).get(split)
        return "unknown" if expected is None else f"{expected:,}"


def prepare(
    sources: Sequence[TrainingSource],
    root: str | os.PathLike,
    output: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    hold_out: str = "all",
    format: str = "parquet",
    check_images: str = "decode",
    shard_rows: int = 100_000,
    skip_missing: bool = False,
    overwrite: bool = False,
) -> Iterator[SourceReport]:
    """
    Make the rows of sources, one source after the other. A run that was interrupted, however, goes on where it stopped.

    Args:
        sources (`Sequence[TrainingSource]`): What to prepare.
        root (`str` or `Path`): Folder with a folder for each source, or `"hub"`.
        output (`str` or `Path`): Folder for the rows: `NAME/train-00000.parquet`, `NAME/KIND/...` where a source has
            several kinds, `reports/NAME.json`, and `images/NAME/` for images that came within the files.
        images (`str` or `Path`, *optional*): Folder with the images. Defaults to `root`.
        hold_out (`str`): Benchmarks whose images are left out: `"all"`, `"none"` or names with commas between.
        format (`str`): `"parquet"`, `"jsonl"`, or `"webdataset"` (tar files that hold the images as well).
        check_images (`str`): `"decode"` reads every image once, `"exists"` only looks whether its file is there.
        shard_rows (`int`): Rows in a file; a run that was interrupted loses at most so many.
        skip_missing (`bool`): Whether sources whose files are not there are left out with a warning.
        overwrite (`bool`): Whether earlier results that were made otherwise are replaced.

    Yields:
        [`SourceReport`] of each source, when it is complete.

    Raises:
        ValueError: an argument is not right, files are missing or cannot be read, no image is there, or `output` holds
            rows that were made otherwise.
    """
    for name, value, allowed in (("format", format, tuple(FORMATS)), ("check_images", check_images, CHECKS)):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r:.100}")
    if shard_rows < 1:
        raise ValueError(f"`shard_rows` must be at least 1, got {shard_rows}")
    locator = Locator(root, images)
    found, missing = [], []
    for source in sources:
        try:
            found.append((source, locator.find_form(source)[0]))
        except MissingFilesError as error:
            missing.append(str(error))
    if missing and not (skip_missing and found):
        rest = "" if skip_missing else ". Prepare the others alone with `skip_missing`" if found else ""
        raise MissingFilesError(". ".join(missing) + rest)
    for message in missing:
        logger.warning("left out: %s", message)
    held_out = find_held_out(parse_names(hold_out), locator)
    for source, form in found:
        preparation = _Preparation(source, form, locator, held_out, Path(output), format, check_images, shard_rows)
        try:
            report = preparation.run(overwrite)
        except NoImagesError as error:
            raise ValueError(str(error)) from None
        yield report


class _Preparation:
    """One source on its way."""

    def __init__(
        self,
        source: TrainingSource,
        form: SourceForm,
        locator: Locator,
        held_out: HeldOut,
        output: Path,
        format: str,
        check: str,
        shard_rows: int,
    ) -> None:
        self.source = source
        self.form = form
        self.locator = locator
        self.held_out = held_out
        self.output = output.expanduser().absolute()
        self.format = format
        self.check = check
        self.shard_rows = shard_rows
        self.reports = self.output / REPORTS
        self.report_path = self.reports / f"{source.name}.json"
        files = {split: locator.find_files(source, form, patterns) for split, patterns in form.files.items()}
        self.files = {split: found for split, found in files.items() if found and split in source.splits}

    def run(self, overwrite: bool) -> SourceReport:
        state = self._load_state(overwrite)
        self.save_state(state)
        for split, files in self.files.items():
            if split not in state.splits or not state.splits[split].done:
                _SplitPreparation(self, state, split, files, self.locator.images(self.source)).run()
        for split in self.source.splits:
            if split not in self.files:
                logger.warning("%s: there are no files of %s", self.source.name, split)
        return state

    def _load_state(self, overwrite: bool) -> SourceReport:
        settings = {
            "files": {
                split: [_identity(path) for paths in files.values() for path in paths]
                for split, files in self.files.items()
            },
            "images": str(self.locator.image_root),
            "held_out": {name: len(ids) for name, ids in self.held_out.images.items()},
            "held_out_digest": self.held_out.digest,
            "held_out_files": self.held_out.origins,
            "format": self.format,
            "check_images": self.check,
            "shard_rows": self.shard_rows,
        }
        expected = {kind.name: dict(kind.expected) for kind in self.source.kinds}
        state = SourceReport(self.source.name, self.form.name, settings, expected=expected)
        if not self.report_path.is_file():
            return state
        earlier = json.loads(self.report_path.read_text(encoding="utf-8"))
        if earlier["settings"] == json.loads(json.dumps(settings)) and earlier["form"] == self.form.name:
            state.splits = {split: SplitReport(**report) for split, report in earlier["splits"].items()}
            return state
        changed = [name for name, value in settings.items() if earlier["settings"].get(name) != value]
        if not overwrite:
            raise ValueError(
                f"{self.output / self.source.name} holds rows that were prepared otherwise ({', '.join(changed)} "
                f"differ): overwrite them, or choose another `output`"
            )
        for path in [*self.reports.glob(f"{self.source.name}.*")]:
            path.unlink()
        for folder in (self.output / self.source.name, self.output / IMAGES / self.source.name):
            shutil.rmtree(folder, ignore_errors=True)
        return state

    def save_state(self, state: SourceReport) -> None:
        self.reports.mkdir(parents=True, exist_ok=True)
        write_json(self.report_path, asdict(state))


def _identity(path: Path) -> list[str | int]:
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


class _SplitPreparation:
    """One split of a source on its way."""

    def __init__(
        self,
        preparation: _Preparation,
        state: SourceReport,
        split: str,
        files: dict[str, list[Path]],
        index: ImageIndex,
    ) -> None:
        self.preparation = preparation
        self.source = preparation.source
        self.state = state
        self.split = split
        self.files = files
        self.index = index
        self.kinds = {kind.name: kind for kind in self.source.kinds if split in kind.splits}
        self.progress_path = preparation.reports / f"{self.source.name}.{split}.progress.json"
        self.left_out_path = preparation.reports / f"{self.source.name}.{split}.left_out.jsonl"
        self.images: dict[str | int, str | None] = {}
        self.held_out_ids: set[int] = set()
        self.logged = 0
        self._load_progress()

    def _load_progress(self) -> None:
        """What an interrupted run had finished: files of rows and counts belong together, and are kept at once."""
        self.shards: dict[str, Shards] = {}
        progress: dict[str, Any] = {"shards": {}, "left_out_bytes": 0, "held_out_ids": [], "bad_images": []}
        if self.progress_path.is_file():
            progress = json.loads(self.progress_path.read_text(encoding="utf-8"))
            self.report = SplitReport(**progress["report"])
            logger.info("%s (%s) goes on after record %d", self.source.name, self.split, self.report.records)
        else:
            files = [str(path) for paths in self.files.values() for path in paths]
            self.report = SplitReport(files=files, rows=dict.fromkeys(self.kinds, 0))
        self.state.splits[self.split] = self.report
        self.held_out_ids.update(progress["held_out_ids"])
        self.images.update(dict.fromkeys(progress["bad_images"]))
        for name in self.kinds:
            folder = self.preparation.output / self.source.row_folder(name)
            self.shards[name] = Shards(folder, self.split, self.preparation.format, progress["shards"].get(name, 0))
        self.left_out_path.touch()
        os.truncate(self.left_out_path, min(progress["left_out_bytes"], self.left_out_path.stat().st_size))

    def _save(self) -> None:
        for shards in self.shards.values():
            shards.finish()
        self.report.held_out_images = len(self.held_out_ids)
        progress = {
            "shards": {name: shards.count for name, shards in self.shards.items()},
            "left_out_bytes": self.left_out_path.stat().st_size,
            "held_out_ids": sorted(self.held_out_ids),
            "bad_images": [name for name, path in self.images.items() if path is None],
            "report": asdict(self.report),
        }
        write_text(self.progress_path, json.dumps(progress))
        self.preparation.save_state(self.state)
        rows = sum(self.report.rows.values())
        logger.info("%s (%s): %d records, %d rows", self.source.name, self.split, self.report.records, rows)

    def run(self) -> None:
        context = {"held_out": self.preparation.held_out.images}
        records = self.preparation.form.records(Inputs(self.files, context), self.split)
        done, saved = self.report.records, sum(self.report.rows.values())
        title = f"{self.source.name} ({self.split})"
        with tqdm(desc=title, unit="record", disable=not sys.stderr.isatty(), leave=False) as progress:
            try:
                for number, record in enumerate(records):
                    progress.update()
                    if number < done:
                        continue
                    self._read(record, number)
                    self.report.records = number + 1
                    rows = sum(self.report.rows.values())
                    if rows - saved >= self.preparation.shard_rows:
                        self._save()
                        saved = rows
                        progress.set_postfix(rows=rows)
            except BaseException:
                for shards in self.shards.values():
                    shards.abandon()
                raise
        if self.report.missing_images and not any(self.report.rows.values()):
            raise NoImagesError(self._no_images())
        self.report.done = True
        self._save()
        self.progress_path.unlink()

    def _read(self, record: Record, number: int) -> None:
        """The rows of a record, into the files of their kinds."""
        try:
            samples = list(self.preparation.form.samples(record))
        except RECORD_ERRORS as error:
            self._leave_out(number, describe_problem(error))
            return
        for sample in samples:
            if isinstance(sample, LeftOut):
                self._leave_out(number, sample.reason, sample.rule)
            elif sample.kind in self.kinds:
                row = self._row(sample, number)
                if row is not None:
                    self.shards[sample.kind].write(row)
                    self.report.rows[sample.kind] += 1

    def _row(self, sample: Sample, number: int) -> dict[str, Any] | None:
        tested_by = self.preparation.held_out.split_of(sample.coco_id) if self.split == "train" else None
        if tested_by is not None and sample.coco_id is not None:
            self.report.held_out[tested_by] = self.report.held_out.get(tested_by, 0) + 1
            self.held_out_ids.add(sample.coco_id)
            return None
        kind = self.kinds[sample.kind]
        prompt = kind.prompt(sample.id, sample.fields)
        problem = find_text_problem(prompt, sample.completion, kind.level)
        if problem is not None:
            self._leave_out(number, f"{sample.id} {problem}")
            return None
        image = self._image(sample, number)
        if image is None:
            self.report.without_image += 1
            return None
        return {
            "id": sample.id,
            "image": image,
            "prompt": prompt,
            "completion": sample.completion,
            "level": kind.level,
            "coco_id": sample.coco_id,
        }

    def _image(self, sample: Sample, number: int) -> Any:
        """What a row says of its image, or None where that is missing or broken."""
        content = image_bytes(sample.image)
        name = sample.image["path"] if isinstance(sample.image, Mapping) else sample.image
        key = sample.coco_id if name is None else name
        assert key is not None, f"a sample of {self.source.name} names no image"
        if key not in self.images:
            self.images[key] = self._locate(key, content, number)
        path = self.images[key]
        if self.preparation.format == "webdataset":
            return content if path is not None and content is not None else path
        return path

    def _locate(self, key: str | int, content: bytes | None, number: int) -> str | None:
        found: str | bytes | None = content
        if found is None:
            found = self.index.find(coco_id=key) if isinstance(key, int) else self.index.find(key)
        label = f"COCO's image {key}" if isinstance(key, int) else str(key)
        if found is None:
            self.report.missing_images += 1
            self._note(number, f"image is missing: {label}")
            self._give_up_without_images()
            return None
        problem = find_image_problem(found) if self.preparation.check == "decode" else None
        if problem is not None:
            self.report.broken_images += 1
            self._note(number, f"{problem} ({found if isinstance(found, str) else label})")
            return None
        if isinstance(found, bytes):
            return str(key) if self.preparation.format == "webdataset" else self._keep(str(key), found)
        output = self.preparation.output
        # Where the images lie beside the rows, both can be moved together.
        inside = self.preparation.format != "webdataset" and Path(found).is_relative_to(output)
        return str(Path(found).relative_to(output)) if inside else found

    def _keep(self, name: str, content: bytes) -> str:
        """Write an image that came within the files, once."""
        place = Path(IMAGES, self.source.name, re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_")
        path = self.preparation.output / place
        if not path.is_file() or path.stat().st_size != len(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            partial.write_bytes(content)
            os.replace(partial, path)
        return str(place)

    def _give_up_without_images(self) -> None:
        if self.report.missing_images == _HOPELESS and not any(self.report.rows.values()):
            raise NoImagesError(self._no_images())

    def _no_images(self) -> str:
        folders = ", ".join(map(str, self.index.folders)) or "no folder"
        return (
            f"{self.source.name}: none of its images is there, the first {self.report.missing_images:,} are missing. "
            f"Searched: {folders} ({len(self.index):,} images). Give the folder that holds them as `images`"
        )

    def _leave_out(self, number: int, reason: str, rule: bool = False) -> None:
        if rule:
            self.report.by_rule[reason] = self.report.by_rule.get(reason, 0) + 1
        else:
            self.report.unusable += 1
            self._note(number, reason)

    def _note(self, number: int, reason: str) -> None:
        """Name what is left out, in the report's file, and the first ones in the log."""
        with self.left_out_path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps({"record": number, "reason": reason}, ensure_ascii=False) + "\n")
        self.logged += 1
        if self.logged <= _LOGGED:
            logger.warning("%s (%s), record %d: %s", self.source.name, self.split, number, reason)
        elif self.logged == _LOGGED + 1:
            logger.warning("%s (%s): the others are named in %s", self.source.name, self.split, self.left_out_path)
