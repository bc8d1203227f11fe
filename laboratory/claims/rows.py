"""What the variants are trained on: rows of a world of few boxes, and tags of which some are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from laboratory.claims.questions import BOTH
from laboratory.world.dataset import MISSING_TAGS, WRONG_TAGS, ask, noisy_tags
from laboratory.world.language import TAGS, TASKS, scene_tags
from laboratory.world.scene import SPLITS, Scene, render, sample_scene
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion.image_processing_lion import LionImageProcessor


CELLS, MOST_OBJECTS = 3, 3
"""Objects stand in the squares of a grid and have one size: with as few boxes as that, a quarter of an hour teaches
what takes hours in the nano's own world."""

QUESTIONS = 8
"""Rows an image."""

TOWER_BLUR, TAGGER_BLUR = 5.0, 1.75
"""Pixels of blur, in a claim where tags carry something, of the images that tower and tagger see."""

_FIRST_SCENE, _SCENES_OF_A_PART = 950_000_000, 100_000
_IMAGE_TASKS = (
    *("caption", "caption", "color", "object", "count", "count", "side", "direction", "direction"),
    *("relation", "relation", "relation", "existence", "existence"),
)
_REGION_TASKS = ("rec", "rec", "reg")
_BATCH = 100


@dataclass(frozen=True)
class Part:
    """
    A part of the data.

    Attributes:
        rows: How many rows there are in all.
        tasks: Tasks of the images in turn: the first image is asked the first tasks, and so on.
        one_object: Of how many images, of every ten, there is one object in each.
    """

    rows: int
    tasks: tuple[tuple[str, ...], ...]
    one_object: int = 0


PARTS = {
    "image": Part(6400, (_IMAGE_TASKS,)),
    # Images of one object show what a box is before it has to be told from others.
    "region": Part(12800, (_REGION_TASKS,), one_object=3),
    "both": Part(6400, (_IMAGE_TASKS, _REGION_TASKS, tuple(BOTH), _IMAGE_TASKS, _REGION_TASKS)),
    # Of what the image alone does not tell.
    "tagged": Part(4800, (("caption", "caption", "object", "existence", "existence", "count", "color"),)),
}
"""The parts of the data; legs name them."""


def scene_of(seed: int, num_objects: int | None = None) -> Scene:
    """The scene of a seed in this world."""
    return sample_scene(seed, num_objects, MOST_OBJECTS, CELLS)


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


def tagger_tags(tagger: RamForImageTagging, scenes: Sequence[Scene]) -> list[list[str]]:
    """What a tagger finds in images that are blurred a little, its mistakes among it."""
    processor = LionImageProcessor.for_tagging(tagger.config.vision_config.image_size)
    tags: list[list[str]] = []
    for start in range(0, len(scenes), _BATCH):
        images = [_blurred(scene, TAGGER_BLUR) for scene in scenes[start : start + _BATCH]]
        tags += tagger.generate_tags(processor(images, return_tensors="pt")["pixel_values"])
    return tags


def draw_blurred(scenes: Sequence[Scene]) -> np.ndarray:
    """Images of scenes in which kinds look alike, `(B, H, W, 3)` uint8."""
    return np.stack([np.asarray(_blurred(scene, TOWER_BLUR)) for scene in scenes])


def _blurred(scene: Scene, radius: float) -> Image.Image:
    return render(scene).filter(ImageFilter.GaussianBlur(radius))


def training_part(
    name: str, seed: int, scale: float = 1.0, tags_of: Callable[[Sequence[Scene]], list[list[str]]] | None = None
) -> tuple[list[dict[str, Any]], list[Scene]]:
    """
    Rows of a part of the data, whose `image` is the number of a scene, and the scenes.

    Args:
        name: A key of [`PARTS`].
        seed: Different seeds, and different parts of one, have no image in common.
        scale: How many rows, as a share of the part's.
        tags_of: Gives the tags of scenes; by default the true ones with a tagger's usual mistakes.
    """
    part = PARTS[name]
    count = round(part.rows * scale / QUESTIONS)
    first = _FIRST_SCENE + (len(PARTS) * seed + list(PARTS).index(name)) * _SCENES_OF_A_PART
    scenes = [
        scene_of(number, 1 if index % 10 < part.one_object else None)
        for index, number in enumerate(SPLITS["train"][first : first + count])
    ]
    if tags_of is None:
        tags = [noisy_tags(scene, MISSING_TAGS, WRONG_TAGS) for scene in scenes]
    else:
        tags = tags_of(scenes)
    known: Mapping[str, Any] = {**TASKS, **BOTH}
    rows = []
    for index, scene in enumerate(scenes):
        for sample in ask(scene, part.tasks[index % len(part.tasks)], QUESTIONS, known):
            rows.append(
                {
                    "image": index,
                    "prompt": sample.prompt,
                    "completion": sample.completion,
                    "tags": tags[index] if sample.level == "image_level" else None,
                    "level": sample.level,
                }
            )
    return rows, scenes
