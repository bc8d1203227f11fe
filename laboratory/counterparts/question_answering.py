"""Counterparts of OK-VQA, A-OKVQA, GQA, IconQA and VSR."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from laboratory.counterparts.files import IMAGE, TEXT, TEXTS, image_of, write_images, write_jsonl, write_parquet
from laboratory.counterparts.questions import draw_options, draw_questions, scenes_with_questions, ten_answers
from laboratory.world.language import RELATIONS, relation_holds, scene_caption
from laboratory.world.scene import IMAGE_SIZE, Scene, sample_scene


_OPEN_TASKS = ("color", "object", "count", "side", "direction")


def write_okvqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = [
        {
            "question_id": f"{scene.seed}0",
            "image": image_of(scene, f"COCO_val2014_{scene.seed:012d}.png"),
            "question": question.text,
            "answers": ten_answers(question, rng),
            "question_type": "other",
            "answer_type": "other",
        }
        for scene, question in scenes_with_questions(scenes, _OPEN_TASKS, num_rows, rng)
    ]
    features = dict.fromkeys(rows[0], TEXT) | {"image": IMAGE, "answers": TEXTS}
    write_parquet(folder / "val2014-00000-of-00001.parquet", rows, features)


def write_aokvqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = []
    for scene, question in scenes_with_questions(scenes, _OPEN_TASKS, num_rows, rng):
        choices = draw_options(question, rng)
        rows.append(
            {
                "image": image_of(scene, f"{scene.seed:012d}.png"),
                "question_id": f"world{scene.seed}",
                "question": question.text,
                "choices": choices,
                "correct_choice_idx": choices.index(question.answer),
                # The dataset on the Hub holds the text of a Python list.
                "direct_answers": str(ten_answers(question, rng)),
                "difficult_direct_answer": False,
                "rationales": [f"The picture shows {scene_caption(scene)}"] * 3,
            }
        )
    features = {
        "image": IMAGE,
        "question_id": TEXT,
        "question": TEXT,
        "choices": TEXTS,
        "correct_choice_idx": datasets.Value("int8"),
        "direct_answers": TEXT,
        "difficult_direct_answer": datasets.Value("bool"),
        "rationales": TEXTS,
    }
    write_parquet(folder / "validation-00000-of-00001.parquet", rows, features)


def write_gqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    tasks = ("color", "object", "direction", "relation", "existence")
    rows: list[dict[str, Any]] = []
    images = []
    for scene in scenes:
        found = list(islice(draw_questions(scene, tasks, rng), min(2, num_rows - len(rows))))
        if found:
            images.append({"id": f"n{scene.seed}", "image": image_of(scene, f"n{scene.seed}.png")})
        for number, question in enumerate(found):
            rows.append(
                {
                    "id": f"20{scene.seed}{number}",
                    "imageId": f"n{scene.seed}",
                    "question": question.text,
                    "answer": question.answer,
                    "fullAnswer": f"{question.answer}.",
                    "isBalanced": True,
                    "groups": {"global": "", "local": ""},
                    "entailed": "",
                    "equivalent": "",
                    "types": {"structural": "query", "semantic": "attr", "detailed": ""},
                    "semanticStr": "",
                }
            )
        if len(rows) == num_rows:
            break
    features = dict.fromkeys(rows[0], TEXT) | {
        "isBalanced": datasets.Value("bool"),
        "groups": {"global": TEXT, "local": TEXT},
        "types": {"structural": TEXT, "semantic": TEXT, "detailed": TEXT},
    }
    write_parquet(folder / "testdev_balanced_instructions.parquet", rows, features)
    write_parquet(folder / "testdev_balanced_images.parquet", images, {"id": TEXT, "image": IMAGE})


def write_iconqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    for scene, question in scenes_with_questions(scenes, ("color", "object", "count"), num_rows, rng):
        row: dict[str, Any] = {
            "question_id": str(scene.seed),
            "question": question.text,
            "choices": ",".join(draw_options(question, rng)),
            "answer": question.answer,
            "query_image": image_of(scene, "image.png"),
            "choice_image_0": None,
            "choice_image_1": None,
            "ques_type": "choose_txt",
            "label": "S2",
            "grade": "grade1",
            "skills": "counting",
        }
        # As in the dataset, some rows are of the two other kinds.
        if len(rows) % 6 == 2:
            row |= {"choices": "", "ques_type": "fill_in_blank"}
        elif len(rows) % 6 == 5:
            images = {f"choice_image_{place}": image_of(sample_scene(scene.seed), "choice.png") for place in range(2)}
            row |= {"choices": "choice_0.png,choice_1.png", "answer": "choice_0.png", "ques_type": "choose_img"}
            row |= images
        rows.append(row)
    features = dict.fromkeys(rows[0], TEXT) | {
        "query_image": IMAGE,
        "choice_image_0": IMAGE,
        "choice_image_1": IMAGE,
    }
    write_parquet(folder / "test-00000-of-00001.parquet", rows, features)


def write_vsr(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    shown: dict[str, Scene] = {}
    rows = []
    for scene in scenes:
        relation, label = rng.choice(RELATIONS), rng.randrange(2)
        axis = RELATIONS.index(relation) // 2
        pairs = [
            (first, second)
            for first in scene.objects
            for second in scene.objects
            if abs(first.center[axis] - second.center[axis]) >= IMAGE_SIZE / 12
            and relation_holds(relation, first, second) == bool(label)
        ]
        if not pairs:
            continue
        first, second = rng.choice(pairs)
        name = f"{scene.seed:012d}.png"
        shown[name] = scene
        rows.append(
            {
                "image": name,
                "image_link": f"http://images.cocodataset.org/train2017/{name}",
                "caption": f"The {first.name} is {relation} the {second.name}.",
                "label": label,
                "relation": relation,
                "annotator_id": 0,
                "vote_true_validator_id": [1, 2] if label else [],
                "vote_false_validator_id": [] if label else [1, 2],
            }
        )
        if len(rows) == num_rows:
            break
    write_jsonl(folder / "test.jsonl", rows)
    write_images(folder, shown)
