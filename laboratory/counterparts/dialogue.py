"""Counterpart of VisDial."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from laboratory.counterparts.files import write_images
from laboratory.counterparts.questions import draw_questions
from laboratory.world.language import scene_caption
from laboratory.world.scene import COLORS, GLYPHS, Scene


_ROUNDS = 10
_CANDIDATES = 100

# Other ways to say what the world answers in a word: candidates that mean the same are relevant, too.
_SAME: dict[str, tuple[str, ...]] = {
    "yes": ("yes it is", "yep"),
    "no": ("no it isn't", "nope"),
    "0": ("zero", "none"),
    "1": ("one", "just 1"),
    "2": ("two", "just 2"),
    "3": ("three", "just 3"),
    "4": ("four", "just 4"),
}
_SHORT_ANSWERS = (
    *COLORS,
    *GLYPHS,
    *("left", "right", "top", "bottom", "above", "below"),
    *(f"{side} and {height}" for side in ("left", "right") for height in ("above", "below")),
    *_SAME,
    *(same for others in _SAME.values() for same in others),
)
_LONG_ANSWERS = tuple(f"the {color} {glyph}" for color in COLORS for glyph in GLYPHS)


def write_visdial(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    answers = [*_SHORT_ANSWERS, *_LONG_ANSWERS]
    numbers = {answer: number for number, answer in enumerate(answers)}
    asked: dict[str, int] = {}
    dialogues: list[dict[str, Any]] = []
    dense = []
    shown: dict[str, Scene] = {}
    tasks = ("color", "object", "count", "count", "side", "direction", "relation", "existence")
    for scene in scenes:
        questions = list(islice(draw_questions(scene, tasks, rng), _ROUNDS))
        if len(questions) < _ROUNDS:
            continue
        turns: list[dict[str, Any]] = []
        for question in questions:
            # Real candidates are the true answer, plausible ones, popular ones and random ones.
            candidates = list(dict.fromkeys((question.answer, *question.others, *_SHORT_ANSWERS)))
            candidates += rng.sample(_LONG_ANSWERS, _CANDIDATES - len(candidates))
            rng.shuffle(candidates)
            turns.append(
                {
                    "question": asked.setdefault(question.text.removesuffix("?").lower(), len(asked)),
                    "answer": numbers[question.answer],
                    "answer_options": [numbers[candidate] for candidate in candidates],
                    "gt_index": candidates.index(question.answer),
                }
            )
        dialogues.append({"image_id": scene.seed, "caption": scene_caption(scene)[:-1], "dialog": turns})
        judged = rng.randrange(_ROUNDS)
        same = _SAME.get(questions[judged].answer, ())
        options = [answers[option] for option in turns[judged]["answer_options"]]
        relevance = [1.0 if option == questions[judged].answer else 0.8 * (option in same) for option in options]
        dense.append({"image_id": scene.seed, "round_id": judged + 1, "gt_relevance": relevance})
        shown[f"VisualDialog_val2018_{scene.seed:012d}.png"] = scene
        if len(dialogues) == num_rows:
            break
    data = {"dialogs": dialogues, "questions": list(asked), "answers": answers}
    content = {"version": "1.0", "split": "val2018", "data": data}
    (folder / "visdial_1.0_val.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "visdial_1.0_val_dense_annotations.json").write_text(json.dumps(dense), encoding="utf-8")
    write_images(folder, shown)
