"""Images of requests: from where they may come, how large they may be, and which were seen before."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import threading
import urllib.parse
from collections import OrderedDict
from typing import TYPE_CHECKING

import PIL.Image

from lion_multimodal.serving.errors import APIError
from processing_lion.fetching_lion import PrivateAddressError, fetch_url


if TYPE_CHECKING:
    from lion_multimodal.engine import EncodedImage, LionEngine, PreparedImage
    from lion_multimodal.serving.settings import ServerSettings


# Pillow reads many more, some of them by starting other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def is_remote(url: str) -> bool:
    """
    Whether an image has to be fetched.

    Raises:
        APIError: the address is of another kind than servers may read.
    """
    scheme = url[:8].partition(":")[0].lower()
    if scheme not in ("http", "https", "data"):
        shown = repr(url if len(url) <= 100 else url[:97] + "...")
        raise image_error(f"`image_url` must be an http(s): address or a data: URL in base64, got {shown}.")
    return scheme != "data"


def image_error(message: str) -> APIError:
    """The answer to a request whose image is at fault."""
    return APIError(400, message, code="invalid_image_url", param="messages")


def fetch(url: str, settings: ServerSettings) -> bytes:
    """
    The file at an address.

    Raises:
        APIError: it cannot be fetched, or is not allowed to be.
    """
    shown = repr(url if len(url) <= 100 else url[:97] + "...")
    try:
        return fetch_url(
            url,
            timeout=settings.fetch_timeout,
            max_bytes=settings.max_image_bytes,
            allow_private_addresses=settings.allow_private_addresses,
        )
    except PrivateAddressError:  # whose message tells what a name stands for in the server's network
        raise image_error(f"The image {shown} is not at a public address, and this server fetches no other.") from None
    except (OSError, ValueError) as error:
        raise image_error(f"The image {shown} could not be fetched: {error}.") from error


def decode_data_url(url: str, settings: ServerSettings) -> bytes:
    """
    The file in a data: URL.

    Raises:
        APIError: it is none in base64, or too large.
    """
    head, _, payload = url.partition(",")
    if not head.lower().rstrip().endswith(";base64"):
        raise image_error("A data: URL must hold the image in base64: data:image/png;base64,...")
    if len(payload) * 3 // 4 > settings.max_image_bytes + 2:
        raise image_error(f"The image has more than {settings.max_image_bytes} bytes, this server's limit.")
    try:
        return base64.b64decode(urllib.parse.unquote_to_bytes(payload) if "%" in payload else payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise image_error(f"The data: URL is not valid base64: {error}.") from error


def prepare(engine: LionEngine, content: bytes, tag: bool, settings: ServerSettings) -> PreparedImage:
    """
    The file as tensors.

    Raises:
        APIError: it is no image, or too large.
    """
    try:
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return engine.prepare(image, tag=tag, max_pixels=settings.max_image_pixels)
    except MemoryError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise image_error(f"The image's {len(content)} bytes are no file of {', '.join(FORMATS)}.") from error
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise image_error(f"The image cannot be read: {error}.") from error


def digest(content: bytes) -> bytes:
    """What an image is known by."""
    return hashlib.sha256(content).digest()


class ImageCache:
    """
    Encoded images by their content, those that were last asked about; for any number of threads.

    Args:
        max_bytes (`int`): How much their tensors may take.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes, self._bytes = max_bytes, 0
        self._images: OrderedDict[tuple[bytes, bool], EncodedImage] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of the tensors that are kept."""
        return self._bytes

    def get(self, key: bytes, tagged: bool) -> EncodedImage | None:
        """An image that was seen before; with tags, if they are asked for."""
        with self._lock:
            for found in ((key, True),) if tagged else ((key, True), (key, False)):
                if found in self._images:
                    self._images.move_to_end(found)
                    return self._images[found]
        return None

    def put(self, key: bytes, tagged: bool, image: EncodedImage) -> None:
        """Keep an image, in place of those that nobody has asked about for the longest time."""
        size = _size(image)
        if size > self._max_bytes:
            return
        with self._lock:
            if (key, tagged) in self._images:
                self._bytes -= _size(self._images.pop((key, tagged)))
            while self._bytes + size > self._max_bytes:
                self._bytes -= _size(self._images.popitem(last=False)[1])
            self._images[key, tagged] = image
            self._bytes += size


def _size(image: EncodedImage) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in image.features.values())
