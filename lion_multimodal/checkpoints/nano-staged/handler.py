"""
What Hugging Face Inference Endpoints run of a LION's repo. They import this file by its name and by itself, without a
package around it, so that it needs nothing but transformers; the model's code comes with `trust_remote_code`.
"""

import base64
import binascii
import io
from typing import Any

import PIL.Image
from transformers import pipeline


# Of the arguments of a call, those that a request may set: `generate` takes others that load code, or fill the memory.
PARAMETERS = (
    "prompt",
    "tags",
    "level",
    "do_sample",
    "length_penalty",
    "max_new_tokens",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beams",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
)
MOST = {"max_new_tokens": 256, "num_beams": 16}
MOST_IMAGES = 32
BATCH_SIZE = 8


class EndpointHandler:
    """
    Answers questions about images.

    Args:
        path (`str`, *optional*, defaults to `""`): The directory of a repo, or its name on the Hub.
    """

    def __init__(self, path: str = ""):
        self.pipe = pipeline("image-to-text", model=path or ".", trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """
        Args:
            data (`dict`): The request. `inputs` is an image (base64, an `http(s):` or `data:` URL, the bytes of a file,
                or a PIL image), a dict with `image` and, if they are this image's own, `prompt`, `tags` and `level`; or
                a list of those. `parameters` are `prompt`, `tags` and `level` for all images, `max_new_tokens`,
                `num_beams` and other arguments of generation.

        Returns:
            `list`: For an image, a list of one dict with `generated_text` and, where the answer holds boxes, `boxes`
            (`[x1, y1, x2, y2]` in pixels) and `labels`. For a list, a list of those.

        Raises:
            TypeError, ValueError, OSError: the request cannot be answered; says why.
        """
        if not isinstance(data, dict) or data.get("inputs") is None:
            raise ValueError('a request must be {"inputs": IMAGE, "parameters": {...}}; it has no `inputs`')
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise TypeError(f"`parameters` must be an object, got {type(parameters).__name__}")
        for name, value in parameters.items():
            if name not in PARAMETERS:
                raise ValueError(f"`parameters` may have {', '.join(PARAMETERS)}; got {name!r:.100}")
            if name in MOST and not (isinstance(value, int) and 1 <= value <= MOST[name]):
                raise ValueError(f"`{name}` must be an integer from 1 to {MOST[name]}, got {value!r:.100}")
        if isinstance(parameters.get("prompt"), list) and len(parameters["prompt"]) > MOST_IMAGES:
            raise ValueError(f"`prompt` must hold at most {MOST_IMAGES} prompts, got {len(parameters['prompt'])}")
        inputs = data["inputs"]
        if not isinstance(inputs, list):
            return self.pipe(_sample(inputs), **parameters)
        if len(inputs) > MOST_IMAGES:
            raise ValueError(f"`inputs` must hold at most {MOST_IMAGES} images, got {len(inputs)}")
        return self.pipe([_sample(item) for item in inputs], batch_size=BATCH_SIZE, **parameters) if inputs else []


def _sample(item: Any) -> dict[str, Any]:
    """An image and what is asked about it, as the pipeline takes them."""
    sample = dict(item) if isinstance(item, dict) else {"image": item}
    image = sample.get("image")
    # A string that is no address would be taken for the name of a file of this machine.
    if isinstance(image, str) and not image.lower().startswith(("http://", "https://", "data:")):
        try:
            image = base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"an image must be base64, or an http(s): or data: URL, got {image[:60]!r:.100}") from None
    elif not isinstance(image, (str, bytes, bytearray, io.BytesIO, PIL.Image.Image)):
        raise TypeError(f"an image must be base64, a URL, bytes or a PIL image, got {type(image).__name__}")
    return {**sample, "image": image}
