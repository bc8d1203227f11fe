"""What is said and asked about a scene, in words of the world's own captions and questions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from laboratory.world.language import TASKS, scene_caption, with_article
from laboratory.world.scene import COLORS, GLYPHS, Scene, SceneObject
from processing_lion.prompts_lion import PROMPT_TEMPLATES


_ANNOTATORS = 10


@dataclass(frozen=True)
class Question:
    """A question about a scene: its words, the answer, and what could be answered instead."""

    text: str
    answer: str
    others: tuple[str, ...]


def five_captions(scene: Scene) -> list[str]:
    """Five captions of a scene, as five people would write them; the world's own comes first."""
    names = [with_article(item.name) for item in scene.objects]
    number = len(names)
    backwards = ", ".join(names[:0:-1]) + (f" and {names[0]}." if number > 1 else f"{names[0]}.")
    return [
        scene_caption(scene),
        f"there {'is' if number == 1 else 'are'} {number} object{'' if number == 1 else 's'}: {scene_caption(scene)}",
        f"a picture of {scene_caption(scene)}",
        backwards,
        f"{' next to '.join(names)} in a landscape.",
    ]


def false_caption(scene: Scene, rng: random.Random) -> str:
    """The scene's caption with one object changed in kind or colour."""
    place = rng.randrange(len(scene.objects))
    item, names = scene.objects[place], {item.name for item in scene.objects}
    others = [f"{color} {item.glyph}" for color in COLORS] + [f"{item.color} {glyph}" for glyph in GLYPHS]
    color, glyph = rng.choice([name for name in others if name not in names]).split()
    changed = (*scene.objects[:place], SceneObject(glyph, color, item.box), *scene.objects[place + 1 :])
    return scene_caption(Scene(scene.seed, changed))


def _question(scene: Scene, task: str, rng: random.Random) -> Question | None:
    """A question of one of the world's tasks, `None` where the scene does not allow it."""
    sample = TASKS[task](scene, np.random.default_rng(rng.randrange(2**32)))
    if sample is None:
        return None
    before, after = PROMPT_TEMPLATES["vqa"].text.split("{question}")
    text = sample.prompt.removeprefix(before).removesuffix(after)
    if sample.prompt.startswith("Based on the image"):  # a statement, not a question
        return None
    answers: tuple[str, ...] = {
        "color": tuple(COLORS),
        "object": tuple(GLYPHS),
        "count": tuple(str(number) for number in range(5)),
        "side": ("left", "right") if sample.form == "horizontal" else ("top", "bottom"),
        "direction": ("left", "right") if sample.completion in ("left", "right") else ("above", "below"),
        "relation": ("yes", "no"),
        "existence": ("yes", "no"),
    }[task]
    if task == "direction" and sample.form == "open":
        answers = tuple(f"{side} and {height}" for side in ("left", "right") for height in ("above", "below"))
        answers += ("left", "right", "above", "below")
    return Question(text, sample.completion, tuple(answer for answer in answers if answer != sample.completion))


def draw_questions(scene: Scene, tasks: Sequence[str], rng: random.Random) -> Iterator[Question]:
    """Endless different questions of these tasks, as far as the scene allows them."""
    asked: set[str] = set()
    for _ in range(400):
        question = _question(scene, rng.choice(tasks), rng)
        if question is not None and question.text not in asked:
            asked.add(question.text)
            yield question


def scenes_with_questions(
    scenes: Iterator[Scene], tasks: Sequence[str], num_rows: int, rng: random.Random
) -> Iterator[tuple[Scene, Question]]:
    """Scenes with a question each; those that allow none are left out."""
    pairs = ((scene, next(draw_questions(scene, tasks, rng), None)) for scene in scenes)
    return islice(((scene, question) for scene, question in pairs if question is not None), num_rows)


def ten_answers(question: Question, rng: random.Random) -> list[str]:
    """Ten people's answers: at least seven are right."""
    wrong = rng.choices(question.others, k=rng.randrange(4))
    answers = [question.answer] * (_ANNOTATORS - len(wrong)) + wrong
    rng.shuffle(answers)
    return answers


def draw_options(question: Question, rng: random.Random, number: int = 4) -> list[str]:
    """The answer among up to `number` options, in random order."""
    options = [question.answer, *rng.sample(question.others, min(number - 1, len(question.others)))]
    rng.shuffle(options)
    return options
