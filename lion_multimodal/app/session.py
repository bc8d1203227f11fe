"""What stands behind the page: one visitor's image, its tags, and the questions about it."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lion_multimodal.engine import Answer, EncodedImage, LionEngine, PreparedImage, Question
from processing_lion import draw_boxes
from processing_lion.image_loading_lion import image_size, load_image
from processing_lion.prompts_lion import format_tags


if TYPE_CHECKING:
    from PIL.Image import Image


MAX_PIXELS = 64 * 10**6
MAX_PROMPT = 1000
MAX_TAG = 60
MAX_TAGS = 100
MAX_CANDIDATES = 20
MAX_CANDIDATE = 200
KEPT = 20
"""Exchanges that a session keeps; earlier ones are forgotten."""

_SMALLEST, _LARGEST = 480, 640


class PageError(ValueError):
    """What a visitor did cannot be done; the message is for them."""


@dataclass(frozen=True)
class Exchange:
    """
    A question and its answer.

    Attributes:
        prompt (`str`): The question.
        answer ([`Answer`]): What the model said.
        reads (`str`): The prompt as the model reads it, tag sentence included.
        tags (`tuple[str, ...]`): The tags in it.
        added (`tuple[str, ...]`): Those of them that the visitor added.
        removed (`tuple[str, ...]`): What the tagger found and the visitor took out.
        forced (`bool`): Whether the visitor chose the level.
        seconds (`float`): What it took.
        drawing (`PIL.Image.Image`, *optional*): The image with the answer's boxes, if it has some.
    """

    prompt: str
    answer: Answer
    reads: str
    tags: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    forced: bool
    seconds: float
    drawing: Image | None


@dataclass
class Session:
    """
    An image that is being asked about.

    Attributes:
        image ([`EncodedImage`]): All that the model needs of it.
        shown (`PIL.Image.Image`): The image, at a size to show.
        scale (`float`): How much larger that is.
        tags (`list[str]`): The tags to choose from: what the tagger found, then what the visitor added.
        exchanges (`list[Exchange]`): What was asked, in order.
        key (`str`): Tells this image from others of the same visitor.
    """

    image: EncodedImage
    shown: Image
    scale: float
    tags: list[str]
    exchanges: list[Exchange] = field(default_factory=list)
    key: str = field(default_factory=lambda: secrets.token_hex(8))


def read_image(engine: LionEngine, path: Path) -> tuple[Image, PreparedImage]:
    """
    An uploaded file as an image, and prepared.

    Raises:
        PageError: it is no image, or one that is too large; the file is called by its name, without its folder.
    """
    try:
        width, height = image_size(path)
        if width * height > MAX_PIXELS:
            most = MAX_PIXELS // 10**6
            raise PageError(f"{path.name} has {width} × {height} pixels; this page takes up to {most} megapixels.")
        image = load_image(path, max_pixels=MAX_PIXELS)
        return image, engine.prepare(image)
    except PageError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise PageError(" ".join(str(error).split()).replace(str(path), path.name)) from error


def open_image(engine: LionEngine, path: Path) -> Session:
    """
    Read, tag and encode an uploaded file: once, however much is asked about it afterwards.

    Raises:
        PageError: it is no image, or one that is too large.
    """
    image, prepared = read_image(engine, path)
    (encoded,) = engine.encode([prepared])
    longest = max(image.size)
    scale = max(_SMALLEST / longest, 1.0) if longest < _LARGEST else _LARGEST / longest
    return Session(encoded, _resized(image, scale), scale, list(encoded.tags or ()))


def add_tags(session: Session, text: str) -> list[str]:
    """
    Put tags, comma-separated, among those to choose from; the ones that the text names.

    Raises:
        PageError: there is none, or too many.
    """
    names = list(dict.fromkeys(name for part in text.split(",") if (name := " ".join(part.split()))))
    if not names:
        raise PageError("Type a tag to add.")
    if any(len(name) > MAX_TAG for name in names):
        raise PageError(f"A tag can have up to {MAX_TAG} characters.")
    tags = list(dict.fromkeys([*session.tags, *names]))
    if len(tags) > MAX_TAGS:
        raise PageError(f"There can be up to {MAX_TAGS} tags.")
    session.tags = tags
    return names


def make_question(session: Session | None, prompt: str, level: str, chosen: Sequence[str] | None) -> Question:
    """
    A question of a visitor, with the tags that they left in; None for those that the tagger found.

    Raises:
        PageError: there is no image, no prompt, or too much of it.
    """
    if session is None:
        raise PageError("Choose an image first.")
    prompt = prompt.strip()
    if not prompt:
        raise PageError("Type a question first.")
    if len(prompt) > MAX_PROMPT:
        raise PageError(f"A question can have up to {MAX_PROMPT} characters, this one has {len(prompt)}.")
    kept = session.image.tags or () if chosen is None else [tag for tag in session.tags if tag in chosen]
    return Question(prompt, tags=list(kept) or False, level=level)


def ask(
    engine: LionEngine, session: Session | None, prompt: str, level: str = "auto", chosen: Sequence[str] | None = None
) -> Exchange:
    """
    Answer a question and keep it with the session.

    Raises:
        PageError: see [`make_question`].
    """
    question = make_question(session, prompt, level, chosen)
    assert session is not None
    started = time.perf_counter()
    (answer,) = engine.answer([session.image], [question])
    seconds = time.perf_counter() - started
    tags = () if isinstance(question.tags, bool) or question.tags is None else tuple(question.tags)
    found = session.image.tags or ()
    drawing = None
    if answer.boxes:
        boxes = [[edge * session.scale for edge in box] for box in answer.boxes]
        drawing = draw_boxes(session.shown, boxes, answer.labels)
    exchange = Exchange(
        prompt=question.text,
        answer=answer,
        reads=(format_tags(tags) if tags else "") + question.text,
        tags=tags,
        added=tuple(tag for tag in tags if tag not in found),
        removed=tuple(tag for tag in found if tag not in tags),
        forced=level != "auto",
        seconds=seconds,
        drawing=drawing,
    )
    session.exchanges = [*session.exchanges, exchange][-KEPT:]
    return exchange


@dataclass(frozen=True)
class Candidate:
    """
    A possible answer.

    Attributes:
        text (`str`): The answer.
        score (`float`): Its log-likelihood.
        share (`float`): Its probability among the candidates.
    """

    text: str
    score: float
    share: float


def score(
    engine: LionEngine,
    session: Session | None,
    prompt: str,
    level: str,
    chosen: Sequence[str] | None,
    candidates: str,
) -> list[Candidate]:
    """
    How likely each of several answers is, one a line; the likeliest first.

    Raises:
        PageError: see [`make_question`]; or there are not two candidates at least, or too many.
    """
    question = make_question(session, prompt, level, chosen)
    assert session is not None
    texts = list(dict.fromkeys(text for line in candidates.splitlines() if (text := line.strip())))
    if len(texts) < 2:
        raise PageError("Type two candidate answers or more, one a line.")
    if len(texts) > MAX_CANDIDATES or any(len(text) > MAX_CANDIDATE for text in texts):
        raise PageError(f"There can be up to {MAX_CANDIDATES} candidates of up to {MAX_CANDIDATE} characters.")
    scores = engine.score(session.image, question, texts)
    best = max(scores)
    total = sum(math.exp(value - best) for value in scores)
    found = [Candidate(text, value, math.exp(value - best) / total) for text, value in zip(texts, scores)]
    return sorted(found, key=lambda candidate: -candidate.score)


def _resized(image: Image, scale: float) -> Image:
    from PIL.Image import Resampling

    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Resampling.LANCZOS)
