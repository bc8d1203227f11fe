"""Checkpoints that ship with the package."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL.Image import Image


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


@dataclass
class DemoScene:
    """
    An image of the synthetic world that no training has seen.

    Args:
        image (`PIL.Image.Image`): The image.
        questions (`list[dict[str, str]]`): What is asked about it: `prompt`, `truth`, and `about` where a box is
            asked for.
    """

    image: "Image"
    questions: list[dict[str, str]]


def demo_scenes() -> list[DemoScene]:
    """The held-out scenes that `lion demo` shows, in order."""
    from PIL import Image

    folder = Path(str(files(__name__))) / "demo_scenes"
    entries = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    scenes = []
    for entry in entries:
        with Image.open(folder / entry["file_name"]) as image:
            scenes.append(DemoScene(image.convert("RGB"), entry["questions"]))
    return scenes
