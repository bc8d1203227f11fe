"""Threads that share a pipeline, a processor and a tagger: each gets what it would get alone."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from laboratory.campaigns.campaign import Case, Report, run_cases
from lion_multimodal import checkpoints
from lion_multimodal.checkpoints import demo_scenes


THREADS = 4
_FEW = {"num_beams": 1, "max_new_tokens": 8}


@cache
def _pipeline() -> Any:
    from modeling_lion import LionForConditionalGeneration, LionImageToTextPipeline
    from processing_lion import LionProcessor

    repo = checkpoints.path("nano")
    return LionImageToTextPipeline(
        model=LionForConditionalGeneration.from_pretrained(repo).eval(), processor=LionProcessor.from_pretrained(repo)
    )


def _questions(draw: random.Random) -> list[dict[str, Any]]:
    scenes = demo_scenes()
    asked = [(scene, item) for scene in scenes for item in scene.questions]
    return [{"image": scene.image, "prompt": item["prompt"]} for scene, item in draw.sample(asked, THREADS)]


def _together(function: Any, inputs: list[Any]) -> str:
    alone = [function(item) for item in inputs]
    with ThreadPoolExecutor(len(inputs)) as pool:
        together = list(pool.map(function, inputs))
    assert together == alone, f"together {together}, alone {alone}"
    return "equal"


def _answers(draw: random.Random) -> str:
    pipe = _pipeline()
    return _together(lambda sample: pipe(dict(sample), tags=False, generate_kwargs=_FEW), _questions(draw))


def _tags(draw: random.Random) -> str:
    tagger = _pipeline().tagger
    return _together(lambda sample: tagger(sample["image"]), _questions(draw))


def _prompts(draw: random.Random) -> str:
    processor = _pipeline().processor
    return _together(
        lambda sample: [row.tolist() for row in processor(text=sample["prompt"], tags="cup, dog").values()],
        _questions(draw),
    )


CASES: dict[str, Case] = {"answers": _answers, "tags": _tags, "prompts": _prompts}


def run(count: int = 300, seed: int = 0, first: int = 0) -> Report:
    """Ask in `THREADS` threads, `count` times."""
    return run_cases("threads", CASES, count, seed, first)
