"""Checkpoints that ship with the package."""

from importlib.resources import files
from pathlib import Path


def path(name: str = "nano") -> Path:
    """
    The directory of a checkpoint that ships with the package, for `from_pretrained` and `pipeline`.

    Raises:
        ValueError: there is none of that name.
    """
    root = Path(str(files(__name__)))
    if name in available():
        return root / name
    shipped = ", ".join(available()) or "none at all"
    raise ValueError(f"`name` must be a checkpoint that ships with this installation: {shipped}; got {name!r}")


def available() -> list[str]:
    """The names that [`path`] knows."""
    root = Path(str(files(__name__)))
    return sorted(folder.name for folder in root.iterdir() if (folder / "config.json").is_file())
