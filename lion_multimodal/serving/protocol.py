"""Requests and answers of `/v1/chat/completions`, and what of OpenAI's LION has no use for."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from lion_multimodal.engine import Answer
from lion_multimodal.serving.errors import APIError


# What changes no answer of LION's, whatever it says.
_WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
# What would change the answer, and is taken only where it asks for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "stop": (None, []),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "web_search_options": (None,),
}


class ImageURL(BaseModel):
    """Where an image is."""

    url: str = Field(description="An http(s): address, or a data: URL in base64.")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Without effect.")


class TextPart(BaseModel):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageURL


def _kind_of_content(content: Any) -> str:
    return "<parts>" if isinstance(content, list) else "<string>"


def _kind_of_part(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return f"<{kind}>" if kind in ("text", "image_url") else None


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[ImagePart, Tag("<image_url>")],
    Discriminator(
        _kind_of_part,
        custom_error_type="part",
        custom_error_message="A part must be an object whose `type` is 'text' or 'image_url'",
    ),
]
Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[Part], Tag("<parts>")], Discriminator(_kind_of_content)
]


class Message(BaseModel):
    """A turn of a conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Content | None = None

    @property
    def image_urls(self) -> list[str]:
        """Where its images are."""
        return [part.image_url.url for part in self._parts if isinstance(part, ImagePart)]

    @property
    def _parts(self) -> list[Any]:
        return self.content if isinstance(self.content, list) else []

    def for_processor(self) -> dict[str, Any]:
        """The message in the form that the processor's chat template takes."""
        if not isinstance(self.content, list):
            return {"role": self.role, "content": self.content or ""}
        kinds = {"text": lambda part: {"type": "text", "text": part.text}, "image_url": lambda _: {"type": "image"}}
        return {"role": self.role, "content": [kinds[part.type](part) for part in self.content]}


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """A question to LION, as a conversation about one image, whose last message is asked."""

    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="Default: the checkpoint's way to answer.")
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tags: Any = Field(None, description="A string or a list of strings; false for none. Default: the tagger's.")
    level: Literal["auto", "image_level", "region_level"] | None = None

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: Any) -> Any:
        if tags is None or isinstance(tags, (bool, str)):
            return tags
        if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
            return tags
        raise ValueError("it must be a string, a list of strings, or false")

    @property
    def max_answer_tokens(self) -> int | None:
        """The request's limit on the length of its answer, by either name."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages in the form that the processor's chat template takes."""
        return [message.for_processor() for message in self.messages]

    def check(self) -> None:
        """
        Raises:
            APIError: the request asks for something that LION does not do.
        """
        for name, value in (self.model_extra or {}).items():
            if name in _WITHOUT_EFFECT:
                continue
            if name not in _REFUSED:
                raise APIError(400, f"Unrecognized request argument supplied: {name}", param=name)
            if value not in _REFUSED[name]:
                raise APIError(400, f"`{name}` is not supported by LION.", param=name, code="unsupported_parameter")
        if self.n not in (None, 1):
            raise APIError(400, f"`n` must be 1: a request gets one answer, got {self.n}.", param="n")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            message = "`max_tokens` is the former name of `max_completion_tokens`: give only one of them."
            raise APIError(400, message, param="max_tokens")

    def image_url(self) -> str:
        """
        The image that is asked about: the last message's own, or else the conversation's.

        Raises:
            APIError: there is none, or more than one.
        """
        urls = self.messages[-1].image_urls or [url for message in self.messages for url in message.image_urls]
        if len(urls) != 1:
            hint = "add a part of the type 'image_url'" if not urls else "LION looks at one image per question"
            raise APIError(400, f"`messages` must hold one image, got {len(urls)}: {hint}.", param="messages")
        return urls[0]


def new_id() -> str:
    """An identifier for an answer."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def usage(answer: Answer) -> dict[str, int]:
    """How many tokens a question and its answer have."""
    total = answer.prompt_tokens + answer.answer_tokens
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.answer_tokens,
        "total_tokens": total,
    }


def found(answer: Answer) -> dict[str, Any]:
    """What an answer of LION's has beside its words."""
    return {"boxes": answer.boxes, "labels": answer.labels, "level": answer.level, "tags": answer.tags}


def finish_reason(answer: Answer) -> str:
    """Whether an answer came to its end or to its limit."""
    return "stop" if answer.finished else "length"


def completion(answer: Answer, model: str) -> dict[str, Any]:
    """An answer as a whole."""
    message = {"role": "assistant", "content": answer.text, "refusal": None, **found(answer)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer)}
    return {
        "id": new_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage(answer),
    }


class Chunks:
    """
    The pieces of a streamed answer.

    Args:
        model (`str`): The model's name.
        include_usage (`bool`): Whether numbers of tokens are asked for.
    """

    def __init__(self, model: str, include_usage: bool):
        self._head = {"id": new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        self._include_usage = include_usage

    def piece(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A piece that adds `delta` to the message."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}

    def last(self, answer: Answer) -> list[dict[str, Any]]:
        """What comes when all words are said: boxes, and numbers of tokens where they are asked for."""
        end = [self.piece(found(answer), finish_reason(answer))]
        return [*end, {**self._head, "choices": [], "usage": usage(answer)}] if self._include_usage else end
