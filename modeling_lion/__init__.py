"""
LION itself: the model, its tagger, the pipeline, the PEFT method and self-contained Hub repos. Importing it registers
them with transformers' Auto classes and, where PEFT is installed, with its methods.
"""

import importlib
from typing import TYPE_CHECKING, Any

from modeling_lion.auto_lion import AutoModelForVision2Seq, register
from modeling_lion.hub_lion import save_lion
from modeling_lion.modeling_lion import LionForConditionalGeneration, LionImageFeatures
from modeling_lion.modeling_ram import RamForImageTagging
from modeling_lion.pipeline_lion import LionImageToTextPipeline
from modeling_lion.tagger_lion import LionTagger


if TYPE_CHECKING:
    from modeling_lion.peft_lion import LionAdapterConfig, LionAdapterModel

__all__ = [
    "AutoModelForVision2Seq",
    "LionAdapterConfig",
    "LionAdapterModel",
    "LionForConditionalGeneration",
    "LionImageFeatures",
    "LionImageToTextPipeline",
    "LionTagger",
    "RamForImageTagging",
    "save_lion",
]


def __getattr__(name: str) -> Any:
    # On first use, as PEFT is optional.
    if name in ("LionAdapterConfig", "LionAdapterModel"):
        return getattr(importlib.import_module("modeling_lion.peft_lion"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
