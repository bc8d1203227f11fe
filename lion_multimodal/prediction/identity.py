"""Which checkpoint it is: a run goes on with no other."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lion_multimodal.loading import find_commit


_FILES = (".json", ".model", ".safetensors", ".txt")


def describe_checkpoint(name_or_path: str | os.PathLike, config: str = "config.json") -> dict[str, str | None]:
    """
    Name and commit of a repo on the Hub; of a directory, a checksum of all that decides what it answers.

    Args:
        name_or_path (`str` or `os.PathLike`): A checkpoint or an adapter.
        config (`str`, *optional*, defaults to `"config.json"`): A file that it has.

    Raises:
        OSError: there is no checkpoint at that place.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path for path in folder.rglob("*") if path.suffix in _FILES and path.is_file()):
            digest.update(file.relative_to(folder).as_posix().encode("utf-8", "backslashreplace"))
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return {"sha256": digest.hexdigest()}
    return {"repo": os.fspath(name_or_path), "commit": find_commit(name_or_path, file=config)}
