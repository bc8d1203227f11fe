"""A JSON Lines file that several processes fill together and that survives being interrupted at any byte."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trainers.atomic import atomic_file
from trainers.json_lines import append_lines, encode_line, read_lines


logger = logging.getLogger(__name__)


class ResumableJsonl:
    """
    Records, one a line, each under a name of its own in the field `key`, which comes first.

    A single process appends to `path`. Of several, each appends to a part of its own beside it, and [`join`] makes one
    file of them. A part that an interrupted run left behind is picked up by [`recover`], however many processes there
    were then and are now.

    Args:
        path (`str` or `Path`): the file; created when the first record is appended.
        key (`str`): the field that names a record.
        fields (`Sequence[str]`): other fields that every record has.
        process_index, num_processes (`int`): this process among those that write.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        key: str,
        fields: Sequence[str] = (),
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.path = Path(path)
        self.key = key
        self.fields = fields
        own_name = self.path.name if num_processes == 1 else f"{self.path.name}.part{process_index}"
        self.own_part = self.path.with_name(own_name)

    def recover(self) -> None:
        """
        Cut off a line that was being written when a run broke off, and join the parts. One process calls it, before
        any appends.

        Raises:
            ValueError: the file holds something else than such records. It is left as it was.
        """
        for part in (self.path, *self._parts()):
            self._cut_torn_line(part)
        if self._parts():
            self.join([])

    def records(self) -> list[dict[str, Any]]:
        """
        The records of `path`, in order.

        Raises:
            ValueError: a line is no record; file and line are named.
        """
        return self._read(self.path)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records at once, so that an interruption can tear the last of them only."""
        append_lines(self.own_part, records)

    def join(self, order: Sequence[Any]) -> None:
        """
        Make one file of all parts, its records in the order in which `order` names them (names it lacks go last).
        One process calls it, when all have finished. Interrupted, it can be repeated: a name is kept once.
        """
        parts = self._parts()
        if not parts:
            return
        records = {record[self.key]: record for part in (self.path, *parts) for record in self._read(part)}
        position = {name: index for index, name in enumerate(order)}
        in_order = sorted(records.values(), key=lambda record: position.get(record[self.key], len(position)))
        with atomic_file(self.path) as joined:
            joined.write_bytes(b"".join(map(encode_line, in_order)))
        for part in parts:
            part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{_escape_glob(self.path.name)}.part[0-9]*"))

    def _read(self, path: Path) -> list[dict[str, Any]]:
        fields = (self.key, *self.fields)
        records = []
        for number, record in read_lines(path, skip_empty=False) if path.exists() else ():
            if any(field not in record for field in fields):
                raise ValueError(f"{path}, line {number}: expected a record with {' and '.join(map(repr, fields))}")
            records.append(record)
        return records

    def _cut_torn_line(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        end = content.rfind(b"\n") + 1
        torn = content[end:]
        if not torn:
            return
        start = json.dumps({self.key: 0})[:-2].encode()
        if torn[: len(start)] != start[: len(torn)]:
            raise ValueError(f"{path} exists and does not end in a JSON record that starts with {self.key!r}")
        logger.warning("%s: cut off an incomplete last line", path)
        os.truncate(path, end)


def _escape_glob(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


__all__ = ["ResumableJsonl"]
