"""
Where answers go: a journal that survives being killed at any byte, of which the output is made when all is answered.

Beside `answers.jsonl` lie, until it is complete, the folder `answers.jsonl.journal/`, and then `answers.jsonl.run.json`
(what was asked how) and `answers.errors.jsonl` (what has no answer, if there is any).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from lion_multimodal.prediction.inputs import EXTRA
from lion_multimodal.prediction.runner import Batch
from modeling_lion.extras_lion import needs_extra
from trainers.atomic import atomic_directory, atomic_file, read_json, write_json
from trainers.json_lines import append_lines, encode_line


_SETTINGS = "settings.json"
_ROWS_AT_ONCE = 1024


class OtherSettingsError(ValueError):
    """The output belongs to another command."""


@dataclass
class Summary:
    """
    What a run came to.

    Args:
        answers (`int`): Questions with an answer.
        images (`int`): Images asked about; one that is asked about at several places of the inputs may count again.
        unreadable (`int`): Those of them that could not be read.
        unasked (`int`): Questions that could not be asked, of rows or with prompts that are not as they should be.
        first_unreadable, first_unasked (`str`, *optional*): The first of them.
    """

    answers: int = 0
    images: int = 0
    unreadable: int = 0
    unasked: int = 0
    first_unreadable: str | None = None
    first_unasked: str | None = None

    def count(self, batch: Batch, seen: set[str]) -> None:
        """
        Add a batch.

        Args:
            seen (`set[str]`): Images of the group that are counted as unreadable already; emptied with its last batch.
        """
        self.answers += len(batch.answers)
        for _, record in batch.errors:
            name = record["image"]
            if record["kind"] == "image":
                self.unreadable += name not in seen
                seen.add(name)
                self.first_unreadable = name if self.first_unreadable is None else self.first_unreadable
            else:
                self.unasked += 1
                self.first_unasked = name if self.first_unasked is None else self.first_unasked
        if batch.is_last:
            self.images += batch.images
            seen.clear()


class Output:
    """
    A file or folder of answers that several processes fill together.

    Args:
        path (`str` or `os.PathLike`): A `.jsonl` or `.parquet` file, or a folder for a dataset.
        settings (`Mapping`): What must be the same for a run to go on.
        process_index (`int`): This process among those that write.

    Raises:
        ValueError: `path` names no such thing.
        ImportError: what writes it is not installed.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any], process_index: int = 0):
        name = os.fspath(path)
        self.path = Path(name).expanduser()
        suffix = self.path.suffix.lower()
        if suffix not in ("", ".jsonl", ".parquet") and not (name.endswith(("/", os.sep)) or self.path.is_dir()):
            raise ValueError(f"--output must end in .jsonl or .parquet, or name a folder for a dataset, got {name!r}")
        self.kind = suffix.removeprefix(".") if suffix in (".jsonl", ".parquet") else "dataset"
        if self.kind != "jsonl":
            needed = ("pyarrow",) if self.kind == "parquet" else ("datasets", "pyarrow")
            with needs_extra(EXTRA, f"--output {name}", *needed):
                pass
        self.settings = json.loads(json.dumps(settings))
        self.errors = self.path.with_name(
            f"{self.path.name if self.kind == 'dataset' else self.path.stem}.errors.jsonl"
        )
        self.report = self.path.with_name(f"{self.path.name}.run.json")
        self.journal = self.path.with_name(f"{self.path.name}.journal")
        self.part = self.journal / f"part-{process_index:05d}.jsonl"
        self._lock: IO[str] | None = None

    def check(self, overwrite: bool = False) -> Summary | None:
        """
        See what is there already; nothing is written.

        Returns:
            What an earlier run came to, if it is complete.

        Raises:
            OtherSettingsError: the output belongs to another command, or to none.
        """
        if overwrite:
            if self.path.is_dir() and not self.report.is_file() and any(self.path.iterdir()):
                raise OtherSettingsError(f"{self.path} is a folder with other files, which --overwrite does not delete")
            return None
        if (self.journal / _SETTINGS).is_file():
            self._require_same(read_json(self.journal / _SETTINGS))
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        if not self.report.is_file():
            if (self.journal / _SETTINGS).is_file():
                return None  # killed between its last steps
            raise OtherSettingsError(f"{self.path} exists and is no output of lion predict: --overwrite replaces it")
        report = read_json(self.report)
        self._require_same(report["settings"])
        return Summary(**report["summary"])

    def _require_same(self, settings: Mapping[str, Any]) -> None:
        names = [name for name in {**settings, **self.settings} if settings.get(name) != self.settings.get(name)]
        if names:
            raise OtherSettingsError(
                f"{self.path} was made, or begun, by another command: {', '.join(sorted(names))} differ; --overwrite "
                "starts anew"
            )

    def start(self, overwrite: bool = False) -> None:
        """
        Note the settings and cut off lines that were being written when a run was killed. One process calls it, before
        any appends.

        Raises:
            BlockingIOError: another run is filling the same output.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.journal.mkdir(exist_ok=True)
        self._take()
        if overwrite:
            for part in self.journal.glob("part-*.jsonl"):
                part.unlink()
            for file in (self.report, self.errors, self.journal / _SETTINGS):
                file.unlink(missing_ok=True)
            if self.path.is_dir():
                shutil.rmtree(self.path)
            self.path.unlink(missing_ok=True)
        write_json(self.journal / _SETTINGS, self.settings)
        for part in self._parts():
            content_end = _end_of_lines(part)
            if content_end < part.stat().st_size:
                os.truncate(part, content_end)

    def _take(self) -> None:
        """Keep other runs out while this process lives."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._lock = (self.journal / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another run is filling {self.path} now") from None
        except OSError:  # not every file system can
            pass

    def done(self) -> dict[tuple[int, int], int]:
        """Groups and batches that are in the journal, with the rows that each brings to their end."""
        return {place: rows for place, _, rows in self._index()}

    def append(self, batch: Batch) -> None:
        """Write what became of a batch at once."""
        append_lines(self.part, [asdict(batch)])

    def finish(self, groups: int | None = None) -> Summary:
        """
        Make the output of the journal. One process calls it, when all have finished.

        Args:
            groups (`int`, *optional*): How many there are, where that is known by other ways than the journal.

        Raises:
            RuntimeError: the journal lacks some.
            ValueError: a dataset would have no row, for which `datasets` has no form.
        """
        places = {place: line for place, line, _ in self._index()}  # of a batch that two processes answered, either
        self._require_complete(places, groups)
        summary, seen = Summary(), set[str]()
        for batch in self._batches(places):
            summary.count(batch, seen)
        if summary.unreadable or summary.unasked:
            with atomic_file(self.errors) as partial, partial.open("wb") as file:
                file.writelines(encode_line(record) for record in self._records(places, "errors"))
        else:
            self.errors.unlink(missing_ok=True)
        if self.kind == "dataset" and not summary.answers:
            raise ValueError(f"there is no answer to write to {self.path}; why, is in {self.errors}")
        {"jsonl": self._write_jsonl, "parquet": self._write_parquet, "dataset": self._write_dataset}[self.kind](places)
        write_json(self.report, {"summary": asdict(summary), "settings": self.settings})
        self.clear()
        return summary

    def clear(self) -> None:
        """Remove the journal of an output that is complete."""
        shutil.rmtree(self.journal, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --- The journal ---

    def _parts(self) -> list[Path]:
        return sorted(self.journal.glob("part-*.jsonl"))

    def _index(self) -> Iterator[tuple[tuple[int, int], tuple[Path, int], int]]:
        """Groups and batches with the places of their lines, and the rows that each brings to their end."""
        for part in self._parts():
            with part.open("rb") as lines:
                start = 0
                for number, line in enumerate(lines, start=1):
                    if not line.endswith(b"\n"):
                        break  # another process is writing it
                    # The numbers stand first in a line, so that nobody has to read the rest.
                    head = line[: line.find(b', "answers"')] + b"}"
                    try:
                        values = json.loads(head)
                        rows = values["rows"] if values["batch"] == values["batches"] - 1 else 0
                        yield (values["group"], values["batch"]), (part, start), rows
                    except (ValueError, KeyError):
                        raise ValueError(
                            f"{part}, line {number} is damaged: --overwrite starts anew, without what is there"
                        ) from None
                    start += len(line)

    def _require_complete(self, places: Mapping[tuple[int, int], tuple[Path, int]], groups: int | None) -> None:
        present: dict[int, int] = {}
        for group, _ in places:
            present[group] = present.get(group, 0) + 1
        groups = max(present, default=-1) + 1 if groups is None else groups
        lacking = [number for number in range(groups) if number not in present]
        if not lacking and len(present) == groups:
            lacking = [b.group for b in self._batches(places) if b.is_last and present[b.group] != b.batches]
            lacking += [number for number in present if (number, present[number] - 1) not in places]
        if lacking or len(present) != groups:
            raise RuntimeError(f"{self.journal} has {len(present)} of {groups} groups; it lacks {lacking[:5]}")

    def _batches(self, places: Mapping[tuple[int, int], tuple[Path, int]]) -> Iterator[Batch]:
        """All batches, in order."""
        files: dict[Path, IO[bytes]] = {}
        try:
            for place in sorted(places):
                part, start = places[place]
                file = files.get(part) or files.setdefault(part, part.open("rb"))
                file.seek(start)
                fields = json.loads(file.readline())
                for name in ("answers", "errors"):
                    fields[name] = [(number, record) for number, record in fields[name]]
                yield Batch(**fields)
        finally:
            for file in files.values():
                file.close()

    def _records(self, places: Mapping[tuple[int, int], tuple[Path, int]], kind: str) -> Iterator[dict[str, Any]]:
        """Answers or errors in the order of their requests."""
        group: list[tuple[int, dict[str, Any]]] = []
        for batch in self._batches(places):
            group += getattr(batch, kind)
            if batch.is_last:
                yield from (record for _, record in sorted(group, key=lambda numbered: numbered[0]))
                group = []

    # --- Formats ---

    def _write_jsonl(self, places: Mapping[tuple[int, int], tuple[Path, int]]) -> None:
        with atomic_file(self.path) as partial, partial.open("wb") as file:
            file.writelines(encode_line(record) for record in self._records(places, "answers"))

    def _write_parquet(self, places: Mapping[tuple[int, int], tuple[Path, int]]) -> None:
        import pyarrow.parquet

        with atomic_file(self.path) as partial, pyarrow.parquet.ParquetWriter(partial, self._schema()) as writer:
            for table in self._tables(places):
                writer.write_table(table)

    def _write_dataset(self, places: Mapping[tuple[int, int], tuple[Path, int]]) -> None:
        import datasets
        import pyarrow

        file = self.journal / "answers.arrow"
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, self._schema()) as writer:
            for table in self._tables(places):
                writer.write_table(table)
        # One that hangs on nothing but the settings, in place of a random one.
        fingerprint = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]
        table = datasets.table.MemoryMappedTable.from_file(str(file))
        with atomic_directory(self.path, replace=True) as partial:
            datasets.Dataset(table, fingerprint=fingerprint).save_to_disk(partial)

    def _schema(self) -> Any:
        import pyarrow

        text = pyarrow.string()
        columns = dict.fromkeys(("id", "image", "prompt", "level", "tags", "generated_text"), text)
        columns |= {"boxes": pyarrow.list_(pyarrow.list_(pyarrow.float64())), "labels": pyarrow.list_(text)}
        if self.settings.get("draw"):
            columns["drawing"] = text
        return pyarrow.schema(columns)

    def _tables(self, places: Mapping[tuple[int, int], tuple[Path, int]]) -> Iterator[Any]:
        import pyarrow

        for records in _chunks(self._records(places, "answers"), _ROWS_AT_ONCE):
            yield pyarrow.Table.from_pylist([_storable(record) for record in records], schema=self._schema())


def _storable(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose texts a column takes: names are strings, and bytes that are no UTF-8 are written as escapes."""
    texts = {name: value for name, value in record.items() if name not in ("boxes", "labels") and value is not None}
    return {
        **record,
        **{name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in texts.items()},
    }


def _chunks(records: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    chunk = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _end_of_lines(part: Path) -> int:
    """Where the last whole line of a file ends."""
    with part.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 2**16)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
