"""Configurations: what a LION and its tagger are made of."""

from configuration_lion.configuration_lion import (
    LEVELS,
    TASKS,
    VISUAL_BRANCHES,
    LionConfig,
    LionMixtureOfAdaptersConfig,
    LionVisionAggregatorConfig,
)
from configuration_lion.configuration_ram import RamConfig


__all__ = [
    "LEVELS",
    "TASKS",
    "VISUAL_BRANCHES",
    "LionConfig",
    "LionMixtureOfAdaptersConfig",
    "LionVisionAggregatorConfig",
    "RamConfig",
]
