"""
Folders of images as somebody might have them, drawn from the synthetic world: a kind of question that the nano was
never asked, objects under a name that it never read, and the questions that it knows.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from laboratory.world.evaluate_world import held_out
from laboratory.world.language import TASKS
from laboratory.world.scene import SPLITS, Scene, render, sample_scene


# The word that stands for a kind of object here.
NEW_WORDS = {"flower": "blossom"}
KNOWN_TASKS = tuple(TASKS)


def new_question_rows(scenes: Iterable[Scene]) -> Iterator[tuple[Scene, dict[str, Any]]]:
    """Questions about the object furthest to the left or to the right, as `question` and `answer`."""
    for scene in scenes:
        if len(scene.objects) < 2:
            continue
        rng = np.random.default_rng([scene.seed, 11])
        side = ("left", "right")[int(rng.integers(2))]
        item = scene.objects[0 if side == "left" else -1]
        yield scene, {"question": f"Which object is the last one on the {side}?", "answer": item.name}


def new_word_rows(scenes: Iterable[Scene]) -> Iterator[tuple[Scene, dict[str, Any]]]:
    """Referring expressions with another word for a kind of object, with boxes as COCO writes them."""
    for scene in scenes:
        for item in scene.objects:
            if item.glyph in NEW_WORDS:
                x1, y1, x2, y2 = item.box
                yield (
                    scene,
                    {
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "sentences": [f"the {item.color} {NEW_WORDS[item.glyph]}"],
                        "width": 96,
                        "height": 96,
                    },
                )


def scenes_of(split: str, first: int = 0) -> Iterator[Scene]:
    """The scenes of a split, one after the other."""
    for seed in SPLITS[split][first:]:
        yield sample_scene(seed)


def write_rows(folder: str | Path, rows: Iterable[tuple[Scene, dict[str, Any]]], count: int) -> Path:
    """Write `count` rows as `metadata.jsonl` beside their images; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for scene, row in rows:
        file = folder / f"{scene.seed}.png"
        if not file.exists():
            render(scene).save(file)
        lines.append(json.dumps({"file_name": file.name, **row}))
        if len(lines) == count:
            break
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def known_rows(task: str, count: int, first: int = 0) -> Iterator[tuple[Scene, dict[str, Any]]]:
    """Questions of a task that the nano was trained on, about test scenes."""
    for scene, sample in held_out(task, count, first_scene=first):
        yield scene, {"prompt": sample.prompt, "completion": sample.completion, "level": sample.level}
