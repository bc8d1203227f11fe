"""Questions that need both kinds of knowledge: what the image shows, and where a box is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from laboratory.world.language import (
    RELATION_MARGIN,
    RELATIONS,
    VQA_PROMPTS,
    Sample,
    box_text,
    pick,
    pick_prompt,
    referring_names,
    relation_holds,
)
from laboratory.world.scene import Scene


def color_of_a_box(scene: Scene, rng: np.random.Generator) -> Sample:
    """ "What color is the object at [...]?\""""
    item = pick(rng, scene.objects)
    question = f"What color is the object at {box_text(item)}?"
    prompt = pick_prompt(rng, VQA_PROMPTS).format(question=question)
    return Sample("color of a box", "image_level", prompt, item.color, box=item.normalized_box)


def relation_to_a_box(scene: Scene, rng: np.random.Generator) -> Sample | None:
    """ "Is the star above [...]?\""""
    axis = int(rng.integers(2))
    pairs = [
        (first, second)
        for first in scene.objects
        for second in scene.objects
        if abs(first.center[axis] - second.center[axis]) >= RELATION_MARGIN
    ]
    if not pairs:
        return None
    first, second = pick(rng, pairs)
    relation = RELATIONS[2 * axis + int(rng.integers(2))]
    question = f"Is the {pick(rng, referring_names(scene, first))} {relation} {box_text(second)}?"
    prompt = pick_prompt(rng, VQA_PROMPTS).format(question=question)
    answer = "yes" if relation_holds(relation, first, second) else "no"
    return Sample("relation to a box", "image_level", prompt, answer, relation, second.normalized_box)


BOTH: dict[str, Callable[[Scene, np.random.Generator], Sample | None]] = {
    "color of a box": color_of_a_box,
    "relation to a box": relation_to_a_box,
}
"""How a sample of each task is drawn from a scene; `None` where the scene does not allow the question."""
