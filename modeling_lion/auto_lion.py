"""LION among transformers' Auto classes and PEFT's methods, registered as custom models register themselves."""

import importlib.util
import logging
import sys
from typing import Any

import transformers  # before what is imported next: transformers 5 puts a second module in this one's place then
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models import auto
from transformers.models.auto import modeling_auto

# From its module: without torchvision, some of transformers 5 hold a placeholder for it that fails at every touch.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from configuration_lion.configuration_lion import LionConfig
from configuration_lion.configuration_ram import RamConfig
from modeling_lion.hub_lion import LION_AUTO_MAP
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion.image_processing_lion import LionImageProcessor
from processing_lion.processing_lion import LionProcessor


logger = logging.getLogger(__name__)

if hasattr(modeling_auto, "AutoModelForVision2Seq"):
    AutoModelForVision2Seq: Any = modeling_auto.AutoModelForVision2Seq
else:
    # Its own name makes it read its own entry of a repo's `auto_map`.
    class AutoModelForVision2Seq(modeling_auto.AutoModelForImageTextToText):  # type: ignore[no-redef]
        """The image-text-to-text models under the name they had in transformers 4."""

    AutoModelForVision2Seq.__module__ = "transformers"  # where `pickle` looks for it


def register() -> None:
    """
    Make `lion` and `lion_ram` known to transformers, give `AutoModelForVision2Seq` back to transformers 5, and make
    `LION_ADAPTER` known to PEFT where that is installed.
    """
    if not hasattr(modeling_auto, "AutoModelForVision2Seq"):
        # The last of these is where a class from a repo looks whether there is such an Auto class.
        for module in (transformers, sys.modules["transformers"], auto):
            setattr(module, "AutoModelForVision2Seq", AutoModelForVision2Seq)  # noqa: B010 (unknown to the types)

    for config in (LionConfig, RamConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoImageProcessor.register(config, slow_image_processor_class=LionImageProcessor, exist_ok=True)
    AutoProcessor.register(LionConfig, LionProcessor, exist_ok=True)
    AutoModel.register(RamConfig, RamForImageTagging, exist_ok=True)
    for name in LION_AUTO_MAP:
        # Which of them exist depends on the version of transformers.
        if name.startswith("AutoModel") and hasattr(auto, name):
            getattr(auto, name).register(LionConfig, LionForConditionalGeneration, exist_ok=True)

    if importlib.util.find_spec("peft") is not None:
        try:
            importlib.import_module("modeling_lion.peft_lion")
        except ImportError as error:  # a plain model needs no PEFT
            logger.warning("PEFT does not know LION_ADAPTER, as it cannot be imported: %s", error)
