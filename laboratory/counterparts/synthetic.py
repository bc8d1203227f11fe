"""
The benchmarks' counterparts in the synthetic world, in each data set's own row schema.

    python -m laboratory.counterparts.synthetic DIR --rows 100

writes `DIR/NAME/` for every benchmark, as `--data-dir DIR` reads it: pictures embedded in parquet, or in the folder
`images` beside JSON. What is asked follows the data set (ten answers a question, a hundred candidates a round, six
existence questions of each kind a picture), in words of the world's own questions. Columns that mean nothing to an
evaluation, such as programs of questions, are empty or left out.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as parquet
from tqdm import tqdm

from laboratory.world.language import RELATIONS, TASKS, relation_holds, scene_caption, with_article
from laboratory.world.scene import (
    COLORS,
    COMPANIONS,
    GLYPH_WEIGHTS,
    GLYPHS,
    IMAGE_SIZE,
    SPLITS,
    Scene,
    SceneObject,
    render,
    sample_scene,
)
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.benchmarks.mmbench import LETTERS, rotations
from lion_multimodal.evaluation.benchmarks.pope import PARTS
from lion_multimodal.evaluation.rows import PICTURE_FOLDER
from processing_lion.prompts_lion import PROMPT_TEMPLATES


# Scenes apart: of benchmarks, and of seeds.
_BENCHMARK_STRIDE = 200_000
_SEED_STRIDE = _BENCHMARK_STRIDE * 100
_ANNOTATORS = 10
_ROUNDS = 10
_CANDIDATES = 100
_POPE_QUESTIONS = 6

_text, _whole, _real = datasets.Value("string"), datasets.Value("int64"), datasets.Value("float64")
_image, _texts = datasets.Image(), datasets.List(datasets.Value("string"))


@dataclass(frozen=True)
class Question:
    """A question about a scene: its words, the answer, and what could be answered instead."""

    text: str
    answer: str
    others: tuple[str, ...]


def write_synthetic(
    directory: str | Path,
    num_rows: int,
    benchmarks: Sequence[str] | None = None,
    seed: int = 0,
    split: str = "test",
) -> list[Path]:
    """
    Write benchmarks about the synthetic world.

    Args:
        directory: where; each benchmark gets a folder of its name there.
        num_rows: how many rows each gets. For those that ask about a picture many times in rows of their own it is the
            number of pictures (POPE) or questions (MMBench, whose rows rotate the options).
        benchmarks: names; all by default.
        seed: which scenes and questions; nothing else depends on chance.
        split: split of the world whose scenes are shown; `"test"` scenes were never trained on.

    Returns:
        The folders.

    Raises:
        ValueError: an argument is outside what is described here.
        FileExistsError: a folder is there already and not empty.
    """
    names = list(BENCHMARKS) if benchmarks is None else list(benchmarks)
    if unknown := [name for name in names if name not in _WRITERS]:
        raise ValueError(f"benchmarks must be among {', '.join(_WRITERS)}, got {', '.join(unknown)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    most_seeds = len(SPLITS[split]) // _SEED_STRIDE
    if not 0 <= seed < most_seeds:
        raise ValueError(f"seed must be between 0 and {most_seeds - 1}, got {seed}")
    if not 1 <= num_rows <= _BENCHMARK_STRIDE // 20:
        raise ValueError(f"num_rows must be between 1 and {_BENCHMARK_STRIDE // 20}, got {num_rows}")
    folders = [Path(directory) / name for name in names]
    if full := [folder for folder in folders if folder.exists() and any(folder.iterdir())]:
        raise FileExistsError(f"{full[0]} is there already")
    for name, folder in zip(tqdm(names, "Writing benchmarks"), folders):
        folder.mkdir(parents=True, exist_ok=True)
        first = seed * _SEED_STRIDE + list(BENCHMARKS).index(name) * _BENCHMARK_STRIDE
        scenes = (sample_scene(number) for number in SPLITS[split][first : first + _BENCHMARK_STRIDE])
        _WRITERS[name](folder, scenes, num_rows, random.Random(f"{name}/{seed}"))
    return folders


def _png(scene: Scene) -> bytes:
    written = io.BytesIO()
    render(scene).save(written, format="PNG", optimize=True)
    return written.getvalue()


def _picture(scene: Scene, name: str) -> dict[str, Any]:
    return {"bytes": _png(scene), "path": name}


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]], features: dict[str, Any]) -> None:
    schema = datasets.Features(features)
    table = datasets.Dataset.from_list(list(rows), features=schema).data.table
    # Not by `Dataset.to_parquet`, which writes a picture that several rows share once for each of them.
    parquet.write_table(table.cast(schema.arrow_schema), path, compression="zstd")


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_pictures(folder: Path, scenes: dict[str, Scene]) -> None:
    pictures = folder / PICTURE_FOLDER
    pictures.mkdir(exist_ok=True)
    for name, scene in scenes.items():
        (pictures / name).write_bytes(_png(scene))


def _captions(scene: Scene) -> list[str]:
    """Five captions of a scene, as five people would write them; the world's own comes first."""
    names = [with_article(item.name) for item in scene.objects]
    number = len(names)
    backwards = ", ".join(names[:0:-1]) + (f" and {names[0]}." if number > 1 else f"{names[0]}.")
    return [
        scene_caption(scene),
        f"there {'is' if number == 1 else 'are'} {number} object{'' if number == 1 else 's'}: {scene_caption(scene)}",
        f"a picture of {scene_caption(scene)}",
        backwards,
        f"{' next to '.join(names)} in a landscape.",
    ]


def _false_caption(scene: Scene, rng: random.Random) -> str:
    """The scene's caption with one object changed in kind or colour."""
    place = rng.randrange(len(scene.objects))
    item, names = scene.objects[place], {item.name for item in scene.objects}
    others = [f"{color} {item.glyph}" for color in COLORS] + [f"{item.color} {glyph}" for glyph in GLYPHS]
    color, glyph = rng.choice([name for name in others if name not in names]).split()
    changed = (*scene.objects[:place], SceneObject(glyph, color, item.box), *scene.objects[place + 1 :])
    return scene_caption(Scene(scene.seed, changed))


def _question(scene: Scene, task: str, rng: random.Random) -> Question | None:
    """A question of one of the world's tasks, `None` where the scene does not allow it."""
    sample = TASKS[task](scene, np.random.default_rng(rng.randrange(2**32)))
    if sample is None:
        return None
    before, after = PROMPT_TEMPLATES["vqa"].text.split("{question}")
    text = sample.prompt.removeprefix(before).removesuffix(after)
    if sample.prompt.startswith("Based on the image"):  # a statement, not a question
        return None
    answers: tuple[str, ...] = {
        "color": tuple(COLORS),
        "object": tuple(GLYPHS),
        "count": tuple(str(number) for number in range(5)),
        "side": ("left", "right") if sample.form == "horizontal" else ("top", "bottom"),
        "direction": ("left", "right") if sample.completion in ("left", "right") else ("above", "below"),
        "relation": ("yes", "no"),
        "existence": ("yes", "no"),
    }[task]
    if task == "direction" and sample.form == "open":
        answers = tuple(f"{side} and {height}" for side in ("left", "right") for height in ("above", "below"))
        answers += ("left", "right", "above", "below")
    return Question(text, sample.completion, tuple(answer for answer in answers if answer != sample.completion))


def _questions(scene: Scene, tasks: Sequence[str], rng: random.Random) -> Iterator[Question]:
    """Endless different questions of these tasks, as far as the scene allows them."""
    asked: set[str] = set()
    for _ in range(400):
        question = _question(scene, rng.choice(tasks), rng)
        if question is not None and question.text not in asked:
            asked.add(question.text)
            yield question


def _asked_scenes(
    scenes: Iterator[Scene], tasks: Sequence[str], num_rows: int, rng: random.Random
) -> Iterator[tuple[Scene, Question]]:
    """Scenes with a question each; those that allow none are left out."""
    pairs = ((scene, next(_questions(scene, tasks, rng), None)) for scene in scenes)
    return islice(((scene, question) for scene, question in pairs if question is not None), num_rows)


def _annotators(question: Question, rng: random.Random) -> list[str]:
    """Ten people's answers: at least seven are right."""
    wrong = rng.choices(question.others, k=rng.randrange(4))
    answers = [question.answer] * (_ANNOTATORS - len(wrong)) + wrong
    rng.shuffle(answers)
    return answers


def _options(question: Question, rng: random.Random, number: int = 4) -> list[str]:
    """The answer among up to `number` options, in random order."""
    options = [question.answer, *rng.sample(question.others, min(number - 1, len(question.others)))]
    rng.shuffle(options)
    return options


def _write_flickr30k(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = [
        {
            "image": _picture(scene, f"{scene.seed}.png"),
            "caption": _captions(scene),
            "sentids": [str(5 * number + caption) for caption in range(5)],
            "split": "test",
            "img_id": str(number),
            "filename": f"{scene.seed}.png",
        }
        for number, scene in enumerate(islice(scenes, num_rows))
    ]
    features = {
        "image": _image,
        "caption": _texts,
        "sentids": _texts,
        "split": _text,
        "img_id": _text,
        "filename": _text,
    }
    _write_parquet(folder / "test-00000-of-00001.parquet", rows, features)


def _write_coco_caption(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    shown = {f"COCO_val2014_{scene.seed:012d}.png": scene for scene in islice(scenes, num_rows)}
    rows = [
        {
            "filepath": "val2014",
            "sentids": [5 * number + caption for caption in range(5)],
            "filename": name,
            "imgid": number,
            "split": "test",
            "sentences": _captions(scene),
            "cocoid": scene.seed,
            "url": f"http://images.cocodataset.org/val2014/{name}",
        }
        for number, (name, scene) in enumerate(shown.items())
    ]
    _write_jsonl(folder / "test.jsonl", rows)
    _write_pictures(folder, shown)


def _write_textcaps(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = []
    for number, scene in enumerate(islice(scenes, num_rows)):
        name = f"{scene.seed:016x}"
        rows.append(
            {
                "question_id": name,
                "question": "Please carefully observe the image and come up with a caption for the image.",
                "image": _picture(scene, f"{name}.png"),
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
                "caption_str": _captions(scene),
                "reference_strs": _captions(scene),
            }
        )
    features = dict.fromkeys(rows[0], _text) | {
        "image": _image,
        "image_classes": _texts,
        "image_width": _whole,
        "image_height": _whole,
        "caption_id": datasets.List(_whole),
        "caption_str": _texts,
        "reference_strs": _texts,
    }
    _write_parquet(folder / "val-00000-of-00001.parquet", rows, features)


_OPEN_TASKS = ("color", "object", "count", "side", "direction")


def _write_okvqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = [
        {
            "question_id": f"{scene.seed}0",
            "image": _picture(scene, f"COCO_val2014_{scene.seed:012d}.png"),
            "question": question.text,
            "answers": _annotators(question, rng),
            "question_type": "other",
            "answer_type": "other",
        }
        for scene, question in _asked_scenes(scenes, _OPEN_TASKS, num_rows, rng)
    ]
    features = dict.fromkeys(rows[0], _text) | {"image": _image, "answers": _texts}
    _write_parquet(folder / "val2014-00000-of-00001.parquet", rows, features)


def _write_aokvqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = []
    for scene, question in _asked_scenes(scenes, _OPEN_TASKS, num_rows, rng):
        choices = _options(question, rng)
        rows.append(
            {
                "image": _picture(scene, f"{scene.seed:012d}.png"),
                "question_id": f"world{scene.seed}",
                "question": question.text,
                "choices": choices,
                "correct_choice_idx": choices.index(question.answer),
                # The data set on the Hub holds the text of a Python list.
                "direct_answers": str(_annotators(question, rng)),
                "difficult_direct_answer": False,
                "rationales": [f"The picture shows {scene_caption(scene)}"] * 3,
            }
        )
    features = {
        "image": _image,
        "question_id": _text,
        "question": _text,
        "choices": _texts,
        "correct_choice_idx": datasets.Value("int8"),
        "direct_answers": _text,
        "difficult_direct_answer": datasets.Value("bool"),
        "rationales": _texts,
    }
    _write_parquet(folder / "validation-00000-of-00001.parquet", rows, features)


def _write_gqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    tasks = ("color", "object", "direction", "relation", "existence")
    rows: list[dict[str, Any]] = []
    pictures = []
    for scene in scenes:
        found = list(islice(_questions(scene, tasks, rng), min(2, num_rows - len(rows))))
        if found:
            pictures.append({"id": f"n{scene.seed}", "image": _picture(scene, f"n{scene.seed}.png")})
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
    features = dict.fromkeys(rows[0], _text) | {
        "isBalanced": datasets.Value("bool"),
        "groups": {"global": _text, "local": _text},
        "types": {"structural": _text, "semantic": _text, "detailed": _text},
    }
    _write_parquet(folder / "testdev_balanced_instructions.parquet", rows, features)
    _write_parquet(folder / "testdev_balanced_images.parquet", pictures, {"id": _text, "image": _image})


def _write_iconqa(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    for scene, question in _asked_scenes(scenes, ("color", "object", "count"), num_rows, rng):
        row: dict[str, Any] = {
            "question_id": str(scene.seed),
            "question": question.text,
            "choices": ",".join(_options(question, rng)),
            "answer": question.answer,
            "query_image": _picture(scene, "image.png"),
            "choice_image_0": None,
            "choice_image_1": None,
            "ques_type": "choose_txt",
            "label": "S2",
            "grade": "grade1",
            "skills": "counting",
        }
        # As in the data set, some rows are of the two other kinds.
        if len(rows) % 6 == 2:
            row |= {"choices": "", "ques_type": "fill_in_blank"}
        elif len(rows) % 6 == 5:
            pictures = {f"choice_image_{place}": _picture(sample_scene(scene.seed), "choice.png") for place in range(2)}
            row |= {"choices": "choice_0.png,choice_1.png", "answer": "choice_0.png", "ques_type": "choose_img"}
            row |= pictures
        rows.append(row)
    features = dict.fromkeys(rows[0], _text) | {
        "query_image": _image,
        "choice_image_0": _image,
        "choice_image_1": _image,
    }
    _write_parquet(folder / "test-00000-of-00001.parquet", rows, features)


def _write_vsr(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
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
    _write_jsonl(folder / "test.jsonl", rows)
    _write_pictures(folder, shown)


# Other ways to say what the world answers in a word: candidates that mean the same are relevant, too.
_SAME: dict[str, tuple[str, ...]] = {
    "yes": ("yes it is", "yep"),
    "no": ("no it isn't", "nope"),
    "0": ("zero", "none"),
    "1": ("one", "just 1"),
    "2": ("two", "just 2"),
    "3": ("three", "just 3"),
    "4": ("four", "just 4"),
}
_SHORT_ANSWERS = (
    *COLORS,
    *GLYPHS,
    *("left", "right", "top", "bottom", "above", "below"),
    *(f"{side} and {height}" for side in ("left", "right") for height in ("above", "below")),
    *_SAME,
    *(same for others in _SAME.values() for same in others),
)
_LONG_ANSWERS = tuple(f"the {color} {glyph}" for color in COLORS for glyph in GLYPHS)


def _write_visdial(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    answers = [*_SHORT_ANSWERS, *_LONG_ANSWERS]
    numbers = {answer: number for number, answer in enumerate(answers)}
    asked: dict[str, int] = {}
    dialogues: list[dict[str, Any]] = []
    dense = []
    shown: dict[str, Scene] = {}
    tasks = ("color", "object", "count", "count", "side", "direction", "relation", "existence")
    for scene in scenes:
        questions = list(islice(_questions(scene, tasks, rng), _ROUNDS))
        if len(questions) < _ROUNDS:
            continue
        turns: list[dict[str, Any]] = []
        for question in questions:
            # Real candidates are the true answer, plausible ones, popular ones and random ones.
            candidates = list(dict.fromkeys((question.answer, *question.others, *_SHORT_ANSWERS)))
            candidates += rng.sample(_LONG_ANSWERS, _CANDIDATES - len(candidates))
            rng.shuffle(candidates)
            turns.append(
                {
                    "question": asked.setdefault(question.text.removesuffix("?").lower(), len(asked)),
                    "answer": numbers[question.answer],
                    "answer_options": [numbers[candidate] for candidate in candidates],
                    "gt_index": candidates.index(question.answer),
                }
            )
        dialogues.append({"image_id": scene.seed, "caption": scene_caption(scene)[:-1], "dialog": turns})
        judged = rng.randrange(_ROUNDS)
        same = _SAME.get(questions[judged].answer, ())
        options = [answers[option] for option in turns[judged]["answer_options"]]
        relevance = [1.0 if option == questions[judged].answer else 0.8 * (option in same) for option in options]
        dense.append({"image_id": scene.seed, "round_id": judged + 1, "gt_relevance": relevance})
        shown[f"VisualDialog_val2018_{scene.seed:012d}.png"] = scene
        if len(dialogues) == num_rows:
            break
    data = {"dialogs": dialogues, "questions": list(asked), "answers": answers}
    content = {"version": "1.0", "split": "val2018", "data": data}
    (folder / "visdial_1.0_val.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "visdial_1.0_val_dense_annotations.json").write_text(json.dumps(dense), encoding="utf-8")
    _write_pictures(folder, shown)


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


def _write_refcoco_benchmark(
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
        rows.append({"ref_list": references, "image_info": info, "image": _picture(scene, file_name)})
    reals, wholes = datasets.List(_real), datasets.List(_whole)
    annotation = {"area": _real, "bbox": reals, "category_id": _whole, "id": _whole, "image_id": _whole}
    annotation |= {"iscrowd": _whole, "segmentation": datasets.List(reals)}
    sentence = {"raw": _text, "sent": _text, "sent_id": _whole, "tokens": _texts}
    reference = {"ann_id": _whole, "category_id": _whole, "file_name": _text, "image_id": _whole, "ref_id": _whole}
    reference |= {"sent_ids": wholes, "sentences": datasets.List(sentence), "split": _text}
    features = {
        "ref_list": datasets.List({"ann_info": annotation, "ref_info": reference}),
        "image_info": dict.fromkeys(info, _text) | {"height": _whole, "id": _whole, "license": _whole, "width": _whole},
        "image": _image,
    }
    _write_parquet(folder / f"{BENCHMARKS[name].sources[0].split}-00000-of-00001.parquet", rows, features)


def _write_lmms_refcoco(name: str, folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows = []
    for scene, found in _referred(name, scenes, num_rows):
        for place, (item, expressions) in enumerate(found):
            file_name = f"COCO_train2014_{scene.seed:012d}_{place}.png"
            rows.append(
                {
                    "question_id": f"{scene.seed}{place}",
                    "image": _picture(scene, file_name),
                    "question": "Please carefully observe the area circled in the image and come up with a caption for "
                    "the area.",
                    "answer": expressions,
                    "segmentation": _outline(item),
                    "bbox": _width_and_height(item),
                    "iscrowd": 0,
                    "file_name": file_name,
                }
            )
    features = dict.fromkeys(rows[0], _text) | {
        "image": _image,
        "answer": _texts,
        "segmentation": datasets.List(datasets.Value("float32")),
        "bbox": datasets.List(datasets.Value("float32")),
        "iscrowd": datasets.Value("int8"),
    }
    _write_parquet(folder / f"{name.rsplit('_', 1)[1]}-00000-of-00001.parquet", rows[:num_rows], features)


def _write_shikra_refcoco(name: str, folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
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
    _write_jsonl(folder / f"REC_{name}.jsonl", rows[:num_rows])
    _write_pictures(folder, shown)


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


def _write_pope(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    half = _POPE_QUESTIONS // 2
    shown = list(islice((scene for scene in scenes if len({item.glyph for item in scene.objects}) >= half), num_rows))
    rows: list[dict[str, Any]] = []
    for part in reversed(PARTS):
        number = 0
        for scene in shown:
            present = rng.sample(sorted({item.glyph for item in scene.objects}), half)
            picture = _picture(scene, f"COCO_val2014_{scene.seed:012d}.png")
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
                            "image": picture,
                            "category": part,
                        }
                    )
    features = dict.fromkeys(rows[0], _text) | {"image": _image}
    _write_parquet(folder / "test-00000-of-00001.parquet", rows, features)


# The world's tasks by MMBench's ability and its finer category.
_ABILITIES = {
    "caption": ("coarse_perception", "image_topic"),
    "color": ("finegrained_perception (instance-level)", "attribute_recognition"),
    "direction": ("finegrained_perception (cross-instance)", "spatial_relationship"),
    "object": ("attribute_reasoning", "identity_reasoning"),
    "relation": ("relation_reasoning", "physical_relation"),
    "count": ("logic_reasoning", "structuralized_imagetext_understanding"),
}


def _ability_question(scene: Scene, task: str, rng: random.Random) -> Question | None:
    if task != "caption":
        return next(_questions(scene, (task,), rng), None)
    false = {_false_caption(scene, rng) for _ in range(20)}
    return Question("What does the image show?", scene_caption(scene)[:-1], tuple(sorted(text[:-1] for text in false)))


def _write_mmbench(folder: Path, scenes: Iterator[Scene], num_rows: int, rng: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    number = 0
    for scene in scenes:
        task = tuple(_ABILITIES)[number % len(_ABILITIES)]
        question = _ability_question(scene, task, rng)
        if question is None:
            continue
        ability, category = _ABILITIES[task]
        picture = _picture(scene, f"{number}.png")
        options = _options(question, rng)
        for copy, (choices, correct) in enumerate(rotations(options, options.index(question.answer))):
            rows.append(
                {
                    "index": str(number + 1_000_000 * copy),
                    "question": question.text,
                    "hint": "The picture shows a landscape." if number % 4 == 3 else "nan",
                    "answer": LETTERS[correct],
                    # The data set writes out the lack of an option.
                    **{letter: (*choices, *["nan"] * 4)[place] for place, letter in enumerate(LETTERS)},
                    "category": category,
                    "image": picture,
                    "source": "world",
                    "L2-category": ability,
                    "comment": "nan",
                    "split": "dev",
                }
            )
        number += 1
        if number == num_rows:
            break
    features = dict.fromkeys(rows[0], _text) | {"image": _image}
    _write_parquet(folder / "dev-00000-of-00001.parquet", rows, features)


_Writer = Callable[[Path, Iterator[Scene], int, random.Random], None]


def _named(writer: Callable[..., None], name: str) -> _Writer:
    return lambda folder, scenes, num_rows, rng: writer(name, folder, scenes, num_rows, rng)


_WRITERS: dict[str, _Writer] = {
    "flickr30k": _write_flickr30k,
    "coco_caption": _write_coco_caption,
    "textcaps": _write_textcaps,
    "okvqa": _write_okvqa,
    "aokvqa": _write_aokvqa,
    "gqa": _write_gqa,
    "iconqa": _write_iconqa,
    "vsr": _write_vsr,
    "visdial": _write_visdial,
    "pope": _write_pope,
    "mmbench": _write_mmbench,
    # Each of the schemas that the benchmarks read is written by some of them.
    "refcoco_val": _named(_write_refcoco_benchmark, "refcoco_val"),
    "refcoco_testA": _named(_write_refcoco_benchmark, "refcoco_testA"),
    "refcoco_testB": _named(_write_lmms_refcoco, "refcoco_testB"),
    "refcoco_plus_val": _named(_write_refcoco_benchmark, "refcoco_plus_val"),
    "refcoco_plus_testA": _named(_write_refcoco_benchmark, "refcoco_plus_testA"),
    "refcoco_plus_testB": _named(_write_shikra_refcoco, "refcoco_plus_testB"),
    "refcocog_val": _named(_write_refcoco_benchmark, "refcocog_val"),
    "refcocog_test": _named(_write_lmms_refcoco, "refcocog_test"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write benchmarks about the synthetic world, from the command line."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.counterparts.synthetic", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="where; each benchmark gets a folder there")
    parser.add_argument("--rows", type=int, default=100, help="rows of each benchmark (default: 100)")
    parser.add_argument("--benchmarks", help="names, separated by commas (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="which scenes and questions (default: 0)")
    parser.add_argument("--split", default="test", choices=SPLITS, help="split of the world (default: test)")
    options = parser.parse_args(arguments)
    names = options.benchmarks.split(",") if options.benchmarks else None
    try:
        write_synthetic(options.directory, options.rows, names, options.seed, options.split)
    except (ValueError, FileExistsError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
