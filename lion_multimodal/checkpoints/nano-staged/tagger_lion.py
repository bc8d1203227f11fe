"""Images to tags: a RAM tagger together with the preprocessing that it was trained with."""

import os
from collections.abc import Sequence
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
        model ([`RamForImageTagging`]): The tagger's model.
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
            ValueError: its weights are not those that its configuration describes.
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
                if problems := model.loading_problems():
                    where = os.path.join(name_or_path, subfolder) if subfolder else name_or_path
                    raise ValueError(f"the tagger in {where} is not whole: {'; '.join(problems)}")
                image_processor = LionImageProcessor.from_pretrained(name_or_path, **kwargs)
                size = model.config.vision_config.image_size
                if image_processor.do_resize and image_processor.size != {"height": size, "width": size}:
                    where = os.path.join(name_or_path, subfolder, "preprocessor_config.json")
                    raise ValueError(f"`size` in {where} must be {size}, the model's, got {image_processor.size}")
                return cls(model, image_processor)
        raise OSError(
            f"{name_or_path} has no tagger, neither in the subfolder {TAGGER_SUBFOLDER}/ nor itself"
        ) from cause

    def __call__(
        self, images: Any, language: str = "en", thresholds: float | Sequence[float] | torch.Tensor | None = None
    ) -> list[list[str]]:
        """
        The tags of each image.

        Args:
            images: One or several images, in any form that the image processor takes; none of an empty list.
            language (`str`): `"en"` or `"zh"`.
            thresholds (`float` or one for each tag, *optional*): In place of the configuration's.
        """
        if isinstance(images, (list, tuple)) and not images:
            return []
        return self.tag_pixel_values(self._pixel_values(images), language, thresholds)

    def scores(
        self, images: Any, language: str = "en", thresholds: float | Sequence[float] | torch.Tensor | None = None
    ) -> list[dict[str, float]]:
        """As calling, with the probability of each tag that is found, the likeliest first."""
        if isinstance(images, (list, tuple)) and not images:
            return []
        return self.score_pixel_values(self._pixel_values(images), language, thresholds)

    def tag_pixel_values(
        self,
        pixel_values: torch.Tensor,
        language: str = "en",
        thresholds: float | Sequence[float] | torch.Tensor | None = None,
    ) -> list[list[str]]:
        """As calling, for preprocessed images of shape `(batch_size, 3, height, width)` on any device."""
        found = self.model.generate_tags(pixel_values.to(self.model.device), language=language, thresholds=thresholds)
        return [[tag.strip() for tag in tags] for tags in found]

    def score_pixel_values(
        self,
        pixel_values: torch.Tensor,
        language: str = "en",
        thresholds: float | Sequence[float] | torch.Tensor | None = None,
    ) -> list[dict[str, float]]:
        """As [`~LionTagger.scores`], for preprocessed images."""
        found = self.model.generate_tags(
            pixel_values.to(self.model.device), language=language, thresholds=thresholds, return_scores=True
        )
        return [
            dict(sorted(((tag.strip(), score) for tag, score in tags), key=lambda pair: -pair[1])) for tags in found
        ]

    def _pixel_values(self, images: Any) -> torch.Tensor:
        return self.image_processor(images, return_tensors="pt")["pixel_values"]
