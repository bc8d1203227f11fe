"""Images from any source, as 8-bit RGB."""

import base64
import binascii
import contextlib
import io
import os
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import PIL.TiffImagePlugin
import torch

from .fetching_lion import MAX_BYTES, TIMEOUT, fetch_url


# The most pixels of an image that is decoded: half a gigabyte at Pillow's four bytes each. A phone's 108 million pass.
MAX_PIXELS = 2**27

ImageSource: TypeAlias = (
    PIL.Image.Image
    | str
    | os.PathLike
    | bytes
    | bytearray
    | memoryview
    | io.IOBase
    | Mapping
    | np.ndarray
    | torch.Tensor
)

_EXPECTED = (
    "expected a PIL image, a file path, an http(s):, data: or file: URL, base64, the bytes of an image file, an open "
    "binary file, a dict with 'bytes' or 'path', or a NumPy array or torch tensor of shape (H, W), (H, W, C) or "
    "(C, H, W) with C in 1, 3, 4"
)
_CHANNELS = (1, 3, 4)
_EXIF_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
# What is brought to RGB by way of larger formats is so in strips of this many pixels.
_STRIP = 2**22
# Base64 that is shorter, and no image, is rather a path with a fault in it.
_SHORTEST_BASE64 = 200


def load_image(
    source: ImageSource,
    *,
    input_data_format: str | None = None,
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    max_pixels: int | None = MAX_PIXELS,
    allow_private_addresses: bool | None = None,
) -> PIL.Image.Image:
    """
    Loads one image from any source as 8-bit RGB.

    EXIF rotation is applied, so that pixels, `image.size` and boxes agree with what a viewer shows; EXIF data that
    cannot be read rotate nothing. Transparent images are put on white, as a page would show them (`convert("RGB")`
    would bring out whatever colour hides below). 16-bit greyscale is scaled to 8 bits rather than clipped. Of an
    animation, the first frame is taken.

    Args:
        source: a PIL image; a file path; an `http(s):`, `data:` or `file:` URL; base64; the bytes of an image file
            (`bytes`, `bytearray`, `memoryview`); a binary file, open or in memory; a dict with `bytes` or `path`, as
            `datasets` gives undecoded images; or an array or tensor of shape (H, W), (H, W, C) or (C, H, W) with C in
            1, 3, 4: uint8 and other integers in [0, 255], uint16 in [0, 65535], bool, or float in [0, 1].
        input_data_format: `"channels_first"` or `"channels_last"` for arrays whose shape leaves it open, such as
            (3, H, 3); by default such an array is read channels first, as transformers does.
        timeout: seconds that fetching a URL may take in all.
        max_bytes: the most bytes to read from a URL.
        max_pixels: the most pixels of an image that is decoded, 2**27 by default; None for no limit but Pillow's own.
        allow_private_addresses: whether a URL, or what it redirects to, may lead to an address that is not public,
            such as `localhost`; by default not, unless the environment variable `LION_ALLOW_PRIVATE_ADDRESSES` is 1.

    Raises:
        TypeError: the source is of another type.
        FileNotFoundError: there is no such file.
        OSError: the URL could not be fetched.
        ValueError: the source holds no readable image or one above `max_pixels`, or an array has the wrong shape or
            values.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _array_to_rgb(source, input_data_format)
    opened, name = _open(source, timeout, max_bytes, allow_private_addresses)
    with _reading(name), contextlib.ExitStack() as stack:
        if opened is not source:
            stack.enter_context(opened)
        return _to_rgb(opened, max_pixels)


def image_size(source: ImageSource, **kwargs: Any) -> tuple[int, int]:
    """
    Width and height in pixels that [`load_image`] gives an image, EXIF rotation applied; read from the image's header,
    so far as its format permits. `kwargs` and errors are those of [`load_image`].
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return load_image(source, **kwargs).size
    limits = {"timeout": TIMEOUT, "max_bytes": MAX_BYTES, "allow_private_addresses": None, **kwargs}
    max_pixels = limits.pop("max_pixels", MAX_PIXELS)
    limits.pop("input_data_format", None)
    opened, name = _open(source, **limits)
    with _reading(name), contextlib.ExitStack() as stack:
        if opened is not source:
            stack.enter_context(opened)
        _check_size(opened, max_pixels)
        width, height = opened.size
        # Of a TIFF image, Pillow gives the size that it has when it is turned.
        turned = _orientation(opened) >= 5 and not isinstance(opened, PIL.TiffImagePlugin.TiffImageFile)
        return (height, width) if turned else (width, height)


def _open(
    source: Any, timeout: float, max_bytes: int, allow_private_addresses: bool | None
) -> tuple[PIL.Image.Image, str]:
    """The image, not decoded, and what messages call it."""
    if isinstance(source, PIL.Image.Image):
        return source, "the PIL image"
    if isinstance(source, Mapping):
        if not {"bytes", "path"} & set(source):
            keys = ", ".join(map(repr, list(source)[:5]))
            raise TypeError(f"a dict must hold an image as 'bytes' or 'path', this one has {keys or 'no keys'}")
        content, path = source.get("bytes"), source.get("path")
        if content is None and path is None:
            raise ValueError("a dict must hold an image as 'bytes' or 'path', in this one both are None")
        source = path if content is None else content
        if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
            key = "path" if content is None else "bytes"
            raise TypeError(f"{key!r} of a dict that holds an image cannot be of type {type(source).__name__}")
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        return _identify(io.BytesIO(content), f"{len(content)} bytes"), f"{len(content)} bytes"
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
        return _open_path(os.fsdecode(source))
    if isinstance(source, str):
        scheme = source[:8].partition(":")[0].lower()
        if scheme in ("http", "https"):
            name = _short(source)
            try:
                content = fetch_url(
                    source, timeout=timeout, max_bytes=max_bytes, allow_private_addresses=allow_private_addresses
                )
            except OSError as error:
                raise OSError(f"could not fetch {name}: {error}") from error
            except ValueError as error:
                raise ValueError(f"could not fetch {name}: {error}") from error
            return _identify(io.BytesIO(content), name), name
        if scheme == "data":
            return _open_data_url(source)
        if scheme == "file" and source[4:].startswith(":/"):
            return _open_file_url(source)
        return _open_string(source)
    if callable(getattr(source, "read", None)):
        name = str(getattr(source, "name", type(source).__name__))
        if isinstance(source, io.TextIOBase):
            raise TypeError(f"the file {_short(name)} is open as text; open it with mode 'rb'")
        return _identify(source, name), name
    raise TypeError(f"cannot load an image from {type(source).__name__}; {_EXPECTED}")


def _open_data_url(url: str) -> tuple[PIL.Image.Image, str]:
    name = _short(url)
    head, comma, payload = url.partition(",")
    if not comma:
        raise ValueError(f"{name} is not a valid data: URL, it has no comma")
    try:
        content = urllib.parse.unquote_to_bytes(payload)
        if head.lower().rstrip().endswith(";base64"):
            content = base64.b64decode(content)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is not a valid data: URL: {error}") from error
    return _identify(io.BytesIO(content), name), name


def _open_file_url(url: str) -> tuple[PIL.Image.Image, str]:
    parts = urllib.parse.urlsplit(url)
    if parts.netloc.lower() not in ("", "localhost"):
        raise ValueError(f"{_short(url)} is a file of another machine; give a file: URL without a host")
    # A file's name may hold what would begin a query or a fragment.
    rest = url[len("file:") :]
    path = rest[len("//") + len(parts.netloc) :] if rest.startswith("//") else rest
    return _open_path(urllib.request.url2pathname(path))


def _open_path(path: str) -> tuple[PIL.Image.Image, str]:
    if not _is_file(path):
        raise FileNotFoundError(f"there is no image file {_short(path)}; {_EXPECTED}")
    return _identify(Path(path).expanduser(), path), path


def _open_string(source: str) -> tuple[PIL.Image.Image, str]:
    """A path, or else base64."""
    if _is_file(source):
        return _open_path(source)
    name = f"the base64 string {_short(source)}"
    try:
        content = base64.b64decode("".join(source.split()), validate=True)
    except ValueError:  # no base64, or characters that are not ASCII
        return _open_path(source)
    try:
        return _identify(io.BytesIO(content), name), name
    except ValueError:
        if len(source) >= _SHORTEST_BASE64:
            raise
        return _open_path(source)


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a null character or a lone surrogate, no such user's home
        return False


def _short(name: str) -> str:
    """A name on one line, shortened."""
    return repr(name if len(name) <= 100 else name[:97] + "...")


class _OwnError(Exception):
    """A fault of an image that Pillow can read: what comes behind the image's name."""


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Makes `ValueError`s that name the image of what goes wrong while it is read."""
    try:
        yield
    except MemoryError:
        raise
    except _OwnError as error:
        raise ValueError(f"{name} {error}") from None
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{name} holds no readable image: its format is none that Pillow knows") from error
    except Exception as error:  # on damaged files, Pillow's readers raise errors of many types
        raise ValueError(f"{name} holds no readable image: {error}") from error


def _identify(file: Any, name: str) -> PIL.Image.Image:
    with _reading(name):
        return PIL.Image.open(file)


def _check_size(image: PIL.Image.Image, max_pixels: int | None) -> None:
    if 0 in image.size:
        raise _OwnError(f"is empty: its size is {image.width}x{image.height}")
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise _OwnError(
            f"has {image.width}x{image.height} pixels, more than `max_pixels` ({max_pixels}); make it smaller, or "
            "raise that limit"
        )


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF orientation from 1 to 8; 1, upright, where there is none that can be read."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # the parser's errors are of many types, and a damaged EXIF block is no damaged image
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def _to_rgb(image: PIL.Image.Image, max_pixels: int | None) -> PIL.Image.Image:
    _check_size(image, max_pixels)
    image.load()
    orientation = _orientation(image)  # Pillow turns a TIFF image itself, and only then says that it is upright
    rgb = _convert(image)
    if orientation in _TRANSPOSITIONS:
        rgb = rgb.transpose(_TRANSPOSITIONS[orientation])
    # What was seen to must not be so once more where the image is loaded again.
    rgb.info = {}
    return rgb


def _convert(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith(("I", "F")):
        # Greyscale of 16 or 32 bits, which Pillow's own conversion clips at 255.
        high: Any = image.getextrema()[1] if image.mode in ("I", "F") else 65535
        scale = 1.0
        if image.mode.startswith("I;16") or (image.mode == "I" and high > 255):
            scale = 1 / 257.0
        elif image.mode == "F" and high <= 1.0:
            scale = 255.0
        return _in_strips(image, lambda strip: _grey_to_rgb(strip, scale))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _in_strips(image, _on_white)
    return image.convert("RGB")


def _in_strips(image: PIL.Image.Image, convert: Any) -> PIL.Image.Image:
    """RGB of an image by way of a format that needs much memory."""
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return convert(image)
    rgb = PIL.Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        rgb.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return rgb


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "La":  # Pillow converts premultiplied grey only to LA
        image = image.convert("LA")
    image = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _grey_to_rgb(image: PIL.Image.Image, scale: float) -> PIL.Image.Image:
    values = np.asarray(image).astype(np.float32) * np.float32(scale)
    if not np.isfinite(values).all():
        raise _OwnError("holds pixel values that are not finite")
    return PIL.Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _array_to_rgb(source: np.ndarray | torch.Tensor, input_data_format: str | None) -> PIL.Image.Image:
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(
            f"input_data_format must be 'channels_first' or 'channels_last', got {input_data_format!r:.100}"
        )
    shape = source.shape
    if source.ndim not in (2, 3) or source.size == 0:
        raise ValueError(f"an array of shape {shape} is no image; {_EXPECTED}")
    if source.ndim == 3:
        if input_data_format is None:
            first = shape[0] in (1, 3) or (shape[0] == 4 and shape[-1] not in _CHANNELS)
            input_data_format = "channels_first" if first else "channels_last"
        if input_data_format == "channels_first":
            source = np.moveaxis(source, 0, -1)
        if source.shape[-1] not in _CHANNELS:
            raise ValueError(f"an array of shape {shape} is no image; {_EXPECTED}")
        if source.shape[-1] == 1:
            source = source[..., 0]
    return _to_rgb(PIL.Image.fromarray(np.ascontiguousarray(_to_uint8(source))), max_pixels=None)


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
    raise ValueError(f"an array of dtype {values.dtype} is no image; expected uint8, uint16, bool or float")


def load_images(images: Any, *, input_data_format: str | None = None) -> list[PIL.Image.Image]:
    """
    Loads one image or a batch of them: any source of [`load_image`], a list, tuple or other sequence of sources, such
    as a column of a dataset (an inner list that holds one source counts as that source, as chat templates pass it),
    or a 4-dimensional array or tensor.

    Raises:
        What [`load_image`] raises, with the index of the offending image named.
    """
    loaded = []
    for index, source in enumerate(_sources(images)):
        if isinstance(source, (list, tuple)):
            if len(source) != 1:
                raise ValueError(f"images[{index}] holds {len(source)} images; LION looks at one image per text")
            source = source[0]
        try:
            loaded.append(load_image(source, input_data_format=input_data_format))
        except (TypeError, ValueError, OSError) as error:
            kind = next(k for k in (FileNotFoundError, TypeError, ValueError, OSError) if isinstance(error, k))
            raise kind(f"images[{index}]: {error}") from error
    return loaded


def _sources(images: Any) -> Iterable[Any]:
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return images if images.ndim == 4 or images.dtype == object else [images]
    one = (PIL.Image.Image, str, os.PathLike, bytes, bytearray, memoryview, Mapping)
    if isinstance(images, one) or callable(getattr(images, "read", None)):
        return [images]
    # Sets have no order.
    return images if isinstance(images, Iterable) and not isinstance(images, (set, frozenset)) else [images]
