"""A Space that shows a model: the page of `lion app` on the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import lion_multimodal
from trainers.atomic import atomic_file
from trainers.publishing.hub import HubRepo, check_name
from trainers.publishing.selection import ADAPTER, CARD, CHECKPOINT


GRADIO_VERSION = "6.31.0"
"""The Gradio that a Space gets: one that the page is tested with."""

APP = "app.py"
REQUIREMENTS = "requirements.txt"

_APP = '''"""The page of a LION, as `lion app` serves it."""

from lion_multimodal.app import launch


launch({arguments})
'''

_CARD = """---
{metadata}---

# {title}

`{model}` is a LION (JiuTian-LION, CVPR 2024, [arXiv 2311.11860](https://arxiv.org/abs/2311.11860)). Ask about an image
in words or for a place in it, correct the tags that its tagger found and see the answer change, compare candidate
answers, and answer about many images at once.

The same page on your own machine:

    pip install "lion-multimodal[{extras}]"
    lion app {options}
"""


@dataclass(frozen=True)
class PushedSpace:
    """
    A Space on the Hub.

    Attributes:
        repo_id (`str`): Its full name.
        url (`str`): Where it is to be seen.
        changed (`bool`): Whether there is a new commit.
    """

    repo_id: str
    url: str
    changed: bool


def space_files(
    space_id: str, model: str, kind: str = CHECKPOINT, base_model: str | None = None, license: str | None = None
) -> dict[str, bytes]:
    """
    The files of a Space that shows a model.

    Args:
        space_id (`str`): The Space's name; its title is what follows the owner.
        model (`str`): The repo on the Hub; or a directory, to try the Space where that is.
        kind (`str`, *optional*, defaults to `"checkpoint"`): `"checkpoint"` or `"adapter"`.
        base_model (`str`, *optional*): The base of an adapter, where that is not the one that the adapter names.
        license (`str`, *optional*): The license of the model, where the Space is to name one.

    Returns:
        `dict[str, bytes]`: The contents of `README.md`, `app.py` and `requirements.txt`.

    Raises:
        ValueError: no Space can have that name.
    """
    check_name(space_id)
    title = space_id.rpartition("/")[2]
    if kind == ADAPTER:
        arguments = ", ".join([*([repr(base_model)] if base_model else []), f"adapter={model!r}"])
        options = (f"--model {base_model} " if base_model else "") + f"--adapter {model}"
        extras = "app,train"  # an adapter is loaded with PEFT
    else:
        arguments, options, extras = repr(model), f"--model {model}", "app"
    metadata: dict[str, Any] = {
        "title": title,
        "emoji": "🦁",
        "colorFrom": "blue",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": GRADIO_VERSION,
        "python_version": "3.11",
        "app_file": APP,
        "pinned": False,
        "short_description": "Ask about an image, correct its tags, find things",
        **({"license": license} if license else {}),
        **({} if Path(model).is_dir() else {"models": [name for name in (model, base_model) if name]}),
    }
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    texts = {
        APP: _APP.format(arguments=arguments),
        CARD: _CARD.format(metadata=head, title=title, model=model, extras=extras, options=options),
        REQUIREMENTS: f"lion-multimodal[{extras}]=={lion_multimodal.__version__}\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def write_space(folder: str | os.PathLike, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files of a Space into a folder, which is made if there is none."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_file(folder / name) as partial:
            partial.write_bytes(content)
    return [folder / name for name in files]


def push_space(
    space_id: str, files: Mapping[str, bytes], private: bool | None = None, token: str | None = None
) -> PushedSpace:
    """
    Push the files of a Space in one commit; the Space is made if there is none, and its other files stay.

    Args:
        space_id (`str`): Its name.
        files (`Mapping[str, bytes]`): What [`space_files`] gives.
        private (`bool`, *optional*): Whether a new one is private; its owner's settings decide by default.
        token (`str`, *optional*): The token to write with; the one that is logged in by default.

    Raises:
        ValueError: no Space can have that name.
        HubError: the Hub refuses, or cannot be reached.
    """
    repo = HubRepo(space_id, private, token=token, repo_type="space")
    commit = repo.commit(files, (), "The page of lion app")
    return PushedSpace(repo.repo_id, f"{repo.api.endpoint}/spaces/{repo.repo_id}", commit != repo.head)
