"""Tiny files in the original schema of every source of training data, with images."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image


# COCO's images. Those of val2014 are Karpathy's validation, test and rest, in this order.
TRAIN2014 = tuple(range(1, 13))
VAL2014 = (101, 102, 103)
KARPATHY_VAL, KARPATHY_TEST, KARPATHY_REST = VAL2014
# Images of train2014 that a benchmark of references tests on.
REFCOCO_VAL, REFCOCO_TEST_A, REFCOCO_TEST_B, REFCOCOG_VAL, REFCOCOG_TEST = 3, 4, 5, 6, 7
HELD_OUT = {KARPATHY_VAL, KARPATHY_TEST, REFCOCO_VAL, REFCOCO_TEST_A, REFCOCO_TEST_B, REFCOCOG_VAL, REFCOCOG_TEST}
REFER_SPLITS = {
    "refcoco": {REFCOCO_VAL: "val", REFCOCO_TEST_A: "testA", REFCOCO_TEST_B: "testB"},
    "refcoco+": {REFCOCO_VAL: "val", REFCOCO_TEST_A: "testA", REFCOCO_TEST_B: "testB"},
    "refcocog": {REFCOCOG_VAL: "val", REFCOCOG_TEST: "test"},
}
WIDTH, HEIGHT = 64, 48
SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def image(seed: int) -> PIL.Image.Image:
    """A picture of soft colours that differs from those of other seeds."""
    rng = np.random.default_rng(seed)
    small = PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((WIDTH, HEIGHT), PIL.Image.Resampling.BICUBIC)


def save_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image(seed).save(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def coco_name(coco_id: int) -> str:
    year = "val2014" if coco_id in VAL2014 else "train2014"
    return f"COCO_{year}_{coco_id:012d}.jpg"


def write_coco_images(root: Path) -> None:
    for coco_id in (*TRAIN2014, *VAL2014):
        name = coco_name(coco_id)
        save_image(root / "coco" / name.split("_")[1] / name, coco_id)


def karpathy_split(coco_id: int) -> str:
    return {KARPATHY_VAL: "val", KARPATHY_TEST: "test", KARPATHY_REST: "restval"}.get(coco_id, "train")


def captions_of(coco_id: int) -> list[str]:
    return [f"A thing number {coco_id}, seen {word}." for word in ("at once", "again")]


def write_coco_captions(root: Path) -> None:
    images = [
        {
            "filepath": coco_name(coco_id).split("_")[1],
            "filename": coco_name(coco_id),
            "imgid": number,
            "split": karpathy_split(coco_id),
            "sentids": [2 * number, 2 * number + 1],
            "sentences": [
                {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": 2 * number + index}
                for index, text in enumerate(captions_of(coco_id))
            ],
            "cocoid": coco_id,
        }
        for number, coco_id in enumerate((*TRAIN2014, *VAL2014))
    ]
    write_json(root / "coco" / "dataset_coco.json", {"images": images, "dataset": "coco"})


def write_coco_2017(root: Path) -> None:
    """COCO's own captions; train2017 holds images of val2014, Karpathy's test image among them."""
    for part, ids in (("train", (*TRAIN2014, KARPATHY_TEST, KARPATHY_REST)), ("val", (KARPATHY_VAL,))):
        content = {
            "info": {"year": 2017},
            "images": [
                {"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT, "license": 3} for i in ids
            ],
            "licenses": [],
            "annotations": [
                {"image_id": i, "id": 10 * i + number, "caption": caption}
                for i in ids
                for number, caption in enumerate(captions_of(i))
            ],
        }
        write_json(root / "coco" / "annotations" / f"captions_{part}2017.json", content)


def write_textcaps(root: Path) -> None:
    names = [f"{number:016x}" for number in (1, 2)]
    for number, name in enumerate(names):
        save_image(root / "textvqa" / "train_images" / f"{name}.jpg", 200 + number)
    data = [
        {
            "dataset_type": "train",
            "image_id": name,
            "image_classes": ["Sign"],
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "image_width": WIDTH,
            "image_height": HEIGHT,
            "set_name": "train",
            "image_name": name,
            "image_path": f"train/{name}.jpg",
            "caption_id": 5 * number + index,
            "caption_str": f"A sign that says {number} {word}",
            "reference_strs": ["A sign"],
            "caption_tokens": ["a", "sign"],
            "reference_tokens": [["a", "sign"]],
        }
        for number, name in enumerate(names)
        for index, word in enumerate(("stop", "go"))
    ]
    header = {"dataset_type": "train", "dataset_name": "textcaps", "dataset_version": "0.1"}
    write_json(root / "textcaps" / "TextCaps_0.1_train.json", {**header, "data": data})


def _answers(*texts: str, raw: bool = False) -> list[dict[str, Any]]:
    return [
        {"answer_id": number, "answer": text, "answer_confidence": "yes", **({"raw_answer": f"{text}s"} if raw else {})}
        for number, text in enumerate(texts, start=1)
    ]


def _write_vqa(folder: Path, prefix: str, part: str, ids: tuple[int, ...], raw: bool = False) -> None:
    header = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": f"{part}2014"}
    questions = [
        {"image_id": coco_id, "question": f"What is thing {coco_id}?", "question_id": 1000 * coco_id} for coco_id in ids
    ]
    annotations = [
        {
            "question_type": "what is",
            "multiple_choice_answer": "dog",
            "answers": _answers("dog", "dog", "cat", raw=raw),
            "image_id": coco_id,
            "answer_type": "other",
            "question_id": 1000 * coco_id,
        }
        for coco_id in reversed(ids)
    ]
    kind = {"task_type": "Open-Ended", **header}
    write_json(folder / f"{prefix}OpenEnded_mscoco_{part}2014_questions.json", {**kind, "questions": questions})
    write_json(folder / f"{prefix}mscoco_{part}2014_annotations.json", {**header, "annotations": annotations})


def write_vqav2(root: Path) -> None:
    _write_vqa(root / "vqav2", "v2_", "train", TRAIN2014)
    _write_vqa(root / "vqav2", "v2_", "val", VAL2014)


def write_okvqa(root: Path) -> None:
    _write_vqa(root / "OK-VQA", "", "train", TRAIN2014[:4], raw=True)


def write_aokvqa(root: Path) -> None:
    rows = [
        {
            "split": "train",
            "image_id": coco_id,
            "question_id": f"q{coco_id}",
            "question": f"What is thing {coco_id} for?",
            "choices": ["eating", "riding", "reading", "flying"],
            "correct_choice_idx": 1,
            "direct_answers": ["riding", "riding", "travel"],
            "difficult_direct_answer": False,
            "rationales": ["One rides it."],
        }
        for coco_id in (1, 2, KARPATHY_TEST)
    ]
    write_json(root / "aokvqa" / "aokvqa_v1p0_train.json", rows)


def write_ocrvqa(root: Path) -> None:
    books = {}
    for number, split in enumerate((1, 1, 2, 3)):
        name = f"00{number}ABC"
        books[name] = {
            "imageURL": f"http://ecx.images-amazon.com/images/I/{name}.jpg",
            "questions": ["Who wrote this book?", "Is this a comedy?"],
            "answers": ["A. Author", "No"],
            "title": "A Title",
            "authorName": "A. Author",
            "genre": "Travel",
            "split": split,
        }
        save_image(root / "OCR-VQA" / "images" / f"{name}.jpg", 300 + number)
    write_json(root / "OCR-VQA" / "dataset.json", books)


def write_llava(root: Path) -> None:
    rows = [
        {
            "id": f"{coco_id:012d}",
            "image": f"{coco_id:012d}.jpg",
            "conversations": [
                {"from": "human", "value": "What is it?\n<image>"},
                {"from": "gpt", "value": f"It is thing number {coco_id}, which stands in the middle."},
                {"from": "human", "value": "What is it for?"},
                {"from": "gpt", "value": "It is there to be looked at."},
            ],
        }
        for coco_id in (8, 9, KARPATHY_TEST)
    ]
    write_json(root / "llava" / "llava_instruct_150k.json", rows)


def references(name: str) -> list[dict[str, Any]]:
    """REFER's objects: one an image, two sentences each."""
    return [
        {
            "sent_ids": [2 * coco_id, 2 * coco_id + 1],
            "file_name": f"COCO_train2014_{coco_id:012d}_{coco_id}.jpg",
            "ann_id": 500 + coco_id,
            "ref_id": 700 + coco_id,
            "image_id": coco_id,
            "split": REFER_SPLITS[name].get(coco_id, "train"),
            "sentences": [
                {"tokens": ["the"], "raw": f"The thing {side}", "sent_id": sent_id, "sent": f"the thing {side}"}
                for sent_id, side in ((2 * coco_id, "left"), (2 * coco_id + 1, "near us"))
            ],
            "category_id": 18,
        }
        for coco_id in TRAIN2014
    ]


def coco_box(coco_id: int) -> list[float]:
    return [4.0 + coco_id, 6.0, 20.0, 30.0]


def write_refer(root: Path) -> None:
    for name, split_by in SPLIT_BY.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        # As Python 2 wrote them.
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(references(name), protocol=2))
        instances = {
            "info": {},
            "images": [
                {"id": i, "file_name": coco_name(i), "width": WIDTH, "height": HEIGHT, "license": 1} for i in TRAIN2014
            ],
            "licenses": [],
            "annotations": [
                {
                    "segmentation": [[1.0, 2.0, 3.0, 4.0]],
                    "area": 600.0,
                    "iscrowd": 0,
                    "image_id": i,
                    "bbox": coco_box(i),
                    "category_id": 18,
                    "id": 500 + i,
                }
                for i in TRAIN2014
            ],
            "categories": [{"supercategory": "animal", "id": 18, "name": "dog"}],
        }
        write_json(folder / "instances.json", instances)


def write_visual_genome(root: Path) -> None:
    images, descriptions = [], []
    # The second one is COCO's, and a benchmark tests on it.
    for number, coco_id in ((1, None), (2, REFCOCO_TEST_A), (3, 12)):
        save_image(root / "visual_genome" / "VG_100K" / f"{number}.jpg", 400 + number)
        images.append(
            {
                "image_id": number,
                "url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{number}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "coco_id": coco_id,
                "flickr_id": None,
            }
        )
        regions = [
            ("a red thing", 4, 4, 20, 20),
            ("the sky", 0, 0, 64, 10),
            ("a leaf", 30, 20, 8, 8),
            ("A leaf.", 40, 20, 8, 8),  # no phrase that tells it apart
            ("nothing", 10, 10, 0, 5),  # no area
        ]
        descriptions.append(
            {
                "id": number,
                "regions": [
                    {
                        "region_id": 10 * number + index,
                        "image_id": number,
                        "phrase": phrase,
                        "x": x,
                        "y": y,
                        "width": width,
                        "height": height,
                    }
                    for index, (phrase, x, y, width, height) in enumerate(regions)
                ],
            }
        )
    write_json(root / "visual_genome" / "image_data.json", images)
    write_json(root / "visual_genome" / "region_descriptions.json", descriptions)


def write_all(root: Path) -> None:
    """The files of all sources, and the images."""
    write_coco_images(root)
    for write in (
        write_coco_captions,
        write_textcaps,
        write_vqav2,
        write_okvqa,
        write_aokvqa,
        write_ocrvqa,
        write_llava,
        write_refer,
        write_visual_genome,
    ):
        write(root)
