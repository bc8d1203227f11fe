"""Counterparts of RefCOCO, RefCOCO+ and RefCOCOg, in each of the schemas that they are read in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from laboratory.counterparts.files import (
    IMAGE,
    REAL,
    TEXT,
    TEXTS,
    WHOLE,
    image_of,
    write_images,
    write_jsonl,
    write_parquet,
)
from laboratory.world.language import RELATIONS, relation_holds
from laboratory.world.scene import GLYPHS, IMAGE_SIZE, Scene, SceneObject
from lion_multimodal.evaluation.benchmarks import BENCHMARKS


def _expressions(scene: Scene, item: SceneObject, kind: str) -> list[str]:
    """
    Sentences that fit one object alone: short ones; for RefCOCO (`kind="place"`) one that says where it stands, for
    RefCOCO+ (`"look"`) none, for RefCOCOg (`"long"`) one that relates it to another.
    """
    expressions = [f"the {item.name}"]
    if kind == "long":
        others = [other for other in scene.objects if other is not item]
        for relation in RELATIONS:
            fits = [other for other in others if relation_holds(relation, item, other)]
            if fits:
                return [*expressions, f"the {item.name} {relation} the {fits[0].name}"]
        return expressions
    if [other.glyph for other in scene.objects].count(item.glyph) == 1:
        expressions.append(f"the {item.glyph}")
    if kind == "place":
        side = "left" if item.center[0] < IMAGE_SIZE / 2 else "right"
        expressions.append(f"{item.name} on the {side}")
    return expressions


def _width_and_height(item: SceneObject) -> list[float]:
    left, top, right, bottom = item.box
    return [float(left), float(top), float(right - left), float(bottom - top)]


def _outline(item: SceneObject) -> list[float]:
    left, top, right, bottom = map(float, item.box)
    return [left, top, right, top, right, bottom, left, bottom]


# As testA shows people and testB other things, each half of the kinds of objects is asked for in one of them.
_HALVES = {"testA": tuple(GLYPHS)[::2], "testB": tuple(GLYPHS)[1::2]}
_REC_KINDS = {"refcoco": "place", "refcoco_plus": "look", "refcocog": "long"}


def _referred(
    name: str, scenes: Iterator[Scene], num_rows: int
) -> Iterator[tuple[Scene, list[tuple[SceneObject, list[str]]]]]:
    family, part = name.rsplit("_", 1)
    glyphs = _HALVES.get(part, tuple(GLYPHS))
    shown = 0
    for scene in scenes:
        found = [
            (item, _expressions(scene, item, _REC_KINDS[family])) for item in scene.objects if item.glyph in glyphs
        ]
        if found:
            yield scene, found
            shown += 1
        if shown == num_rows:
            return


def write_refcoco_benchmark(
    name: str, folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random
) -> None:
    rows = []
    for scene, found in _referred(name, scenes, num_rows):
        file_name = f"COCO_train2014_{scene.seed:012d}.png"
        references = []
        for place, (item, expressions) in enumerate(found):
            number = scene.seed * 10 + place
            left, top, width, height = _width_and_height(item)
            sentences = [
                {"raw": text.capitalize(), "sent": text, "sent_id": number * 10 + count, "tokens": text.split()}
                for count, text in enumerate(expressions)
            ]
            category = tuple(GLYPHS).index(item.glyph)
            references.append(
                {
                    "ann_info": {
                        "area": width * height,
                        "bbox": [left, top, width, height],
                        "category_id": category,
                        "id": number,
                        "image_id": scene.seed,
                        "iscrowd": 0,
                        "segmentation": [_outline(item)],
                    },
                    "ref_info": {
                        "ann_id": number,
                        "category_id": category,
                        "file_name": file_name.replace(".png", f"_{place}.png"),
                        "image_id": scene.seed,
                        "ref_id": number,
                        "sent_ids": [sentence["sent_id"] for sentence in sentences],
                        "sentences": sentences,
                        "split": name.rsplit("_", 1)[1],
                    },
                }
            )
        info = {
            "coco_url": f"http://images.cocodataset.org/train2014/{file_name}",
            "date_captured": "",
            "file_name": file_name,
            "flickr_url": "",
            "height": IMAGE_SIZE,
            "id": scene.seed,
            "license": 0,
            "width": IMAGE_SIZE,
        }
        rows.append({"ref_list": references, "image_info": info, "image": image_of(scene, file_name)})
    reals, wholes = datasets.List(REAL), datasets.List(WHOLE)
    annotation = {"area": REAL, "bbox": reals, "category_id": WHOLE, "id": WHOLE, "image_id": WHOLE}
    annotation |= {"iscrowd": WHOLE, "segmentation": datasets.List(reals)}
    sentence = {"raw": TEXT, "sent": TEXT, "sent_id": WHOLE, "tokens": TEXTS}
    reference = {"ann_id": WHOLE, "category_id": WHOLE, "file_name": TEXT, "image_id": WHOLE, "ref_id": WHOLE}
    reference |= {"sent_ids": wholes, "sentences": datasets.List(sentence), "split": TEXT}
    features = {
        "ref_list": datasets.List({"ann_info": annotation, "ref_info": reference}),
        "image_info": dict.fromkeys(info, TEXT) | {"height": WHOLE, "id": WHOLE, "license": WHOLE, "width": WHOLE},
        "image": IMAGE,
    }
    write_parquet(folder / f"{BENCHMARKS[name].sources[0].split}-00000-of-00001.parquet", rows, features)


def write_lmms_refcoco(name: str, folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = []
    for scene, found in _referred(name, scenes, num_rows):
        for place, (item, expressions) in enumerate(found):
            file_name = f"COCO_train2014_{scene.seed:012d}_{place}.png"
            rows.append(
                {
                    "question_id": f"{scene.seed}{place}",
                    "image": image_of(scene, file_name),
                    "question": "Please carefully observe the area circled in the image and come up with a caption for "
                    "the area.",
                    "answer": expressions,
                    "segmentation": _outline(item),
                    "bbox": _width_and_height(item),
                    "iscrowd": 0,
                    "file_name": file_name,
                }
            )
    features = dict.fromkeys(rows[0], TEXT) | {
        "image": IMAGE,
        "answer": TEXTS,
        "segmentation": datasets.List(datasets.Value("float32")),
        "bbox": datasets.List(datasets.Value("float32")),
        "iscrowd": datasets.Value("int8"),
    }
    write_parquet(folder / f"{name.rsplit('_', 1)[1]}-00000-of-00001.parquet", rows[:num_rows], features)


def write_shikra_refcoco(name: str, folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    shown: dict[str, Scene] = {}
    rows: list[dict[str, Any]] = []
    for scene, found in _referred(name, scenes, num_rows):
        file_name = f"COCO_train2014_{scene.seed:012d}.png"
        for item, expressions in found:
            for expression in expressions:
                rows.append(
                    {
                        "img_path": file_name,
                        "expression": expression,
                        "bbox": [float(side) for side in item.box],
                        "dataset_name": BENCHMARKS[name].sources[0].split,
                        "height": IMAGE_SIZE,
                        "width": IMAGE_SIZE,
                    }
                )
                if len(rows) <= num_rows:
                    shown[file_name] = scene
    write_jsonl(folder / f"REC_{name}.jsonl", rows[:num_rows])
    write_images(folder, shown)
