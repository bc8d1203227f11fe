"""LION itself: the model, its tagger, the pipeline, the PEFT method, conversion and self-contained Hub repos."""

import importlib
from typing import TYPE_CHECKING, Any

import transformers  # noqa: F401 (its Auto classes learn of LION below)

from modeling_lion import auto_lion


if TYPE_CHECKING:
    from transformers import AutoModelForImageTextToText as AutoModelForVision2Seq

    from modeling_lion.hub_lion import save_lion
    from modeling_lion.modeling_lion import LionForConditionalGeneration, LionImageFeatures
    from modeling_lion.modeling_ram import RamForImageTagging
    from modeling_lion.peft_lion import LionAdapterConfig, LionAdapterModel
    from modeling_lion.pipeline_lion import LionImageToTextPipeline
    from modeling_lion.tagger_lion import LionTagger

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

_MODULES = {
    "LionAdapterConfig": "peft_lion",
    "LionAdapterModel": "peft_lion",
    "LionForConditionalGeneration": "modeling_lion",
    "LionImageFeatures": "modeling_lion",
    "LionImageToTextPipeline": "pipeline_lion",
    "LionTagger": "tagger_lion",
    "RamForImageTagging": "modeling_ram",
    "save_lion": "hub_lion",
}


def __getattr__(name: str) -> Any:
    # The first use imports: models take transformers seconds to load, which `import modeling_lion` alone need not cost.
    if name == "AutoModelForVision2Seq":
        return auto_lion.auto_model_for_vision2seq()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


auto_lion.register()
