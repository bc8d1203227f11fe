"""What the variants are trained on and asked with: rows of the world, and tags of which some are wrong."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np

from laboratory.world.dataset import LEVELS, build_world
from laboratory.world.language import TAGS, scene_tags
from laboratory.world.scene import Scene, sample_scene


_FIRST_SCENE = 950_000_000
_SCENES = 100_000
_QUESTIONS = 8
_TRAINING_TAGS_WRONG = 0.25
# As often as in the nano's own recipe: the hard ones more often.
_TASKS = {
    "image_level": (*LEVELS["image_level"], "caption", "count", "direction", "relation", "relation", "existence"),
    "region_level": ("rec", "rec", "reg"),
}


def tags_with_errors(scene: Scene, wrong: float) -> list[str]:
    """
    The scene's tags, each of them replaced by one that is not true of it with probability `wrong`. The same for the
    same scene; a tag that is wrong at a small share is so at a larger one.
    """
    rng = np.random.default_rng([scene.seed, 5])
    true = scene_tags(scene)
    false = [tag for tag in TAGS if tag not in true]
    substitutes = rng.permutation(len(false))
    tags = [
        false[substitutes[index % len(false)]] if chance < wrong else tag
        for index, (tag, chance) in enumerate(zip(true, rng.random(len(true))))
    ]
    return [tag for tag in TAGS if tag in tags]


def training_rows(levels: Sequence[str], count: int, seed: int, leg: int, tags: bool) -> datasets.Dataset:
    """
    `count` rows, as many of each level; image-level ones with tags, a quarter of them wrong.

    Args:
        levels: `"image_level"`, `"region_level"` or both.
        count: how many rows in all.
        seed, leg: different seeds, and different legs of one, have no picture in common.
        tags: whether image-level rows have tags.
    """
    parts = []
    for number, level in enumerate(levels):
        scenes = -(-count // (len(levels) * _QUESTIONS))
        rows = build_world(
            first_scene=_FIRST_SCENE + (10 * seed + 2 * leg + number) * _SCENES,
            num_scenes=scenes,
            questions=_QUESTIONS,
            tasks=_TASKS[level],
        )
        with_tags = tags and level == "image_level"
        rows = rows.map(_tag_row, fn_kwargs={"with_tags": with_tags}, features=rows.features, desc="tags")
        parts.append(rows.select_columns(["image", "prompt", "completion", "tags", "level"]))
    return datasets.concatenate_datasets(parts)


def _tag_row(row: dict, with_tags: bool) -> dict:
    return {"tags": tags_with_errors(sample_scene(row["seed"]), _TRAINING_TAGS_WRONG) if with_tags else None}
