"""
Folders of images as somebody might have them, drawn from the synthetic world: a kind of question that the nano was
never asked, objects under a name that it never read, and the questions that it knows.
"""

import argparse
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


def known_rows(task: str, count: int, first: int = 0, split: str = "test") -> Iterator[tuple[Scene, dict[str, Any]]]:
    """Questions of a task that the nano was trained on, about scenes of a split."""
    for scene, sample in held_out(task, count, split, first):
        yield scene, {"prompt": sample.prompt, "completion": sample.completion, "level": sample.level}


def write_all(folder: str | Path, rows: int = 500, test_rows: int = 50) -> Path:
    """
    Write the folders that fine-tuning is measured with: `question` and `word` (of a new kind of question, of a new
    word) with `question_test` and `word_test`, `old` (rows of all known tasks to train on beside), `known/TASK`.
    """
    folder = Path(folder)
    write_rows(folder / "question", new_question_rows(scenes_of("train", 500_000_000)), rows)
    write_rows(folder / "question_test", new_question_rows(scenes_of("test")), test_rows)
    write_rows(folder / "word", new_word_rows(scenes_of("train", 600_000_000)), rows // 2)  # REC and REG of each
    write_rows(folder / "word_test", new_word_rows(scenes_of("test", 50_000)), test_rows)
    share = rows // len(KNOWN_TASKS)
    old = [
        row
        for number, task in enumerate(KNOWN_TASKS)
        for row in known_rows(task, share, 700_000_000 + number * 1000, "train")
    ]
    write_rows(folder / "old", old, len(old))
    for task in KNOWN_TASKS:
        write_rows(folder / "known" / task, known_rows(task, test_rows, 100_000), test_rows)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where the folders go")
    parser.add_argument("--rows", type=int, default=500, help="rows to train on (default: 500)")
    parser.add_argument("--test-rows", type=int, default=50, help="rows to test on, of each task (default: 50)")
    arguments = parser.parse_args()
    print(write_all(arguments.folder, arguments.rows, arguments.test_rows))
