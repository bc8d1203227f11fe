"""Question answering: OK-VQA, A-OKVQA, GQA, IconQA, VSR."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lion_multimodal.evaluation.benchmark import Benchmark, Example, HubDataset, ImageTable, Metric
from lion_multimodal.evaluation.benchmarks.row import Row
from lion_multimodal.evaluation.benchmarks.settings import ANSWER_DECODING, LAVIS_ANSWERS, lmms_lab
from lion_multimodal.evaluation.published import published_figures
from processing_lion.prompts_lion import format_prompt


_COCO_NAMES = ("{:012d}.jpg", "COCO_val2014_{:012d}.jpg", "COCO_train2014_{:012d}.jpg")


def _coco_image(row: Row) -> str:
    """The file of a COCO image that the row names by its number."""
    number = row.integer("image_id")
    return row.local_image(*(name.format(number) for name in _COCO_NAMES))


def _coco_id(row: Row) -> int | None:
    """COCO's number of the image, where the row gives it."""
    number = row.optional_text("image_id")
    return int(number) if number.isdecimal() else None


def _choice_list(row: Row, column: str, separator: str | None = None) -> list[str]:
    """A list of answers: as one, as the text of a Python or JSON list, or with a separator between them."""
    value = row.value(column)
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = ast.literal_eval(text)
            except (SyntaxError, ValueError):
                raise ValueError(f"{column!r} is no list: {value!r}") from None
        elif separator is not None:
            value = text.split(separator)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{column!r} must be a list of answers, got {value!r:.100}")
    answers = [str(answer).strip() for answer in value]
    if not answers or not all(answers):
        raise ValueError(f"{column!r} must hold answers, got {value!r:.100}")
    return answers


def _index(number: int, choices: Sequence[str], column: str) -> int:
    if not 0 <= number < len(choices):
        raise ValueError(f"{column!r} must name one of {len(choices)} choices, got {number}")
    return number


def _okvqa(row: Row) -> Iterator[Example]:
    # Original annotations name images by their number in COCO.
    image = row.image("image") if "image" in row else _coco_image(row)
    identifier = row.text("question_id")
    yield Example(
        id=identifier,
        image=image,
        image_id=row.text("image_id") if "image_id" in row else identifier,
        instruction=format_prompt("vqa", question=row.text("question")),
        metric_inputs={"references": row.texts("answers")},
        coco_id=_coco_id(row),
    )


def _okvqa_rows(files: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of OK-VQA's own two files, one of questions and one of annotations."""
    contents = [content for content in files.values() if isinstance(content, Mapping)]
    questions = [row for content in contents for row in content.get("questions", ())]
    annotations = [row for content in contents for row in content.get("annotations", ())]
    if not questions or not annotations:
        return None
    answers = {
        row.get("question_id"): [answer.get("raw_answer", answer.get("answer")) for answer in row.get("answers", ())]
        for row in annotations
    }
    return [{**row, "answers": answers.get(row.get("question_id"))} for row in questions]


OKVQA = Benchmark(
    name="okvqa",
    title="OK-VQA",
    task="question answering",
    prompts=("vqa",),
    sources=(
        *lmms_lab(
            "OK-VQA", "val2014", ("question_id", "image", "question", "answers"), _okvqa, note="5,046 rows, 10 answers"
        ),
        HubDataset(
            "okvqa.allenai.org",
            "val2014",
            ("question_id", "image_id", "question", "answers"),
            _okvqa,
            unpack=_okvqa_rows,
            local_only=True,
            note="OpenEnded_mscoco_val2014_questions.json and mscoco_val2014_annotations.json, with val2014's images "
            "in images/",
        ),
    ),
    metrics={"": Metric("vqa_accuracy", "accuracy")},
    decoding=ANSWER_DECODING,
    published=published_figures("okvqa"),
    why=f"The whole of validation. Prompt: InstructBLIP's for OK-VQA. Decoding: {LAVIS_ANSWERS}. Questions are asked "
    "as they are written: LAVIS lower-cases them, drops punctuation, and lemmatises BLIP-2's answers to OK-VQA.",
)


def _aokvqa(row: Row) -> Iterator[Example]:
    image = row.image("image") if "image" in row else _coco_image(row)
    identifier = row.text("question_id")
    image_id = row.text("image_id") if "image_id" in row else identifier
    question = row.text("question")
    choices = _choice_list(row, "choices")
    correct = _index(row.integer("correct_choice_idx"), choices, "correct_choice_idx")
    yield Example(
        id=f"{identifier}/direct_answer",
        image=image,
        image_id=image_id,
        instruction=format_prompt("vqa", question=question),
        metric_inputs={"references": _choice_list(row, "direct_answers")},
        part="direct_answer",
        coco_id=_coco_id(row),
    )
    yield Example(
        id=f"{identifier}/multiple_choice",
        image=image,
        image_id=image_id,
        instruction=format_prompt("vqa_choices", question=question, choices=choices),
        metric_inputs={"references": correct},
        candidates=tuple(choices),
        part="multiple_choice",
        coco_id=_coco_id(row),
    )


AOKVQA = Benchmark(
    name="aokvqa",
    title="A-OKVQA",
    task="question answering",
    prompts=("vqa", "vqa_choices"),
    sources=(
        HubDataset(
            "HuggingFaceM4/A-OKVQA",
            "validation",
            ("image", "question_id", "question", "choices", "correct_choice_idx", "direct_answers"),
            _aokvqa,
            note="1,145 rows of validation; the answers of `test` are kept on a server",
        ),
        HubDataset(
            "aokvqa_v1p0_val.json (allenai/aokvqa)",
            "val",
            ("image_id", "question_id", "question", "choices", "correct_choice_idx", "direct_answers"),
            _aokvqa,
            local_only=True,
            note="the original file, with COCO's images in images/",
        ),
    ),
    metrics={
        "direct_answer": Metric("vqa_accuracy", "accuracy"),
        "multiple_choice": Metric("multiple_choice_accuracy", "accuracy"),
    },
    decoding=ANSWER_DECODING,
    published=published_figures("aokvqa"),
    why="Validation, both settings. The paper gives one figure and does not say which; InstructBLIP's for multiple "
    "choice are far higher than 56 to 61, so it stands beside the direct answers. Every row counts in both settings, "
    "those marked as difficult for direct answers too. Prompts: InstructBLIP's. Decoding of direct answers: "
    f"{LAVIS_ANSWERS}; choices are ranked by the likelihood of their text. The 10-annotator rule of VQA normalises "
    "answers and averages over nine of ten annotators; A-OKVQA's own script does neither.",
)


def _gqa(row: Row) -> Iterator[Example]:
    image_id = row.text("imageId")
    yield Example(
        id=row.text("id"),
        image=row.image("image") if "image" in row else row.local_image(f"{image_id}.jpg", f"{image_id}.png"),
        image_id=image_id,
        instruction=format_prompt("vqa", question=row.text("question")),
        metric_inputs={"references": row.text("answer")},
    )


def _gqa_rows(files: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of GQA's own file, an object of questions by number."""
    for content in files.values():
        if isinstance(content, Mapping) and content:
            first = next(iter(content.values()))
            if isinstance(first, Mapping) and "imageId" in first:
                return [{"id": key, **row} for key, row in content.items()]
    return None


GQA = Benchmark(
    name="gqa",
    title="GQA",
    task="question answering",
    prompts=("vqa",),
    sources=lmms_lab(
        "GQA",
        "testdev",
        ("id", "imageId", "question", "answer", "image"),
        _gqa,
        name="testdev_balanced_instructions",
        image_table=ImageTable("testdev_balanced_images", "testdev"),
        unpack=_gqa_rows,
        note="12,578 questions about 398 images, which are in a configuration of their own and are joined by "
        "`imageId`. Locally also GQA's own testdev_balanced_questions.json, with the images in images/",
    ),
    metrics={"": Metric("exact_match_accuracy", "accuracy")},
    decoding=ANSWER_DECODING,
    published=published_figures("gqa"),
    why=f"The balanced test-dev split, as in InstructBLIP. Prompt: InstructBLIP's for GQA. Decoding: {LAVIS_ANSWERS}.",
)


def _iconqa(row: Row) -> Iterator[Example]:
    # Of IconQA's three kinds, InstructBLIP asks the one whose choices are texts.
    if row.text("ques_type") != "choose_txt":
        return
    choices = _choice_list(row, "choices", separator=",")
    if "query_image" in row:
        answer = row.text("answer")
        if answer not in choices:
            raise ValueError(f"'answer' {answer!r} is none of the choices {', '.join(choices)}")
        if choices.count(answer) > 1:
            raise ValueError(f"'answer' {answer!r} is more than one of the choices {', '.join(choices)}")
        correct = choices.index(answer)
    else:  # the original files give its number
        correct = _index(row.integer("answer"), choices, "answer")
    identifier = row.text("question_id")
    yield Example(
        id=identifier,
        image=row.image("query_image" if "query_image" in row else "image"),
        image_id=identifier,
        instruction=format_prompt("vqa_choices", question=row.text("question"), choices=choices),
        metric_inputs={"references": correct},
        candidates=tuple(choices),
    )


ICONQA = Benchmark(
    name="iconqa",
    title="IconQA",
    task="question answering",
    prompts=("vqa_choices",),
    sources=(
        *lmms_lab(
            "ICON-QA",
            "test",
            ("question_id", "question", "choices", "answer", "query_image", "ques_type"),
            _iconqa,
            note="21,489 rows of three kinds; the 6,316 whose `ques_type` is `choose_txt` are used. `choices` is one "
            "text with commas between the choices",
        ),
        HubDataset(
            "iconqa.github.io",
            "test",
            ("question_id", "question", "choices", "answer", "image", "ques_type"),
            _iconqa,
            local_only=True,
            note="the data.json of each question as one row, with its number as `question_id`, its image as `image`, "
            "and `answer` a number",
        ),
    ),
    metrics={"": Metric("multiple_choice_accuracy", "accuracy")},
    decoding=ANSWER_DECODING,
    published=published_figures("iconqa"),
    why="The test split of multi-text-choice, the part with one image and choices in words; work that builds on "
    "InstructBLIP evaluates it, LION's paper does not name the part. Prompt: InstructBLIP's for IconQA. Choices are "
    "ranked by the likelihood of their text, as InstructBLIP ranks IconQA's.",
)


def _vsr(row: Row) -> Iterator[Example]:
    label = row.integer("label")
    if label not in (0, 1):
        raise ValueError(f"'label' must be 0 or 1, got {label}")
    name = row.text("image")
    statement = row.text("caption")
    yield Example(
        # The files name no rows; some statements come back with other annotators.
        id=f"{row.number}/{name}",
        image=row.image("image", url=row.optional_text("image_link") or None),
        image_id=name,
        instruction=format_prompt("vsr", statement=statement),
        metric_inputs={"references": 0 if label else 1},
        candidates=("true", "false"),
    )


VSR = Benchmark(
    name="vsr",
    title="VSR",
    task="question answering",
    prompts=("vsr",),
    sources=(
        HubDataset(
            "cambridgeltl/vsr_zeroshot",
            "test",
            ("image", "caption", "label"),
            _vsr,
            note="1,222 rows. Images are addresses at images.cocodataset.org (`image_link`), fetched once and "
            "cached; locally, COCO's files in images/. Rows of cambridgeltl/vsr_random have the same columns",
        ),
    ),
    metrics={"": Metric("multiple_choice_accuracy", "accuracy")},
    decoding=ANSWER_DECODING,
    published=published_figures("vsr"),
    why="The test rows of the zero-shot split, whose concepts no training row shows; the paper does not name the "
    "split. Prompt: InstructBLIP's for VSR; `true` and `false` are ranked by their likelihood.",
)
