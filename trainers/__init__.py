"""Training of LION: the stages as data, recipes, data sets, collator and trainer."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from trainers.augmentation import Augmentation
    from trainers.collator import LionDataCollator
    from trainers.datasets_lion import build_dataset
    from trainers.recipe import Recipe, RecipeError, SourceRecipe
    from trainers.sft_config import LionSFTConfig
    from trainers.sft_trainer import LionSFTTrainer
    from trainers.stages import STAGES, Stage, get_stage


__all__ = [
    "STAGES",
    "Augmentation",
    "LionDataCollator",
    "LionSFTConfig",
    "LionSFTTrainer",
    "Recipe",
    "RecipeError",
    "SourceRecipe",
    "Stage",
    "build_dataset",
    "get_stage",
]

_MODULES = {
    "Augmentation": "augmentation",
    "LionDataCollator": "collator",
    "build_dataset": "datasets_lion",
    "Recipe": "recipe",
    "RecipeError": "recipe",
    "SourceRecipe": "recipe",
    "LionSFTConfig": "sft_config",
    "LionSFTTrainer": "sft_trainer",
    "STAGES": "stages",
    "Stage": "stages",
    "get_stage": "stages",
}


def __getattr__(name: str) -> Any:
    # On demand: tagging and publishing live here too and need neither TRL nor datasets.
    if name in _MODULES:
        return getattr(importlib.import_module(f"trainers.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
