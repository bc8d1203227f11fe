"""What a trainer pushes to the Hub: the same as `lion push`, at the end or while training goes on."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers.publishing import Push, push_directory, select


logger = logging.getLogger(__name__)


def push_copy(directory: str | os.PathLike, repo_id: str, **kwargs: Any) -> Callable[[], Push | None]:
    """
    Prepare to push a directory as it is now, whatever becomes of it later.

    Args:
        directory: a checkpoint's or an adapter's.
        repo_id: the repo.
        kwargs: of `push_directory`.

    Returns:
        A function that pushes. An error does not stop the training that goes on meanwhile: it is logged.
    """
    # Beside the directory, where files can have a second name in place of a copy.
    copy = Path(tempfile.mkdtemp(prefix=".push-", dir=Path(directory).parent))
    problem: Exception | None = None
    try:
        for file, path in select(directory).files.items():
            _link(path, copy / file)
    except (OSError, ValueError) as error:
        problem = error

    def push() -> Push | None:
        try:
            if problem is not None:
                raise problem
            return push_directory(copy, repo_id, **kwargs)
        except (OSError, ValueError) as error:
            logger.warning("%s was not pushed: %s", directory, error)
            return None
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    return push


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
