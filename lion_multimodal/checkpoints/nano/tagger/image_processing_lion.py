"""Pictures in, pixel values out: loading of any picture source, and LION's image processor (Pillow and NumPy only)."""

import io
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from .remote_code_lion import IMAGE_PROCESSOR_CODE, write_code


# CLIP statistics, as in the official preprocessors/lion_preprocessors.py; ImageNet's are those of the RAM tagger.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ImageSource: TypeAlias = PIL.Image.Image | str | os.PathLike | bytes | np.ndarray | torch.Tensor

_EXPECTED = (
    "expected a PIL image, a file path, an http(s): or data: URL, the bytes of an image file, or a NumPy array or "
    "torch tensor of shape (H, W), (H, W, C) or (C, H, W) with C in 1, 3, 4"
)
_CHANNELS = (1, 3, 4)
_EXIF_ORIENTATION = 0x0112


def load_image(source: ImageSource, *, input_data_format: str | None = None, timeout: float = 30.0) -> PIL.Image.Image:
    """
    Loads one picture from any source as an 8-bit RGB image.

    EXIF rotation is applied, so that pixels, `image.size` and boxes agree with what a viewer shows. Transparent
    pictures are put on white, as a page would show them (`convert("RGB")` would bring out whatever colour hides
    below). 16-bit greyscale is scaled to 8 bits rather than clipped. Of an animation, the first frame is taken.

    Args:
        source: a PIL image, a file path, an `http(s):` or `data:` URL, the bytes of an image file, or an array or
            tensor of shape (H, W), (H, W, C) or (C, H, W) with C in 1, 3, 4; uint8 and other integers in [0, 255],
            uint16 in [0, 65535], bool, or float in [0, 1].
        input_data_format: `"channels_first"` or `"channels_last"` for arrays whose shape leaves it open, such as
            (3, H, 3); by default such an array is read channels first, as transformers does.
        timeout: seconds to wait for a URL.

    Raises:
        TypeError: the source is of another type.
        FileNotFoundError: there is no such file.
        OSError: the URL could not be fetched.
        ValueError: the file holds no readable picture, or an array has the wrong shape or values.
    """
    if isinstance(source, PIL.Image.Image):
        return _to_rgb(source, "the PIL image")
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _array_to_rgb(source, input_data_format)
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), f"{len(source)} bytes")
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        name = source if len(source) <= 100 else source[:97] + "..."
        # Some hosts refuse requests that name no agent of their own.
        request = urllib.request.Request(source, headers={"User-Agent": "lion-image-loader"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                content = response.read()
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise OSError(f"could not fetch {name}: {error}") from error
        except ValueError as error:  # a malformed URL
            raise ValueError(f"{name} is not a valid URL: {error}") from error
        return _open(io.BytesIO(content), name)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no image file {str(source)!r}; {_EXPECTED}")
        return _open(path, str(path))
    raise TypeError(f"cannot load a picture from {type(source).__name__}; {_EXPECTED}")


def _open(file: Path | io.BytesIO, name: str) -> PIL.Image.Image:
    try:
        with PIL.Image.open(file) as image:
            return _to_rgb(image, name)
    except MemoryError:
        raise
    except Exception as error:  # on damaged files, Pillow's readers raise errors of many types
        raise ValueError(f"{name} holds no readable picture: {error}") from error


def _to_rgb(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    if 0 in image.size:
        raise ValueError(f"{name} is empty: its size is {image.width}x{image.height}")
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:  # otherwise exif_transpose would copy the pixels
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _deep_grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":  # Pillow converts premultiplied grey only to LA
            image = image.convert("LA")
        image = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _deep_grey_to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Greyscale of 16 or 32 bits, which Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.float32)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255):
        values = values / 257.0
    elif image.mode == "F" and values.max() <= 1.0:
        values = values * 255.0
    return PIL.Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _array_to_rgb(source: np.ndarray | torch.Tensor, input_data_format: str | None) -> PIL.Image.Image:
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format must be 'channels_first' or 'channels_last', got {input_data_format!r}")
    shape = source.shape
    if source.ndim not in (2, 3) or source.size == 0:
        raise ValueError(f"an array of shape {shape} is no picture; {_EXPECTED}")
    if source.ndim == 3:
        if input_data_format is None:
            first = shape[0] in (1, 3) or (shape[0] == 4 and shape[-1] not in _CHANNELS)
            input_data_format = "channels_first" if first else "channels_last"
        if input_data_format == "channels_first":
            source = np.moveaxis(source, 0, -1)
        if source.shape[-1] not in _CHANNELS:
            raise ValueError(f"an array of shape {shape} is no picture; {_EXPECTED}")
        if source.shape[-1] == 1:
            source = source[..., 0]
    return _to_rgb(PIL.Image.fromarray(np.ascontiguousarray(_to_uint8(source))), "the array")


def _to_uint8(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return np.rint(values / 257.0).astype(np.uint8)
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.integer):
        if low < 0 or high > 255:
            raise ValueError(f"integer pixel values must lie in [0, 255], got values from {low} to {high}")
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        # A little slack, because bicubic interpolation overshoots. The negation also catches NaN.
        if not (low >= -0.01 and high <= 1.01):
            raise ValueError(
                f"float pixel values must lie in [0, 1], got values from {low} to {high}; use uint8 for [0, 255]"
            )
        return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    raise ValueError(f"an array of dtype {values.dtype} is no picture; expected uint8, uint16, bool or float")


def load_images(images: Any, *, input_data_format: str | None = None) -> list[PIL.Image.Image]:
    """
    Loads one picture or a batch of them: any source of [`load_image`], a list or tuple of sources (a list holding one
    source counts as that source, as chat templates pass it), or a 4-dimensional array or tensor.

    Raises:
        What [`load_image`] raises, with the index of the offending picture named.
    """
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        images = list(images)
    elif not isinstance(images, (list, tuple)):
        images = [images]
    loaded = []
    for index, source in enumerate(images):
        if isinstance(source, (list, tuple)):
            if len(source) != 1:
                raise ValueError(f"images[{index}] holds {len(source)} pictures; LION looks at one picture per text")
            source = source[0]
        try:
            loaded.append(load_image(source, input_data_format=input_data_format))
        except (TypeError, ValueError, OSError) as error:
            kind = next(k for k in (FileNotFoundError, TypeError, ValueError, OSError) if isinstance(error, k))
            raise kind(f"images[{index}]: {error}") from error
    return loaded


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
    from .remote_code_lion import __name__ as _
