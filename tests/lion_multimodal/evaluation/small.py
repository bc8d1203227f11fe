"""Small benchmarks in memory, and what stands in for datasets and metrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from laboratory.world.dataset import ask
from laboratory.world.language import scene_tags
from laboratory.world.scene import COLORS, SPLITS, render, sample_scene
from lion_multimodal.evaluation.benchmark import Benchmark, Decoding, Example, HubDataset, Metric
from lion_multimodal.evaluation.rows import DataUnavailableError, Examples


IMAGES = 5


def benchmark(name: str, **changes: Any) -> Benchmark:
    fields: dict[str, Any] = {
        "name": name,
        "title": name.capitalize(),
        "task": "question answering",
        "prompts": ("vqa",),
        "sources": (HubDataset("nowhere/none", "test", (), lambda row: ()),),
        "metrics": {part: Metric("agreement", "accuracy") for part in ("words", "choices", "boxes")},
        "decoding": Decoding(num_beams=2, max_new_tokens=24),
        "published": {"words": {"LION-4B": 51.08, "LION-12B": 57.33}},
    }
    return Benchmark(**{**fields, **changes})


# Questions of all kinds about the same images: words, choices, places.
MIXED = benchmark("mixed")
WORDS = benchmark("words", metrics={"": Metric("agreement", "accuracy")}, published={})


def world_examples(images: int = IMAGES, first: int = 500) -> list[Example]:
    """Of each image the questions in words and about a place first, and those with choices after all of these."""
    asked, chosen = [], []
    for seed in SPLITS["test"][first : first + images]:
        scene = sample_scene(seed)
        shared = {
            "image": partial(render, scene),
            "image_id": str(seed),
            "tags": ", ".join(scene_tags(scene)) if seed % 2 else None,
        }
        for number, sample in enumerate(ask(scene, ("count", "existence", "rec"), 3)):
            reference: Any = list(sample.box) if sample.box else sample.completion
            asked.append(
                Example(
                    id=f"{seed}/{number}",
                    instruction=sample.prompt,
                    metric_inputs={"references": reference},
                    part="boxes" if sample.box else "words",
                    level=sample.level,
                    **shared,
                )
            )
        for number, sample in enumerate(ask(scene, ("color", "existence"), 2)):
            candidates = ("yes", "no") if sample.task == "existence" else tuple(COLORS)
            if sample.completion in candidates:
                chosen.append(
                    Example(
                        id=f"{seed}/choice/{number}",
                        instruction=sample.prompt,
                        metric_inputs={"references": candidates.index(sample.completion)},
                        candidates=candidates,
                        part="choices",
                        **shared,
                    )
                )
    return [*asked, *chosen]


def reader(**examples: list[Example] | Exception) -> Callable[..., Examples]:
    """What stands in for `read_examples`: examples, or an error, by benchmark."""

    def read(benchmark: Benchmark, data_dir: Any = None, limit: int | None = None) -> Examples:
        found = examples.get(benchmark.name, DataUnavailableError(f"no dataset of {benchmark.name}"))
        if isinstance(found, Exception):
            raise found
        source = {"folder": "/data/secret/place", "sha256": "abc", "rows": len(found)}
        return Examples(benchmark, found[:limit], source, [{"row": 7, "id": "seven", "reason": "it has no answer"}])

    return read


class Agreement:
    """What stands in for an `evaluate` module: how many predictions say what is true."""

    def __init__(self, name: str) -> None:
        if name != "agreement":
            raise ImportError(f"{name} needs what is not there")

    def compute(self, **inputs: Any) -> dict[str, Any]:
        return self._compute(**inputs)

    def _compute(self, predictions: list, references: list, per_sample: bool = False) -> dict[str, Any]:
        values = [float(self._agree(*pair)) for pair in zip(predictions, references, strict=True)]
        result = {"accuracy": sum(values) / len(values), "right": sum(values), "by": "equality"}
        return {**result, "per_sample": values} if per_sample else result

    @staticmethod
    def _agree(prediction: Any, reference: Any) -> bool:
        if isinstance(prediction, list):
            return prediction.index(max(prediction)) == reference
        if isinstance(reference, list):
            return prediction.startswith("[")
        return prediction == reference
