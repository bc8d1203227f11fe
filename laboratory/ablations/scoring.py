"""A trained variant's scores on test pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from laboratory.ablations.rows import tags_with_errors
from laboratory.world.dataset import LEVELS
from laboratory.world.evaluate_world import Score, answer_all, held_out, score_task
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion import LionProcessor


_COUNTED = {"caption": "object F1", "rec": "accuracy at IoU 0.5", "reg": "exact match"}
"""The metric of a task that counts for its level; accuracy for the others."""


def score(
    directory: Path,
    processor: LionProcessor,
    branches: tuple[str, ...],
    levels: tuple[str, ...],
    samples: int,
    wrong_tags: float | None,
) -> dict[str, float]:
    """
    Scores by task, and their mean by level under the level's name.

    Args:
        directory: The model.
        processor: Its processor.
        branches: Visual branches that it was trained with.
        levels: Which levels to ask.
        samples: Samples a task.
        wrong_tags: Share of wrong tags in image-level prompts; `None` for prompts without tags.
    """
    model = LionForConditionalGeneration.from_pretrained(directory).eval()
    model.set_active_branches(list(branches))
    found: dict[str, float] = {}
    for level in levels:
        for task in LEVELS[level]:
            cases = list(held_out(task, samples))
            tags_of = None if wrong_tags is None else partial(_tags, wrong=wrong_tags)
            scores = score_task(task, cases, answer_all(model, processor, cases, tags_of))
            found[task] = _counted(task, scores)
            if task == "rec":
                found["rec, mean IoU"] = next(s.value for s in scores if s.metric == "mean IoU")
        found[level] = float(np.mean([found[task] for task in LEVELS[level]]))
    return found


def _tags(scenes, wrong: float) -> list[list[str]]:
    return [tags_with_errors(scene, wrong) for scene in scenes]


def _counted(task: str, scores: list[Score]) -> float:
    metric = _COUNTED.get(task, "accuracy")
    # Existence has a score for each of its forms; all of a kind count alike. Counts have one for all, and then by form.
    values = [s.value for s in scores if s.metric == metric and (s.task == task or task == "existence")]
    return float(np.mean(values))
