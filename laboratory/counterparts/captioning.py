"""Counterparts of Flickr30K, COCO captions and TextCaps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import datasets

from laboratory.counterparts.files import (
    IMAGE,
    TEXT,
    TEXTS,
    WHOLE,
    image_of,
    write_images,
    write_jsonl,
    write_parquet,
)
from laboratory.counterparts.questions import five_captions
from laboratory.world.scene import IMAGE_SIZE, Scene


def write_flickr30k(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = [
        {
            "image": image_of(scene, f"{scene.seed}.png"),
            "caption": five_captions(scene),
            "sentids": [str(5 * number + caption) for caption in range(5)],
            "split": "test",
            "img_id": str(number),
            "filename": f"{scene.seed}.png",
        }
        for number, scene in enumerate(islice(scenes, num_rows))
    ]
    features = {
        "image": IMAGE,
        "caption": TEXTS,
        "sentids": TEXTS,
        "split": TEXT,
        "img_id": TEXT,
        "filename": TEXT,
    }
    write_parquet(folder / "test-00000-of-00001.parquet", rows, features)


def write_coco_caption(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    shown = {f"COCO_val2014_{scene.seed:012d}.png": scene for scene in islice(scenes, num_rows)}
    rows = [
        {
            "filepath": "val2014",
            "sentids": [5 * number + caption for caption in range(5)],
            "filename": name,
            "imgid": number,
            "split": "test",
            "sentences": five_captions(scene),
            "cocoid": scene.seed,
            "url": f"http://images.cocodataset.org/val2014/{name}",
        }
        for number, (name, scene) in enumerate(shown.items())
    ]
    write_jsonl(folder / "test.jsonl", rows)
    write_images(folder, shown)


def write_textcaps(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = []
    for number, scene in enumerate(islice(scenes, num_rows)):
        name = f"{scene.seed:016x}"
        rows.append(
            {
                "question_id": name,
                "question": "Please carefully observe the image and come up with a caption for the image.",
                "image": image_of(scene, f"{name}.png"),
                "image_id": name,
                "image_classes": sorted({item.glyph for item in scene.objects}),
                "flickr_original_url": "",
                "flickr_300k_url": "",
                "image_width": IMAGE_SIZE,
                "image_height": IMAGE_SIZE,
                "set_name": "val",
                "image_name": name,
                "image_path": f"val/{name}.png",
                "caption_id": [5 * number + caption for caption in range(5)],
                "caption_str": five_captions(scene),
                "reference_strs": five_captions(scene),
            }
        )
    features = dict.fromkeys(rows[0], TEXT) | {
        "image": IMAGE,
        "image_classes": TEXTS,
        "image_width": WHOLE,
        "image_height": WHOLE,
        "caption_id": datasets.List(WHOLE),
        "caption_str": TEXTS,
        "reference_strs": TEXTS,
    }
    write_parquet(folder / "val-00000-of-00001.parquet", rows, features)
