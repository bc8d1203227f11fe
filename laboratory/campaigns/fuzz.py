"""Random input at every door that takes input of strangers: texts, boxes, images, configurations, files of records."""

from __future__ import annotations

import inspect
import io
import json
import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configuration_lion import LionConfig, RamConfig
from laboratory.campaigns.campaign import Case, Report, attempt, run_cases
from lion_multimodal import checkpoints
from processing_lion import (
    LionProcessor,
    draw_boxes,
    format_box,
    format_prompt,
    infer_level,
    intersection_over_union,
    load_image,
    parse_boxes,
)


_PIECES = (
    "a", " ", "\n", "\t", "[", "]", "(", ")", ",", ".", "0.5", "0.123", "1.000", "-1", "1e9", "nan", "<image>", "</s>",
    "<extra_id_0>", "<pad>", "\u200b", "é", "猫", "🦁", "\ud83d", "\0", "%s", "{}", "{question}", "locate",
    "coordinates",
    "According to", "[0.1,0.2,0.3,0.4]", "[0.1, 0.2, 0.3", "[[", "]]", "\\", '"', "'", "-", "–", "x" * 50,
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**9, -(10**9), 0.0, 0.5, -0.5, 1.5, float("nan"), float("inf"), "", "abc", "1",
    b"", b"x", [], [1], [None], ["a"], [0.1, 0.2, 0.3, 0.4], {}, {"a": 1}, (), ("a", "b"), {1, 2}, object, 3 + 4j,
)  # fmt: skip


def text(draw: random.Random, most: int = 40) -> str:
    """Pieces that mean something to some parser, in any order, some of them many times over."""
    pieces = [draw.choice(_PIECES) for _ in range(draw.randrange(most))]
    if draw.random() < 0.05:
        pieces.append(draw.choice(_PIECES) * draw.choice((100, 5000)))
    return "".join(pieces)


def value(draw: random.Random) -> Any:
    """Anything."""
    return text(draw, 6) if draw.random() < 0.2 else draw.choice(_VALUES)


def image_bytes(draw: random.Random) -> bytes:
    """A small image file of some kind, some of its bytes changed, cut off or put in."""
    buffer = io.BytesIO()
    size = (draw.randrange(1, 40), draw.randrange(1, 40))
    mode = draw.choice(("RGB", "RGBA", "L", "LA", "P", "1"))
    format_ = draw.choice(("PNG", "GIF", "TIFF", "WEBP", "JPEG", "BMP"))
    Image.new("RGB" if format_ in ("JPEG", "WEBP") else mode.replace("LA", "L"), size).save(buffer, format_)
    content = bytearray(buffer.getvalue())
    for _ in range(draw.randrange(6)):
        place = draw.randrange(len(content))
        how = draw.random()
        if how < 0.6:
            content[place] = draw.randrange(256)
        elif how < 0.8:
            del content[place : place + draw.randrange(1, 30)]
        else:
            content[place:place] = draw.randbytes(draw.randrange(1, 20))
        if not content:
            content = bytearray(b"\0")
    return bytes(content)


def array(draw: random.Random) -> np.ndarray:
    """An array that may or may not be an image."""
    shape = tuple(draw.choice((0, 1, 2, 3, 4, 5, 9)) for _ in range(draw.randrange(5)))
    dtype = draw.choice(("uint8", "uint16", "int64", "float32", "float64", "bool", "complex64", "object"))
    return (np.ones(shape) * draw.choice((0, 0.5, 1, 255, 300, -1, float("nan")))).astype(dtype)


@cache
def processor() -> LionProcessor:
    return LionProcessor.from_pretrained(checkpoints.path("nano"))


def _parsed(draw: random.Random) -> str:
    given = text(draw)

    def parse() -> None:
        boxes = parse_boxes(given)
        assert all(len(box) == 4 for box in boxes), f"{boxes} of {given!r}"
        processor().post_process_grounding([given], [(draw.randrange(1, 999), draw.randrange(1, 999))])
        assert infer_level(given) in ("image_level", "region_level")

    return attempt(parse)


def _boxes(draw: random.Random) -> str:
    function: Callable[[], object] = draw.choice(
        (
            lambda: format_box(value(draw)),
            lambda: intersection_over_union(value(draw), value(draw)),
            lambda: draw_boxes(Image.new("RGB", (20, 10)), [value(draw)], [text(draw, 5)]),
            lambda: format_prompt(text(draw, 2), **{"question": value(draw)}),
            lambda: processor().post_process_grounding(value(draw), value(draw)),
        )
    )
    return attempt(function)


def _prompts(draw: random.Random) -> str:
    arguments: dict[str, Any] = {
        "text": [text(draw)],
        "tags": draw.choice((None, text(draw, 8), [[text(draw, 3)] * 3])),
    }
    if draw.random() < 0.5:
        name = draw.choice(("text", "tags", "task", "answers", "padding", "truncation", "max_length", "return_tensors"))
        arguments[name] = value(draw)

    def process() -> None:
        encoded = processor()(**{"return_tensors": None, **arguments})
        rows = [len(row) for row in encoded["input_ids"]]
        assert rows == [len(row) for row in encoded["soft_prompt_mask"]], f"rows of {rows}"

    return attempt(process)


def _images(draw: random.Random) -> str:
    source = draw.choice((image_bytes, array, value, text))(draw)
    outcome = attempt(lambda: load_image(source))
    if outcome == "done":
        assert load_image(source).mode == "RGB"
    return outcome


def _configurations(draw: random.Random) -> str:
    kind = draw.choice((LionConfig, RamConfig))
    fields = _config_fields(kind)
    path = draw.choice(fields)
    changes: dict[str, Any] = {path[0]: value(draw)} if len(path) == 1 else {path[0]: {path[1]: value(draw)}}
    return attempt(lambda: kind(**changes))


@cache
def _config_fields(kind: type) -> list[tuple[str, ...]]:
    """The fields that are LION's own, and some of those that its parts have."""
    own = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
    fields: list[tuple[str, ...]] = [(name,) for name in sorted(own)]
    for name in sorted(own):
        if name.endswith("_config"):
            fields += [(name, inner) for inner in ("hidden_size", "image_size", "num_hidden_layers")]
    return fields


def _records(draw: random.Random) -> str:
    from trainers.resumable_jsonl import ResumableJsonl

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "records.jsonl")
        lines = [json.dumps({"id": number, "tags": [text(draw, 3)]}) + "\n" for number in range(draw.randrange(5))]
        content = "".join(lines).encode("utf-8", "backslashreplace")
        content = content[: draw.randrange(len(content) + 1)]
        if draw.random() < 0.3:
            content += draw.randbytes(draw.randrange(9))
        file.write_bytes(content)
        records = ResumableJsonl(file, "id", ["tags"])

        def resume() -> None:
            records.recover()
            whole = records.records()
            records.append([{"id": "new", "tags": []}])
            assert records.records() == [*whole, {"id": "new", "tags": []}], "a record got lost"

        outcome = attempt(resume)
        if outcome == "refused":
            assert file.read_bytes() == content, "a file that was refused was changed"
        return outcome


CASES: dict[str, Case] = {
    "answers parsed": _parsed,
    "arguments of boxes": _boxes,
    "prompts": _prompts,
    "images": _images,
    "configurations": _configurations,
    "interrupted records": _records,
}


def run(count: int = 120_000, seed: int = 0, first: int = 0) -> Report:
    """Run `count` cases of all kinds."""
    return run_cases("fuzz", CASES, count, seed, first)
