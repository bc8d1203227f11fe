"""What trained variants are asked on test images, and how they score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from laboratory.claims.questions import BOTH
from laboratory.claims.rows import CELLS, MOST_OBJECTS, draw_blurred, tagger_tags, tags_with_errors
from laboratory.world.batches import draw
from laboratory.world.dataset import LEVELS
from laboratory.world.evaluate_world import Score, held_out, score_task
from laboratory.world.feature_cache import NumberedCollator, kept_features, use_features, use_images
from laboratory.world.language import TASKS, Sample
from laboratory.world.scene import Scene
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionProcessor


@dataclass(frozen=True)
class Exam:
    """
    What is asked.

    Attributes:
        tasks: Tasks, each with how many samples relative to the others.
        draw: How the tower's images are drawn.
    """

    tasks: dict[str, int]
    draw: Callable[[Sequence[Scene]], np.ndarray] = draw


_IMAGE_LEVEL = {**dict.fromkeys(LEVELS["image_level"], 1), "existence": 2}

EXAMS = {
    "all": Exam({**_IMAGE_LEVEL, **dict.fromkeys((*LEVELS["region_level"], *BOTH), 2)}),
    "images": Exam(_IMAGE_LEVEL),
    "tags": Exam({"caption": 2, "object": 2, "existence": 4}, draw_blurred),
    "regions": Exam(dict.fromkeys(LEVELS["region_level"], 4)),
}
"""The exams that claims name."""

_COUNTED = {"caption": "object F1", "rec": "accuracy at IoU 0.5", "reg": "exact match"}
"""The metric of a task that counts for its level; accuracy for the others."""
_LEVELS = {"image level": LEVELS["image_level"], "region level": LEVELS["region_level"], "both": tuple(BOTH)}
_BATCH = 100


def cases_of(task: str, samples: int) -> list[tuple[Scene, Sample]]:
    """One instruction of a task for each of the test split's next scenes that allow it."""
    return list(held_out(task, samples, most_objects=MOST_OBJECTS, cells=CELLS, known={**TASKS, **BOTH}))


def take_exam(
    model: LionForConditionalGeneration,
    processor: LionProcessor,
    tagger: RamForImageTagging,
    name: str,
    samples: int,
    tags: float | str | None,
    features: Path,
) -> dict[str, float]:
    """
    Scores by task, and their mean by level where all of its tasks were asked.

    Args:
        model: A trained variant, its active branches those that it was trained with.
        processor, tagger: Of its base.
        name: A key of [`EXAMS`].
        samples: Samples of a task of weight 1.
        tags: Share of wrong tags in image-level prompts, `"tagger"` for the tagger's own tags, `None` for no tags.
        features: Directory for the tower's features.
    """
    exam = EXAMS[name]
    by_task = {task: cases_of(task, weight * samples) for task, weight in exam.tasks.items()}
    scenes = [scene for cases in by_task.values() for scene, _ in cases]
    use_images(model)
    use_features(model, kept_features(model, scenes, features, exam.draw))
    if tags is None:
        given: list[list[str] | None] = [None] * len(scenes)
    elif tags == "tagger":
        given = [*tagger_tags(tagger, scenes)]
    else:
        given = [tags_with_errors(scene, float(tags)) for scene in scenes]
    found: dict[str, float] = {}
    start = 0
    for task, cases in by_task.items():
        rows = [
            {"image": start + index, "prompt": sample.prompt, "level": sample.level, "tags": given[start + index]}
            for index, (_, sample) in enumerate(cases)
        ]
        if cases[0][1].level == "region_level":
            rows = [{**row, "tags": None} for row in rows]
        start += len(cases)
        found |= _scores(task, cases, _answers(model, processor, rows))
    for level, tasks in _LEVELS.items():
        if set(tasks) <= set(found):
            found[level] = float(np.mean([found[task] for task in tasks]))
    return found


def _answers(model: LionForConditionalGeneration, processor: LionProcessor, rows: Sequence[dict]) -> list[str]:
    collate = NumberedCollator(processor)
    answers: list[str] = []
    for start in range(0, len(rows), _BATCH):
        with torch.inference_mode():
            ids = model.generate(**collate(rows[start : start + _BATCH]))
        answers += [answer.strip() for answer in processor.batch_decode(ids, skip_special_tokens=True)]
    return answers


def _scores(task: str, cases: Sequence[tuple[Scene, Sample]], answers: Sequence[str]) -> dict[str, float]:
    if task in BOTH:
        return {task: float(np.mean([answer == sample.completion for (_, sample), answer in zip(cases, answers)]))}
    scores = score_task(task, cases, answers)
    found = {task: _counted(task, scores)}
    if task == "rec":
        found["rec, mean IoU"] = next(score.value for score in scores if score.metric == "mean IoU")
    if task == "existence":
        found["existence, adversarial"] = next(
            score.value for score in scores if score.task.endswith("(adversarial)") and score.metric == "accuracy"
        )
    return found


def _counted(task: str, scores: Sequence[Score]) -> float:
    metric = _COUNTED.get(task, "accuracy")
    # Existence has a score for each of its forms; all of a kind count alike. Counts have one for all, and then by form.
    values = [s.value for s in scores if s.metric == metric and (s.task == task or task == "existence")]
    return float(np.mean(values))
