"""Errors that name the extra to install, where an optional dependency is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager


_OWN_PACKAGES = ("configuration_lion", "lion_multimodal", "modeling_lion", "processing_lion", "trainers")


@contextmanager
def needs_extra(extra: str, needed_by: str, *packages: str) -> Iterator[None]:
    """
    Imports inside this block are of packages that the extra installs.

    Args:
        extra (`str`): name of the extra in `pyproject.toml`.
        needed_by (`str`): what cannot be used without it, for the message.
        packages (`str`): packages to look for beforehand, without importing them: those that are imported only later.

    Raises:
        ImportError: a package is missing; says `pip install "lion-multimodal[EXTRA]"`.
    """
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        raise ImportError(_message(extra, needed_by, missing), name=missing[0])
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A module missing from an installed package is another fault than a package that is not installed.
        if package in _OWN_PACKAGES or _is_installed(package):
            raise
        raise ImportError(_message(extra, needed_by, [package]), name=package) from error


def _is_installed(package: str) -> bool:
    specification = importlib.util.find_spec(package) if package else None
    # A folder of that name in the user's directory is no installed package.
    return specification is not None and specification.origin is not None


def _message(extra: str, needed_by: str, missing: list[str]) -> str:
    return f'{needed_by} needs {", ".join(missing)}: pip install "lion-multimodal[{extra}]"'


__all__ = ["needs_extra"]
