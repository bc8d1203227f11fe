"""Counterpart of POPE."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from laboratory.counterparts.files import IMAGE, TEXT, image_of, write_parquet
from laboratory.world.language import with_article
from laboratory.world.scene import COMPANIONS, GLYPH_WEIGHTS, GLYPHS, Scene
from lion_multimodal.evaluation.benchmarks.pope import PARTS


_QUESTIONS = 6


def _absent(scene: Scene, part: str, number: int, rng: random.Random) -> list[str]:
    """Kinds of objects that a scene lacks: any, the commonest, or those that most often accompany what it shows."""
    present = {item.glyph for item in scene.objects}
    absent = [glyph for glyph in GLYPHS if glyph not in present]
    if part == "random":
        return rng.sample(absent, number)
    by_frequency = sorted(absent, key=lambda glyph: -GLYPH_WEIGHTS[tuple(GLYPHS).index(glyph)])
    if part == "popular":
        return by_frequency[:number]
    companions = [COMPANIONS[item.glyph] for item in scene.objects if COMPANIONS[item.glyph] in absent]
    return list(dict.fromkeys([*companions, *by_frequency]))[:number]


def write_pope(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    half = _QUESTIONS // 2
    shown = list(islice((scene for scene in scenes if len({item.glyph for item in scene.objects}) >= half), num_rows))
    rows: list[dict[str, Any]] = []
    for part in reversed(PARTS):
        number = 0
        for scene in shown:
            present = rng.sample(sorted({item.glyph for item in scene.objects}), half)
            image = image_of(scene, f"COCO_val2014_{scene.seed:012d}.png")
            for yes, no in zip(present, _absent(scene, part, half, rng), strict=True):
                for name, answer in ((yes, "yes"), (no, "no")):
                    number += 1
                    rows.append(
                        {
                            "id": str(len(rows)),
                            "question_id": str(number),
                            "question": f"Is there {with_article(name)} in the image?",
                            "answer": answer,
                            "image_source": f"COCO_val2014_{scene.seed:012d}",
                            "image": image,
                            "category": part,
                        }
                    )
    features = dict.fromkeys(rows[0], TEXT) | {"image": IMAGE}
    write_parquet(folder / "test-00000-of-00001.parquet", rows, features)
