"""
Published figures, in the unit of each benchmark's headline.

Source of all: Chen et al., "LION: Empowering Multimodal Large Language Model with Dual-Level Visual Knowledge", CVPR
2024, arXiv 2311.11860; its tables on image-level tasks, referring expression comprehension, POPE and MMBench.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


SOURCE = "LION, CVPR 2024 (arXiv 2311.11860)"

_IMAGE_LEVEL_NAMES = ("flickr30k", "coco_caption", "textcaps", "okvqa", "aokvqa", "gqa", "iconqa", "vsr", "visdial")
# CIDEr times 100 for the captions, mean reciprocal rank in per cent for VisDial, top-1 accuracy in per cent else.
# "Re-run": by LION's authors.
_IMAGE_LEVEL = {
    "InstructBLIP T5-XL (re-run)": (83.71, 135.47, 104.17, 47.38, 56.12, 46.34, 52.47, 69.93, 48.75),
    "InstructBLIP T5-XXL (re-run)": (85.79, 138.63, 105.44, 53.02, 59.38, 47.74, 53.18, 68.46, 50.41),
    "LION-4B": (85.57, 138.20, 104.87, 51.08, 59.98, 49.50, 54.91, 72.96, 50.02),
    "LION-12B": (87.12, 139.25, 108.76, 57.33, 60.87, 51.56, 54.89, 73.77, 50.42),
}

_REGION_LEVEL_NAMES = (
    "refcoco_val",
    "refcoco_testA",
    "refcoco_testB",
    "refcoco_plus_val",
    "refcoco_plus_testA",
    "refcoco_plus_testB",
    "refcocog_val",
    "refcocog_test",
)
# Accuracy at an IoU of 0.5, in per cent. "Zero-shot" has seen no referring expressions in training.
_REGION_LEVEL = {
    "Shikra-13B": (87.83, 91.11, 81.81, 82.89, 87.79, 74.41, 82.64, 83.16),
    "LION-4B": (89.73, 92.29, 84.82, 83.60, 88.72, 77.34, 85.69, 85.63),
    "LION-12B": (89.80, 93.02, 85.57, 83.95, 89.22, 78.06, 85.52, 85.74),
    "LION-4B (zero-shot)": (57.89, 56.07, 58.40, 46.38, 45.29, 47.50, 64.74, 63.56),
    "LION-12B (zero-shot)": (58.54, 56.41, 59.36, 45.93, 45.73, 47.89, 66.12, 64.69),
}

POPE_DETAILS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "random": {"f1": 88.33, "accuracy": 88.97, "precision": 97.12, "recall": 81.00},
        "popular": {"f1": 85.94, "accuracy": 86.77, "precision": 91.69, "recall": 80.87},
        "adversarial": {"f1": 84.71, "accuracy": 85.37, "precision": 88.69, "recall": 81.07},
    }
)
"""LION on POPE, in per cent, by part and key of the metric's result."""

MMBENCH_ABILITIES: Mapping[str, float] = MappingProxyType(
    {
        "logic_reasoning": 51.7,
        "attribute_reasoning": 84.1,
        "relation_reasoning": 78.4,
        "finegrained_perception (instance-level)": 74.0,
        "finegrained_perception (cross-instance)": 60.8,
        "coarse_perception": 78.9,
    }
)
"""LION-12B on MMBench's test split, circular accuracy in per cent, by the data set's name of the ability."""

PUBLISHED_DETAILS: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]] = MappingProxyType(
    {
        "pope": {part: {"LION": figures} for part, figures in POPE_DETAILS.items()},
        "mmbench": {"": {"LION-12B (test split)": MMBENCH_ABILITIES}},
    }
)
"""Figures beside the headline, in per cent: by benchmark, part, model and key of the metric's result."""


def published_figures(name: str) -> dict[str, dict[str, float]]:
    """
    The published figures of a benchmark's headline, by part and model, as `Benchmark.published` wants them.

    Args:
        name: the benchmark's name.

    Raises:
        ValueError: no figures are known under that name.
    """
    if name in _IMAGE_LEVEL_NAMES:
        index = _IMAGE_LEVEL_NAMES.index(name)
        # The paper's one figure for A-OKVQA is the direct answers': see the benchmark's `why`.
        part = "direct_answer" if name == "aokvqa" else ""
        return {part: {model: figures[index] for model, figures in _IMAGE_LEVEL.items()}}
    if name in _REGION_LEVEL_NAMES:
        index = _REGION_LEVEL_NAMES.index(name)
        return {"": {model: figures[index] for model, figures in _REGION_LEVEL.items()}}
    if name == "pope":
        return {part: {"LION": figures["f1"]} for part, figures in POPE_DETAILS.items()}
    if name == "mmbench":
        return {"": {"LION-12B (test split)": 73.4}}
    names = ", ".join((*_IMAGE_LEVEL_NAMES, *_REGION_LEVEL_NAMES, "pope", "mmbench"))
    raise ValueError(f"no published figures for {name!r}, only for {names}")
