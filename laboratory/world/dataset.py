"""The world as a dataset of the `datasets` library: one row an instruction."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from laboratory.world.language import TAGS, TASKS, Sample, scene_tags
from laboratory.world.scene import SPLITS, Scene, render, sample_scene


FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "task": datasets.Value("string"),
        "form": datasets.Value("string"),
        "level": datasets.Value("string"),
        "prompt": datasets.Value("string"),
        "completion": datasets.Value("string"),
        "tags": datasets.List(datasets.Value("string")),
        "box": datasets.List(datasets.Value("float64")),
        "objects": datasets.List(
            {
                "glyph": datasets.Value("string"),
                "color": datasets.Value("string"),
                "box": datasets.List(datasets.Value("float64")),
            }
        ),
        "seed": datasets.Value("int64"),
    }
)
"""Columns. `box` (fractions of the sides) is empty for tasks without one; `objects` describes the whole scene."""

LEVELS = {
    "image_level": (
        "caption",
        "color",
        "object",
        "count",
        "side",
        "position",
        "direction",
        "relation",
        "statement",
        "existence",
    ),
    "region_level": ("rec", "reg"),
}
"""Tasks of each LION task level."""


MISSING_TAGS, WRONG_TAGS = 0.04, 0.12
"""A tagger's usual mistakes, as training has them: probabilities of [`noisy_tags`]."""


def ask(
    scene: Scene,
    tasks: Sequence[str],
    questions: int,
    known: Mapping[str, Callable[[Scene, np.random.Generator], Sample | None]] = TASKS,
) -> list[Sample]:
    """
    Instructions about a scene, the same for the same arguments.

    Args:
        scene: The scene.
        tasks: Which tasks to draw from, in turn and in an order that depends on the scene.
        questions: How many instructions.
        known: How a sample of each task is drawn.
    """
    rng = np.random.default_rng([scene.seed, 2])
    order = [tasks[index] for index in rng.permutation(len(tasks))]
    samples: list[Sample] = []
    turn = 0
    while len(samples) < questions:
        if turn >= 20 * (questions + len(order)):
            raise ValueError(f"the scene of seed {scene.seed} allows none of the tasks {', '.join(tasks)}")
        sample = known[order[turn % len(order)]](scene, rng)
        turn += 1
        if sample is not None:
            samples.append(sample)
    return samples


def noisy_tags(scene: Scene, missing: float = 0.0, wrong: float = 0.0) -> list[str]:
    """
    Tags of a scene with a tagger's mistakes.

    Args:
        scene: The scene.
        missing: Probability that a true tag is left out.
        wrong: Probability that one false tag is added.
    """
    rng = np.random.default_rng([scene.seed, 3])
    true = scene_tags(scene)
    tags = [tag for tag in true if rng.random() >= missing]
    if rng.random() < wrong:
        tags.append(TAGS[int(rng.integers(len(TAGS)))])
    return [tag for tag in TAGS if tag in tags]


def generate_rows(
    seeds: Sequence[int] | range,
    tasks: Sequence[str] = tuple(TASKS),
    questions: int = 4,
    missing_tags: float = 0.0,
    wrong_tags: float = 0.0,
    most_objects: int | None = None,
    num_objects: int | None = None,
    images: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the scenes of `seeds`, with or without images; arguments as in [`build_world`]."""
    for seed in seeds:
        scene = sample_scene(int(seed), num_objects, most_objects)
        image = {"bytes": _png(scene), "path": None} if images else None  # once for all of its rows
        tags = noisy_tags(scene, missing_tags, wrong_tags)
        objects = [
            {"glyph": item.glyph, "color": item.color, "box": list(item.normalized_box)} for item in scene.objects
        ]
        for sample in ask(scene, tasks, questions):
            yield {
                "image": image,
                "task": sample.task,
                "form": sample.form,
                "level": sample.level,
                "prompt": sample.prompt,
                "completion": sample.completion,
                "tags": tags,
                "box": list(sample.box or ()),
                "objects": objects,
                "seed": scene.seed,
            }


def _png(scene: Scene) -> bytes:
    written = io.BytesIO()
    render(scene).save(written, format="PNG", compress_level=1)
    return written.getvalue()


def build_world(
    split: str = "train",
    num_scenes: int = 1000,
    first_scene: int = 0,
    level: str | None = None,
    tasks: Sequence[str] | None = None,
    questions: int = 4,
    missing_tags: float = 0.0,
    wrong_tags: float = 0.0,
    streaming: bool = False,
    most_objects: int | None = None,
    num_objects: int | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Build the world's dataset.

    Args:
        split: `"train"`, `"validation"` or `"test"`; their images never coincide.
        num_scenes: How many images.
        first_scene: Number, within the split, of the first image.
        level: `"image_level"` or `"region_level"`, for the tasks of that level alone.
        tasks: Tasks to draw from, in place of `level`; all by default.
        questions: Rows an image.
        missing_tags: Probability that a true tag is missing from an image's tags.
        wrong_tags: Probability that an image's tags hold one that may be false.
        streaming: Return an `IterableDataset` that draws while it is read, not a `Dataset` that is drawn once and
            cached.
        most_objects: Objects of the fullest images; as the world has them by default.
        num_objects: Objects of every image, in place of a number drawn for each.

    Returns:
        A dataset with the columns of [`FEATURES`].

    Raises:
        ValueError: An argument is outside what is described here.
    """
    seeds, options = world_scenes(
        split,
        num_scenes,
        first_scene,
        level,
        tasks,
        questions,
        missing_tags,
        wrong_tags,
        most_objects=most_objects,
        num_objects=num_objects,
    )
    arguments = {"seeds": seeds, **options}
    if streaming:
        return datasets.IterableDataset.from_generator(generate_rows, features=FEATURES, gen_kwargs=arguments)
    return datasets.Dataset.from_generator(generate_rows, features=FEATURES, gen_kwargs=arguments)


def world_scenes(
    split: str = "train",
    num_scenes: int = 1000,
    first_scene: int = 0,
    level: str | None = None,
    tasks: Sequence[str] | None = None,
    questions: int = 4,
    missing_tags: float = 0.0,
    wrong_tags: float = 0.0,
    most_objects: int | None = None,
    num_objects: int | None = None,
) -> tuple[range, dict[str, Any]]:
    """The scenes that [`build_world`] draws, and the other arguments of [`generate_rows`]; arguments as there."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    seeds = SPLITS[split][first_scene : first_scene + num_scenes]
    if num_scenes < 1 or first_scene < 0 or len(seeds) < num_scenes:
        raise ValueError(
            f"first_scene and num_scenes must lie within the {len(SPLITS[split])} scenes of {split!r}, got "
            f"{first_scene} and {num_scenes}"
        )
    if questions < 1:
        raise ValueError(f"questions must be at least 1, got {questions}")
    for name, number in (("most_objects", most_objects), ("num_objects", num_objects)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if level is not None and level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    tasks = tuple(tasks or (LEVELS[level] if level else TASKS))
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"tasks must be among {', '.join(TASKS)}, got {', '.join(unknown)}")
    return seeds, {
        "tasks": tasks,
        "questions": questions,
        "missing_tags": missing_tags,
        "wrong_tags": wrong_tags,
        "most_objects": most_objects,
        "num_objects": num_objects,
    }
