"""The files of a benchmark: images embedded in parquet, or beside JSON Lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as parquet

from laboratory.world.scene import Scene, render
from lion_multimodal.evaluation.rows import IMAGE_FOLDER
from trainers.json_lines import encode_line


TEXT, WHOLE, REAL = datasets.Value("string"), datasets.Value("int64"), datasets.Value("float64")
IMAGE, TEXTS = datasets.Image(), datasets.List(datasets.Value("string"))


def _png(scene: Scene) -> bytes:
    written = io.BytesIO()
    render(scene).save(written, format="PNG", optimize=True)
    return written.getvalue()


def image_of(scene: Scene, name: str) -> dict[str, Any]:
    return {"bytes": _png(scene), "path": name}


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], features: dict[str, Any]) -> None:
    schema = datasets.Features(features)
    table = datasets.Dataset.from_list(list(rows), features=schema).data.table
    # Not by `Dataset.to_parquet`, which writes an image that several rows share once for each of them.
    parquet.write_table(table.cast(schema.arrow_schema), path, compression="zstd")


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(map(encode_line, rows)))


def write_images(folder: Path, scenes: dict[str, Scene]) -> None:
    images = folder / IMAGE_FOLDER
    images.mkdir(exist_ok=True)
    for name, scene in scenes.items():
        (images / name).write_bytes(_png(scene))
