"""Pictures to tags: a RAM tagger together with the preprocessing that it was trained with."""

import os
from typing import Any, Self

import torch
from transformers.configuration_utils import PretrainedConfig

from .hub_lion import TAGGER_SUBFOLDER
from .modeling_ram import RamForImageTagging
from .image_processing_lion import LionImageProcessor


class LionTagger:
    """
    A RAM tagger with its image processor.

    Args:
        model ([`RamForImageTagging`])
        image_processor ([`LionImageProcessor`]): The preprocessing that the model was trained with.
    """

    def __init__(self, model: RamForImageTagging, image_processor: LionImageProcessor):
        self.model = model.eval()
        self.image_processor = image_processor

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Load a tagger, or the one in the subfolder `tagger/` of a LION repo.

        Args:
            name_or_path (`str` or `os.PathLike`): A directory, or a repo on the Hub.
            kwargs: `revision`, `token`, `cache_dir` and the like.

        Raises:
            OSError: there is no tagger at that place.
        """
        name_or_path = os.fspath(name_or_path)
        model_type, cause = RamForImageTagging.config_class.model_type, None
        for subfolder in (TAGGER_SUBFOLDER, ""):
            try:
                config, _ = PretrainedConfig.get_config_dict(name_or_path, subfolder=subfolder, **kwargs)
            except OSError as error:
                cause = cause or error
                continue
            if config.get("model_type") == model_type:
                kwargs["subfolder"] = subfolder
                # Not in the file's own precision: transformers 4 and 5 would tag differently.
                model = RamForImageTagging.from_pretrained(name_or_path, dtype=torch.float32, **kwargs)
                return cls(model, LionImageProcessor.from_pretrained(name_or_path, **kwargs))
        raise OSError(
            f"{name_or_path} has no tagger, neither in the subfolder {TAGGER_SUBFOLDER}/ nor itself"
        ) from cause

    def __call__(self, images: Any, language: str = "en") -> list[list[str]]:
        """The tags of each picture, of one or several in any form that the image processor takes: "en" or "zh"."""
        return self.tag_pixel_values(self.image_processor(images, return_tensors="pt")["pixel_values"], language)

    def tag_pixel_values(self, pixel_values: torch.Tensor, language: str = "en") -> list[list[str]]:
        """As calling, for preprocessed pictures of shape `(batch_size, 3, height, width)` on any device."""
        found = self.model.generate_tags(pixel_values.to(self.model.device), language=language)
        return [[tag.strip() for tag in tags] for tags in found]
