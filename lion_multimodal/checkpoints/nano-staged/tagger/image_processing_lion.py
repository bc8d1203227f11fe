"""LION's image processor: images in, pixel values out, with Pillow and NumPy alone."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from .image_loading_lion import load_images
from .remote_code_lion import IMAGE_PROCESSOR_CODE, write_code


# CLIP statistics, as in the official preprocessors/lion_preprocessors.py; ImageNet's are those of the RAM tagger.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class LionImageProcessor(BaseImageProcessor):
    """
    Turns images into the pixel values that LION, or with [`LionImageProcessor.for_tagging`] its tagger, expects:
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
        image_std: standard deviation per RGB channel, CLIP's by default. One number stands for all channels, here and
            in `image_mean`.
        do_convert_rgb: always True: images are loaded as RGB.
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
        image_mean: Sequence[float] | float = CLIP_MEAN,
        image_std: Sequence[float] | float = CLIP_STD,
        do_convert_rgb: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_switches(do_resize=do_resize, do_rescale=do_rescale, do_normalize=do_normalize)
        _check_convert_rgb(do_convert_rgb)
        self.auto_map = {"AutoImageProcessor": "image_processing_lion.LionImageProcessor"}
        self.do_resize = do_resize
        self.size = _check_size(224 if size is None else size)
        self.resample = int(_check_resample(resample))
        self.do_rescale = do_rescale
        self.rescale_factor = _check_factor(rescale_factor)
        self.do_normalize = do_normalize
        self.image_mean = _check_statistics("image_mean", image_mean)
        self.image_std = _check_statistics("image_std", image_std)
        self.do_convert_rgb = do_convert_rgb

    @classmethod
    def for_tagging(cls, size: int | dict[str, int] = 384, **kwargs: Any) -> "LionImageProcessor":
        """The preprocessing of the RAM tagger: plain bilinear resize, ImageNet mean and standard deviation."""
        settings = {"resample": PIL.Image.Resampling.BILINEAR, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
        return cls(size=size, **{**settings, **kwargs})

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Saves the settings, and the code that reads them where LION is not installed."""
        files = super().save_pretrained(save_directory, **kwargs)
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
        image_mean: Sequence[float] | float | None = None,
        image_std: Sequence[float] | float | None = None,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        do_convert_rgb: bool | None = None,
        data_format: str | None = None,
        device: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Args:
            images: one image or a list of them, from any source of [`load_image`], or a 4-dimensional array.
            return_tensors: `"pt"`, `"np"`, or None for a list of arrays.
            input_data_format: see [`load_image`].
            do_convert_rgb: True or None; images are always loaded as RGB.
            data_format: `"channels_first"`, the default, or `"channels_last"`, of what is returned.
            device: where tensors are put; `return_tensors="pt"` is needed for another than the processor (`"cpu"`).
            kwargs: standard arguments that LION's preprocessing has no step for (`do_center_crop`, `do_pad`, ..); they
                may be None or False. The rest overrides the processor's own settings for this call.

        Returns:
            `pixel_values` of shape (B, 3, H, W), or (B, H, W, 3) with `"channels_last"`, float32.

        Raises:
            TypeError, ValueError, OSError: an image cannot be read, with its index and what was expected.
        """
        for name, value in kwargs.items():
            if name not in _OTHER_ARGUMENTS:
                raise TypeError(f"{type(self).__name__} takes no argument {name!r}")
            if value is not None and value is not False:
                raise ValueError(f"`{name}` is not offered by {type(self).__name__}, got {value!r:.100}")
        _check_convert_rgb(do_convert_rgb)
        # The values of `ChannelDimension` are strings, too.
        if data_format not in (None, "channels_first", "channels_last"):
            raise ValueError(f"data_format must be 'channels_first' or 'channels_last', got {data_format!r:.100}")
        device = None if device is None else torch.device(device)
        if device is not None and device.type != "cpu" and return_tensors != "pt":
            raise ValueError(f"device={str(device)!r} needs return_tensors='pt', got {return_tensors!r:.100}")
        do_resize = self.do_resize if do_resize is None else do_resize
        size = self.size if size is None else _check_size(size)
        resample = self.resample if resample is None else _check_resample(resample)
        do_rescale = self.do_rescale if do_rescale is None else do_rescale
        rescale_factor = self.rescale_factor if rescale_factor is None else _check_factor(rescale_factor)
        do_normalize = self.do_normalize if do_normalize is None else do_normalize
        _check_switches(do_resize=do_resize, do_rescale=do_rescale, do_normalize=do_normalize)
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
            if data_format != "channels_last":
                values = values.transpose(2, 0, 1)
            pixel_values.append(np.ascontiguousarray(values))

        if return_tensors is None:
            return BatchFeature({"pixel_values": pixel_values})
        shapes = {values.shape for values in pixel_values}
        if len(shapes) > 1:
            raise ValueError(f"images of different sizes cannot form one batch without do_resize: {shapes}")
        # One array, because a tensor made from a list of arrays copies value by value.
        empty = (
            (size["height"], size["width"], 3) if data_format == "channels_last" else (3, size["height"], size["width"])
        )
        batch = np.stack(pixel_values) if pixel_values else np.empty((0, *empty), np.float32)
        features = BatchFeature({"pixel_values": batch}, tensor_type=return_tensors)
        return features if device is None or return_tensors != "pt" else features.to(device)


# Of `ImagesKwargs`, what no step of the preprocessing answers to.
_OTHER_ARGUMENTS = frozenset(ImagesKwargs.__annotations__) | {"do_center_crop", "crop_size", "do_pad", "pad_size"}


def _check_switches(**switches: Any) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r:.100}")


def _check_convert_rgb(value: Any) -> None:
    if value is not None and value is not True:
        raise ValueError(f"do_convert_rgb must be True: images are always loaded as RGB; got {value!r:.100}")


def _check_factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"rescale_factor must be a positive number, got {value!r:.100}")
    return value


def _check_size(size: Any) -> dict[str, int]:
    if isinstance(size, int) and not isinstance(size, bool):
        size = {"height": size, "width": size}
    # transformers 5 has a class of its own, which lists keys that are not set as well.
    try:
        size = {key: edge for key, edge in dict(size).items() if edge is not None}
    except (TypeError, ValueError):
        raise ValueError(f"size must be an int or have the keys 'height' and 'width', got {size!r:.100}") from None
    if set(size) != {"height", "width"}:
        raise ValueError(f"size must be an int or have exactly the keys 'height' and 'width', got {size!r:.100}")
    if not all(isinstance(edge, int) and not isinstance(edge, bool) and edge > 0 for edge in size.values()):
        raise ValueError(f"size must hold positive whole numbers of pixels, got {size}")
    return size


def _check_resample(resample: int) -> PIL.Image.Resampling:
    try:
        return PIL.Image.Resampling(resample)
    except (TypeError, ValueError) as error:
        raise ValueError(f"resample must be one of PIL.Image.Resampling, got {resample!r:.100}") from error


def _check_statistics(name: str, values: Any) -> list[float]:
    if isinstance(values, (int, float)) and not isinstance(values, bool):
        values = [values] * 3
    try:
        numbers = [float(value) for value in values if not isinstance(value, (str, bytes, bool))]
        count = len(values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold one number for each of the 3 channels, got {values!r:.100}") from None
    if len(numbers) != 3 or count != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must hold one finite number for each of the 3 channels, got {values!r:.100}")
    if name == "image_std" and min(numbers) <= 0:
        raise ValueError(f"image_std must be positive, got {numbers}")
    return numbers


if False:  # Never runs: names the files that belong to this one, for transformers to copy them.
    from .fetching_lion import __name__ as _
    from .image_loading_lion import __name__ as _
    from .remote_code_lion import __name__ as _
