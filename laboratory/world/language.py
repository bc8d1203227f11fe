"""What can be said and asked about a scene, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from laboratory.world.scene import COLORS, COMPANIONS, GLYPH_WEIGHTS, GLYPHS, IMAGE_SIZE, Scene, SceneObject
from processing_lion.prompts_lion import PROMPT_TEMPLATES, format_prompt


RELATIONS = ("to the left of", "to the right of", "above", "below")
TAGS = (*GLYPHS, *COLORS)
"""The tagger's vocabulary: what kinds of objects and which colours an image shows."""

_RELATION_MARGIN = 8
"""Pixels between two centres along an axis, below which nobody is asked which one comes first."""


@dataclass(frozen=True)
class Sample:
    """One instruction about a scene with its answer.

    `task` is a key of [`TASKS`], `level` the LION task level (`"image_level"` or `"region_level"`), `form` tells
    apart what a task asks in several ways (such as the three kinds of POPE negatives).
    """

    task: str
    level: str
    prompt: str
    completion: str
    form: str = ""
    box: tuple[float, float, float, float] | None = None


def coordinate(pixels: int) -> str:
    """A position as LION writes it: a fraction of the image's side with three decimals."""
    return f"{pixels / IMAGE_SIZE:.3f}"


def box_text(item: SceneObject) -> str:
    """The object's box as LION writes it, such as `"[0.125,0.250,0.458,0.583]"`."""
    return "[" + ",".join(coordinate(side) for side in item.box) + "]"


def with_article(name: str) -> str:
    """The name behind its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(glyph: str) -> str:
    """The kind's name in the plural."""
    return f"{glyph}es" if glyph.endswith("s") else f"{glyph}s"


def scene_caption(scene: Scene) -> str:
    """The scene in one sentence that names every object from left to right."""
    names = [with_article(item.name) for item in scene.objects]
    if len(names) == 1:
        return f"{names[0]}."
    return f"{', '.join(names[:-1])} and {names[-1]}."


def scene_tags(scene: Scene) -> list[str]:
    """The tags that are true of a scene, in the order of [`TAGS`]."""
    present = {item.glyph for item in scene.objects} | {item.color for item in scene.objects}
    return [tag for tag in TAGS if tag in present]


def relation_holds(relation: str, first: SceneObject, second: SceneObject) -> bool:
    """Whether `first` stands in `relation` to `second`, judged by the middles of their boxes."""
    dx, dy = first.center[0] - second.center[0], first.center[1] - second.center[1]
    return {"to the left of": dx < 0, "to the right of": dx > 0, "above": dy < 0, "below": dy > 0}[relation]


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of several."""
    return options[int(rng.integers(len(options)))]


def _pick_prompt(rng: np.random.Generator, prompts: Sequence[str]) -> str:
    return prompts[0] if rng.random() < 0.5 else pick(rng, prompts[1:])


def _unique(scene: Scene, attribute: str) -> list[SceneObject]:
    values = [getattr(item, attribute) for item in scene.objects]
    return [item for item in scene.objects if values.count(getattr(item, attribute)) == 1]


def referring_names(scene: Scene, item: SceneObject) -> list[str]:
    """What an object may be called in a scene: colour and kind, or the kind alone where no other is of it."""
    names = [item.name]
    if item in _unique(scene, "glyph"):
        names.append(item.glyph)
    return names


def _caption(scene: Scene, rng: np.random.Generator) -> Sample:
    if rng.random() < 0.15:
        number = len(scene.objects)
        opening = f"there {'is' if number == 1 else 'are'} {number} object{'' if number == 1 else 's'}"
        prompt = format_prompt("caption_long")
        return Sample("caption", "image_level", prompt, f"{opening}: {scene_caption(scene)}", "long")
    return Sample("caption", "image_level", _pick_prompt(rng, CAPTION_PROMPTS), scene_caption(scene), "short")


def _color(scene: Scene, rng: np.random.Generator) -> Sample | None:
    known = _unique(scene, "glyph")
    if not known:
        return None
    item = pick(rng, known)
    return vqa("color", f"What color is the {item.glyph}?", item.color, rng)


def _object(scene: Scene, rng: np.random.Generator) -> Sample | None:
    known = _unique(scene, "color")
    if not known:
        return None
    item = pick(rng, known)
    return vqa("object", f"What is the {item.color} object?", item.glyph, rng)


def _count(scene: Scene, rng: np.random.Generator) -> Sample:
    form = pick(rng, ("objects", "glyph", "glyph", "color", "color"))
    if form == "objects":
        return vqa("count", "How many objects are there?", str(len(scene.objects)), rng, form)
    numbers = possible_counts(scene, form)
    # First the answer, then the question: were kinds asked about at random, "1" would nearly always be right.
    number = pick(rng, sorted(numbers))
    name = pick(rng, numbers[number])
    asked = plural(name) if form == "glyph" else f"{name} objects"
    return vqa("count", f"How many {asked} are there?", str(number), rng, form)


def possible_counts(scene: Scene, form: str) -> dict[int, list[str]]:
    """Kinds (`form="glyph"`) or colours (`form="color"`) by how many objects of the scene have them."""
    values = [getattr(item, form) for item in scene.objects]
    counts: dict[int, list[str]] = {}
    for name in GLYPHS if form == "glyph" else COLORS:
        counts.setdefault(values.count(name), []).append(name)
    return counts


def _side(scene: Scene, rng: np.random.Generator) -> Sample | None:
    place = _pick_place(scene, rng)
    if place is None:
        return None
    name, axis, preposition, sides, true = place
    question = f"Is the {name} {preposition} the {sides[0]} or {preposition} the {sides[1]}?"
    return vqa("side", question, true, rng, "horizontal vertical".split()[axis])


def _position(scene: Scene, rng: np.random.Generator, stated: bool = False) -> Sample | None:
    place = _pick_place(scene, rng)
    if place is None:
        return None
    name, _, preposition, sides, true = place
    side = pick(rng, sides)
    if stated:
        return _judged("position", f"The {name} is {preposition} the {side}.", side == true)
    return vqa("position", f"Is the {name} {preposition} the {side}?", "yes" if side == true else "no", rng, side)


def _pick_place(scene: Scene, rng: np.random.Generator) -> tuple[str, int, str, tuple[str, str], str] | None:
    """An object's name, an axis, the preposition and the names of its two sides, and the side that is true."""
    axis = int(rng.integers(2))
    middle = IMAGE_SIZE / 2
    clear = [item for item in scene.objects if abs(item.center[axis] - middle) >= _RELATION_MARGIN / 2]
    if not clear:
        return None
    item = pick(rng, clear)
    sides = (("left", "right"), ("top", "bottom"))[axis]
    name = pick(rng, referring_names(scene, item))
    return name, axis, ("on", "at")[axis], sides, sides[item.center[axis] > middle]


def _direction(scene: Scene, rng: np.random.Generator) -> Sample | None:
    if len(scene.objects) < 2:
        return None
    first, second = (scene.objects[index] for index in rng.permutation(len(scene.objects))[:2])
    words = []
    for axis, pair in enumerate((("left", "right"), ("above", "below"))):
        distance = first.center[axis] - second.center[axis]
        words.append(pair[distance > 0] if abs(distance) >= _RELATION_MARGIN else None)
    clear = [axis for axis in range(2) if words[axis]]
    if not clear:
        return None
    names = pick(rng, referring_names(scene, first)), pick(rng, referring_names(scene, second))
    if rng.random() < 0.6:
        axis = pick(rng, clear)
        choice = ("to the left or to the right of", "above or below")[axis]
        return vqa("direction", f"Is the {names[0]} {choice} the {names[1]}?", words[axis], rng, "choice")
    question = f"Where is the {names[0]} relative to the {names[1]}?"
    return vqa("direction", question, " and ".join(filter(None, words)), rng, "open")


def pick_relation(scene: Scene, rng: np.random.Generator) -> tuple[SceneObject, SceneObject, str] | None:
    """Two objects that are clearly apart, and a relation along that axis to ask for; `None` where there are none."""
    axis = int(rng.integers(2))
    pairs = [
        (first, second)
        for first in scene.objects
        for second in scene.objects
        if abs(first.center[axis] - second.center[axis]) >= _RELATION_MARGIN
    ]
    if not pairs:
        return None
    first, second = pick(rng, pairs)
    return first, second, RELATIONS[2 * axis + int(rng.integers(2))]


def _relation(scene: Scene, rng: np.random.Generator, stated: bool | None = None) -> Sample | None:
    found = pick_relation(scene, rng)
    if found is None:
        return None
    first, second, relation = found
    names = pick(rng, referring_names(scene, first)), pick(rng, referring_names(scene, second))
    holds = relation_holds(relation, first, second)
    if rng.random() < 0.2 if stated is None else stated:
        return _judged("relation", f"The {names[0]} is {relation} the {names[1]}.", holds)
    question = f"Is the {names[0]} {relation} the {names[1]}?"
    return vqa("relation", question, "yes" if holds else "no", rng, relation)


def _statement(scene: Scene, rng: np.random.Generator) -> Sample | None:
    """What `position` and `relation` ask, stated."""
    stated = pick(rng, (_position, _relation))(scene, rng, stated=True)
    return stated and replace(stated, task="statement", form=stated.task)


def _existence(scene: Scene, rng: np.random.Generator) -> Sample:
    form = pick(rng, EXISTENCE_FORMS)
    wanted = bool(rng.integers(2))
    name = existing_name(scene, form, rng) if wanted else absent_name(scene, form, rng)
    question = f"Is there {with_article(name)} in the image?"
    return vqa("existence", question, "yes" if wanted else "no", rng, form)


def existing_name(scene: Scene, form: str, rng: np.random.Generator) -> str:
    """Something that the scene holds: a kind of object, or for the form `"attribute"` a colour and a kind."""
    item = pick(rng, scene.objects)
    return item.name if form == "attribute" else item.glyph


def absent_name(scene: Scene, form: str, rng: np.random.Generator) -> str:
    """Something that the scene does not hold.

    Args:
        scene: The scene.
        form: `"random"`, any absent kind; `"popular"`, one of the three most common kinds that are absent;
            `"adversarial"`, the absent kind that most often accompanies one that is present; `"attribute"`, a colour
            of one object with the kind of another.
        rng: Where chance comes from.
    """
    present = {item.glyph for item in scene.objects}
    absent = [glyph for glyph in GLYPHS if glyph not in present]
    if form == "random":
        return pick(rng, absent)
    if form == "popular":
        return pick(rng, sorted(absent, key=lambda glyph: -GLYPH_WEIGHTS[tuple(GLYPHS).index(glyph)])[:3])
    if form == "adversarial":
        companions = [COMPANIONS[item.glyph] for item in scene.objects if COMPANIONS[item.glyph] in absent]
        return pick(rng, companions or absent)
    if form == "attribute":
        names = {item.name for item in scene.objects}
        mixed = [
            f"{one.color} {other.glyph}"
            for one in scene.objects
            for other in scene.objects
            if f"{one.color} {other.glyph}" not in names
        ]
        return pick(rng, mixed or [name for name in _near_misses(scene) if name not in names])
    raise ValueError(f"form must be one of {', '.join(EXISTENCE_FORMS)}, got {form!r}")


def _near_misses(scene: Scene) -> list[str]:
    right_glyph = [f"{color} {item.glyph}" for item in scene.objects for color in COLORS]
    right_color = [f"{item.color} {glyph}" for item in scene.objects for glyph in GLYPHS]
    return right_glyph + right_color


def _rec(scene: Scene, rng: np.random.Generator) -> Sample:
    item = pick(rng, scene.objects)
    prompt = _pick_prompt(rng, REC_PROMPTS).format(expression=f"the {pick(rng, referring_names(scene, item))}")
    return Sample("rec", "region_level", prompt, box_text(item), box=item.normalized_box)


def _reg(scene: Scene, rng: np.random.Generator) -> Sample:
    item = pick(rng, scene.objects)
    prompt = _pick_prompt(rng, REG_PROMPTS).format(box=box_text(item))
    return Sample("reg", "region_level", prompt, f"the {item.name}", box=item.normalized_box)


def _judged(task: str, statement: str, holds: bool) -> Sample:
    return Sample(task, "image_level", format_prompt("vsr", statement=statement), str(holds).lower(), "statement")


def vqa(task: str, question: str, answer: str, rng: np.random.Generator, form: str = "") -> Sample:
    """A question of the image level, worded as one of several templates has it."""
    return Sample(task, "image_level", _pick_prompt(rng, VQA_PROMPTS).format(question=question), answer, form)


# The processor's own template first: half of all samples are worded so.
CAPTION_PROMPTS = (format_prompt("caption_short"), "Describe the image.", "What does the image show?")
VQA_PROMPTS = (PROMPT_TEMPLATES["vqa"].text, "{question}")
REC_PROMPTS = (PROMPT_TEMPLATES["rec"].text, "Where is {expression}?", "Locate {expression}.")
REG_PROMPTS = (PROMPT_TEMPLATES["reg"].text, "What is at {box}?", "Describe the region {box}.")
EXISTENCE_FORMS = ("random", "popular", "adversarial", "attribute")

TASKS: dict[str, Callable[[Scene, np.random.Generator], Sample | None]] = {
    "caption": _caption,
    "color": _color,
    "object": _object,
    "count": _count,
    "side": _side,
    "position": _position,
    "direction": _direction,
    "relation": _relation,
    "statement": _statement,
    "existence": _existence,
    "rec": _rec,
    "reg": _reg,
}
"""How a sample of each task is drawn from a scene; `None` where the scene does not allow the question."""
