"""The parts of the page that are written as HTML; all that people or models say is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from lion_multimodal.app.session import Candidate, Exchange


if TYPE_CHECKING:
    from PIL.Image import Image


_LEVELS = {"image_level": "image level", "region_level": "region level"}


def message(text: str, kind: str = "error") -> str:
    """A message to the visitor, which screen readers read out; empty for none."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<p class="message {escape(kind)}" role="{role}">{escape(text)}</p>'


def exchanges(asked: Sequence[Exchange]) -> str:
    """Questions and answers, the newest first."""
    if not asked:
        return '<p class="nothing">Answers appear here.</p>'
    return "".join(_exchange(exchange, number) for number, exchange in reversed(list(enumerate(asked, start=1))))


def _exchange(exchange: Exchange, number: int) -> str:
    answer = exchange.answer
    level = f"{_LEVELS[answer.level]}, {'chosen by you' if exchange.forced else 'chosen automatically'}"
    tags = [f"<ins>{escape(tag)}</ins>" if tag in exchange.added else escape(tag) for tag in exchange.tags]
    tags += [f"<del>{escape(tag)}</del>" for tag in exchange.removed]
    text = escape(answer.text) or "<em>(an empty answer)</em>"
    if not answer.finished:
        text += ' <span class="cut" title="The answer reached the limit on its length">…</span>'
    drawing = ""
    if exchange.drawing is not None:
        about = escape(f"The image with {_count(len(answer.boxes), 'box', 'boxes')}: {answer.text}")
        drawing = f'<img class="drawing" src="{data_url(exchange.drawing)}" alt="{about}">'
    return (
        f'<article class="exchange" data-number="{number}">'
        f'<h3 class="asked">{escape(exchange.prompt)}</h3>'
        f'<p class="answer">{text}</p>{drawing}'
        f'<p class="facts"><span class="level">{level}</span>'
        f'<span class="seconds">{exchange.seconds:.1f} s</span></p>'
        f'<p class="facts tags">Tags: {", ".join(tags) or "none"}</p>'
        f"<details><summary>What the model read</summary><code>{escape(exchange.reads)}</code></details>"
        "</article>"
    )


def candidates(scored: Sequence[Candidate]) -> str:
    """Candidates as bars."""
    bars = "".join(
        f'<li><span class="name">{escape(candidate.text)}</span>'
        f'<span class="track" aria-hidden="true"><span class="bar" style="width:{100 * candidate.share:.1f}%"></span>'
        f'</span><span class="share">{100 * candidate.share:.1f} %</span>'
        f'<span class="score">log-likelihood {candidate.score:.2f}</span></li>'
        for candidate in scored
    )
    return f'<ol class="candidates">{bars}</ol>' if bars else ""


def data_url(image: Image) -> str:
    """An image in an address, so that no file of it has to be kept."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
