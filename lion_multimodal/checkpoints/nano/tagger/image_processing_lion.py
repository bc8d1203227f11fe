"""LION's image processor: images in, pixel values out, with Pillow and NumPy alone."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from .image_loading_lion import load_images
from .remote_code_lion import IMAGE_PROCESSOR_CODE, write_code


# CLIP statistics, as in the official preprocessors/lion_preprocessors.py; ImageNet's are those of the RAM tagger.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class LionImageProcessor(BaseImageProcessor):
    """
    Turns pictures into the pixel values that LION, or with [`LionImageProcessor.for_tagging`] its tagger, expects:
    RGB, resized to `size` without crop (so fractions of width and height stay valid as boxes), scaled to [0, 1],
    normalised. Needs Pillow and NumPy only.

    Args:
        do_resize: whether to resize.
        size: target size in pixels: an int for a square, or `{"height": ..., "width": ...}`.
        resample: the Pillow filter; bicubic for LION.
        do_rescale: whether to multiply the 8-bit values by `rescale_factor`. Float input in [0, 1] is brought to
            8 bits on loading, so it needs no other setting.
        rescale_factor: the factor, 1/255.
        do_normalize: whether to subtract `image_mean` and divide by `image_std`.
        image_mean: mean per RGB channel, CLIP's by default.
        image_std: standard deviation per RGB channel, CLIP's by default.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        do_resize: bool = True,
        size: int | dict[str, int] | None = None,
        resample: int = PIL.Image.Resampling.BICUBIC,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.auto_map = {"AutoImageProcessor": "image_processing_lion.LionImageProcessor"}
        self.do_resize = do_resize
        self.size = _check_size(224 if size is None else size)
        self.resample = int(_check_resample(resample))
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = _check_statistics("image_mean", image_mean)
        self.image_std = _check_statistics("image_std", image_std)

    @classmethod
    def for_tagging(cls, size: int | dict[str, int] = 384, **kwargs: Any) -> "LionImageProcessor":
        """The preprocessing of the RAM tagger: plain bilinear resize, ImageNet mean and standard deviation."""
        settings = {"resample": PIL.Image.Resampling.BILINEAR, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
        return cls(size=size, **{**settings, **kwargs})

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Saves the settings, and the code that reads them where LION is not installed."""
        # Not above: the models' room uses this one.

        files = super().save_pretrained(save_directory)
        write_code(save_directory, IMAGE_PROCESSOR_CODE)
        if push_to_hub:  # saves once more, to a folder of its own, so that all files are sent
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    def preprocess(
        self,
        images: Any,
        do_resize: bool | None = None,
        size: int | dict[str, int] | None = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            images: one picture or a list of them, from any source of [`load_image`], or a 4-dimensional array.
            return_tensors: `"pt"`, `"np"`, or None for a list of arrays.
            input_data_format: see [`load_image`].
            The rest overrides the processor's own settings for this call.

        Returns:
            `pixel_values` of shape (B, 3, H, W), float32.

        Raises:
            TypeError, ValueError, OSError: a picture cannot be read, with its index and what was expected.
        """
        do_resize = self.do_resize if do_resize is None else do_resize
        size = self.size if size is None else _check_size(size)
        resample = self.resample if resample is None else _check_resample(resample)
        do_rescale = self.do_rescale if do_rescale is None else do_rescale
        rescale_factor = self.rescale_factor if rescale_factor is None else rescale_factor
        do_normalize = self.do_normalize if do_normalize is None else do_normalize
        mean = np.asarray(
            self.image_mean if image_mean is None else _check_statistics("image_mean", image_mean), "float32"
        )
        std = np.asarray(self.image_std if image_std is None else _check_statistics("image_std", image_std), "float32")

        pixel_values = []
        for image in load_images(images, input_data_format=input_data_format):
            if do_resize:
                image = image.resize((size["width"], size["height"]), resample=resample)
            values = np.asarray(image, dtype=np.float32)
            if do_rescale:
                values = values * np.float32(rescale_factor)
            if do_normalize:
                values = (values - mean) / std
            pixel_values.append(np.ascontiguousarray(values.transpose(2, 0, 1)))

        if return_tensors is None:
            return BatchFeature({"pixel_values": pixel_values})
        shapes = {values.shape for values in pixel_values}
        if len(shapes) > 1:
            raise ValueError(f"pictures of different sizes cannot form one batch without do_resize: {shapes}")
        # One array, because a tensor made from a list of arrays copies value by value.
        batch = np.stack(pixel_values) if pixel_values else np.empty((0, 3, size["height"], size["width"]), np.float32)
        return BatchFeature({"pixel_values": batch}, tensor_type=return_tensors)


def _check_size(size: int | dict[str, int]) -> dict[str, int]:
    if isinstance(size, int):
        size = {"height": size, "width": size}
    size = {key: edge for key, edge in dict(size).items() if edge is not None}  # transformers 5 lists unset keys, too
    if set(size) != {"height", "width"}:
        raise ValueError(f"size must be an int or have exactly the keys 'height' and 'width', got {size}")
    if not all(isinstance(edge, int) and edge > 0 for edge in size.values()):
        raise ValueError(f"size must hold positive whole numbers of pixels, got {size}")
    return size


def _check_resample(resample: int) -> PIL.Image.Resampling:
    try:
        return PIL.Image.Resampling(resample)
    except ValueError as error:
        raise ValueError(f"resample must be one of PIL.Image.Resampling, got {resample!r}") from error


def _check_statistics(name: str, values: Sequence[float]) -> list[float]:
    values = [float(value) for value in values]
    if len(values) != 3:
        raise ValueError(f"{name} must hold one value for each of the 3 channels, got {values}")
    if name == "image_std" and min(values) <= 0:
        raise ValueError(f"image_std must be positive, got {values}")
    return values


if False:  # Never runs: names the files that belong to this one, for transformers to copy them.
    from .fetching_lion import __name__ as _
    from .image_loading_lion import __name__ as _
    from .remote_code_lion import __name__ as _
