"""Counterpart of MMBench."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laboratory.counterparts.files import IMAGE, TEXT, image_of, write_parquet
from laboratory.counterparts.questions import Question, draw_options, draw_questions, false_caption
from laboratory.world.language import scene_caption
from laboratory.world.scene import Scene
from lion_multimodal.evaluation.benchmarks.mmbench import LETTERS, rotations


# The world's tasks by MMBench's ability and its finer category.
_ABILITIES = {
    "caption": ("coarse_perception", "image_topic"),
    "color": ("finegrained_perception (instance-level)", "attribute_recognition"),
    "direction": ("finegrained_perception (cross-instance)", "spatial_relationship"),
    "object": ("attribute_reasoning", "identity_reasoning"),
    "relation": ("relation_reasoning", "physical_relation"),
    "count": ("logic_reasoning", "structuralized_imagetext_understanding"),
}


def _ability_question(scene: Scene, task: str, rng: random.Random) -> Question | None:
    if task != "caption":
        return next(draw_questions(scene, (task,), rng), None)
    false = {false_caption(scene, rng) for _ in range(20)}
    return Question("What does the image show?", scene_caption(scene)[:-1], tuple(sorted(text[:-1] for text in false)))


def write_mmbench(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    number = 0
    for scene in scenes:
        task = tuple(_ABILITIES)[number % len(_ABILITIES)]
        question = _ability_question(scene, task, rng)
        if question is None:
            continue
        ability, category = _ABILITIES[task]
        image = image_of(scene, f"{number}.png")
        options = draw_options(question, rng)
        for copy, (choices, correct) in enumerate(rotations(options, options.index(question.answer))):
            rows.append(
                {
                    "index": str(number + 1_000_000 * copy),
                    "question": question.text,
                    "hint": "The picture shows a landscape." if number % 4 == 3 else "nan",
                    "answer": LETTERS[correct],
                    # The dataset writes out the lack of an option.
                    **{letter: (*choices, *["nan"] * 4)[place] for place, letter in enumerate(LETTERS)},
                    "category": category,
                    "image": image,
                    "source": "world",
                    "L2-category": ability,
                    "comment": "nan",
                    "split": "dev",
                }
            )
        number += 1
        if number == num_rows:
            break
    features = dict.fromkeys(rows[0], TEXT) | {"image": IMAGE}
    write_parquet(folder / "dev-00000-of-00001.parquet", rows, features)
