"""LION itself: the model, its tagger, the pipeline, the PEFT method, conversion and self-contained Hub repos."""

from modeling_lion.modeling_lion import LionForConditionalGeneration, LionImageFeatures
from modeling_lion.modeling_ram import RamForImageTagging


__all__ = ["LionForConditionalGeneration", "LionImageFeatures", "RamForImageTagging"]
