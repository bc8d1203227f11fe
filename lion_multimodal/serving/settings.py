"""What a server may be told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """
    Limits of a server, and how it batches.

    Args:
        model_name (`str`, *optional*, defaults to `"lion"`): What requests call the model.
        max_batch_size (`int`, *optional*, defaults to 16): The most questions that are answered together.
        max_wait_ms (`float`, *optional*, defaults to 10.0): Milliseconds that a question waits for others while the
            model has nothing to do.
        max_queue (`int`, *optional*, defaults to 128): Requests that may wait for the model, those included whose
            images are still being read. The next one is answered with 429.
        max_request_bytes (`int`, *optional*, defaults to 32 MiB): The most bytes of a request's body.
        max_image_bytes (`int`, *optional*, defaults to 20 MiB): The most bytes of an image file.
        max_image_pixels (`int`, *optional*, defaults to 2**25): The most pixels of an image.
        max_prompt_tokens (`int`, *optional*): The most tokens of a prompt, tags included; the processor's limit where
            that is lower.
        max_answer_tokens (`int`, *optional*, defaults to 256): The most tokens of an answer.
        fetch_timeout (`float`, *optional*, defaults to 10.0): Seconds that fetching an image may take.
        request_timeout (`float`, *optional*, defaults to 120.0): Seconds that a request may take in all.
        shutdown_timeout (`float`, *optional*, defaults to 60.0): Seconds that accepted requests have when the server
            is told to stop.
        allow_private_addresses (`bool`, *optional*, defaults to `False`): Whether images are fetched from addresses
            that are not public.
        image_cache_bytes (`int`, *optional*, defaults to 256 MiB): How much of encoded images is kept, for further
            questions about them; 0 for nothing.
        image_workers (`int`, *optional*): Threads that decode images; by default one per core, 4 at most.
        api_keys (`tuple[str, ...]`, *optional*): Keys one of which a request must bring; anybody may ask without any.

    Raises:
        ValueError: a value is out of its range.
    """

    model_name: str = "lion"
    max_batch_size: int = 16
    max_wait_ms: float = 10.0
    max_queue: int = 128
    max_request_bytes: int = 32 * 2**20
    max_image_bytes: int = 20 * 2**20
    max_image_pixels: int = 2**25
    max_prompt_tokens: int | None = None
    max_answer_tokens: int = 256
    fetch_timeout: float = 10.0
    request_timeout: float = 120.0
    shutdown_timeout: float = 60.0
    allow_private_addresses: bool = False
    image_cache_bytes: int = 256 * 2**20
    image_workers: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    api_keys: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        positive = ("max_batch_size", "max_queue", "max_request_bytes", "max_image_bytes", "max_image_pixels")
        for name in (*positive, "max_answer_tokens", "image_workers"):
            _check(name, getattr(self, name), int, 1)
        if self.max_prompt_tokens is not None:
            _check("max_prompt_tokens", self.max_prompt_tokens, int, 1)
        _check("image_cache_bytes", self.image_cache_bytes, int, 0)
        _check("max_wait_ms", self.max_wait_ms, (int, float), 0)
        for name in ("fetch_timeout", "request_timeout", "shutdown_timeout"):
            _check(name, getattr(self, name), (int, float), 0.001)
        if not self.model_name.strip():
            raise ValueError(f"`model_name` must be a name, got {self.model_name!r:.100}")
        if not all(key.strip() and key.isascii() and key.isprintable() for key in self.api_keys):
            raise ValueError("`api_keys` must be printable ASCII, and not empty")


def _check(name: str, value: object, kinds: type | tuple[type, ...], least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < float("inf"):  # type: ignore[operator]
        kind = "an integer" if kinds is int else "a number"
        raise ValueError(f"`{name}` must be {kind} of at least {least}, got {value!r:.100}")
