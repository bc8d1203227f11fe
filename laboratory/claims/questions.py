"""Questions that need both kinds of knowledge: what the image shows, and where a box is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from laboratory.world.language import (
    Sample,
    box_text,
    pick,
    pick_relation,
    referring_names,
    relation_holds,
    vqa,
)
from laboratory.world.scene import Scene


def color_of_a_box(scene: Scene, rng: np.random.Generator) -> Sample:
    """ "What color is the object at [...]?\""""
    item = pick(rng, scene.objects)
    return vqa("color of a box", f"What color is the object at {box_text(item)}?", item.color, rng)


def relation_to_a_box(scene: Scene, rng: np.random.Generator) -> Sample | None:
    """ "Is the star above [...]?\""""
    found = pick_relation(scene, rng)
    if found is None:
        return None
    first, second, relation = found
    question = f"Is the {pick(rng, referring_names(scene, first))} {relation} {box_text(second)}?"
    answer = "yes" if relation_holds(relation, first, second) else "no"
    return vqa("relation to a box", question, answer, rng, relation)


BOTH: dict[str, Callable[[Scene, np.random.Generator], Sample | None]] = {
    "color of a box": color_of_a_box,
    "relation to a box": relation_to_a_box,
}
"""How a sample of each task is drawn from a scene; `None` where the scene does not allow the question."""
