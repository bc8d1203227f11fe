"""Question answering: VQAv2, OK-VQA, A-OKVQA, OCR-VQA."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlparse

from trainers.record import Record
from trainers.sources import wordings
from trainers.sources.captioning import COCO_IMAGES, COCO_LICENCE
from trainers.sources.inputs import Inputs, numbered
from trainers.sources.source import RowKind, Sample, SourceForm, TrainingSource


_INSTRUCTBLIP_VQA = f"{wordings.INSTRUCTBLIP}; its first is the one that LION is evaluated with"


def _vqa(inputs: Inputs, split: str) -> Iterator[Record]:
    """VQA's two files: annotations, each with its question."""
    questions = {
        question.get("question_id"): question.get("question")
        for question in numbered(inputs.json_items("questions", "questions.item"))
    }
    unseen = inputs.context["held_out"].get("karpathy_val")
    for record in numbered(inputs.json_items("annotations", "annotations.item")):
        if split == "train" or not unseen or record.get("image_id") in unseen:
            record["question"] = questions.get(record.get("question_id"))
            yield record


def _vqa_samples(record: Record) -> Iterator[Sample]:
    # OK-VQA gives an answer as it was typed in `raw_answer`, and stemmed in `answer`.
    answers = [answer.optional_text("raw_answer") or answer.text("answer") for answer in record.records("answers")]
    if not answers:
        raise ValueError("'answers' holds no answer")
    yield Sample(
        id=record.text("question_id"),
        fields={"question": record.text("question")},
        completion=answers,
        coco_id=record.integer("image_id"),
    )


VQAV2 = TrainingSource(
    name="vqav2",
    title="VQAv2",
    stage="stage1",
    kinds=(
        RowKind(
            name="",
            prompts=wordings.VQA,
            prompt_source=_INSTRUCTBLIP_VQA,
            level="image_level",
            expected={"train": 443_757},
            splits=("train", "validation"),
        ),
    ),
    forms=(
        SourceForm(
            name="v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json",
            files={
                "train": {
                    "questions": "v2_OpenEnded_mscoco_train2014_questions.json",
                    "annotations": "v2_mscoco_train2014_annotations.json",
                },
                "validation": {
                    "questions": "v2_OpenEnded_mscoco_val2014_questions.json",
                    "annotations": "v2_mscoco_val2014_annotations.json",
                },
            },
            records=_vqa,
            samples=_vqa_samples,
            schema="https://visualqa.org/vqa_v2_annotations_json_v2.html",
            note="The copies on the Hub are scripts, or lack the training questions (lmms-lab/VQAv2), or the numbers "
            "of their images (the_cauldron), so that images of benchmarks could not be left out",
        ),
    ),
    folders=("vqav2", "vqa_v2", "vqa"),
    image_folders=COCO_IMAGES,
    homepage="https://visualqa.org",
    licence=COCO_LICENCE,
    left_out="the questions of val2014, except that those about Karpathy's validation images are rows of validation. "
    "The answers of all ten annotators are kept, so that drawing one of them is drawing by their frequency, as LAVIS "
    "does",
)

OKVQA = TrainingSource(
    name="okvqa",
    title="OK-VQA",
    stage="stage1",
    kinds=(
        RowKind(
            name="",
            prompts=wordings.VQA,
            prompt_source=_INSTRUCTBLIP_VQA,
            level="image_level",
            expected={"train": 9_009},
        ),
    ),
    forms=(
        SourceForm(
            name="OpenEnded_mscoco_train2014_questions.json and mscoco_train2014_annotations.json",
            files={
                "train": {
                    "questions": "OpenEnded_mscoco_train2014_questions.json",
                    "annotations": "mscoco_train2014_annotations.json",
                }
            },
            records=_vqa,
            samples=_vqa_samples,
            schema="https://okvqa.allenai.org/download.html",
            note="The copies on the Hub are scripts, or hold val2014 alone (lmms-lab/OK-VQA). VQA 1.0 has files of the "
            "same names: keep them in another folder",
        ),
    ),
    folders=("okvqa",),
    image_folders=COCO_IMAGES,
    homepage="https://okvqa.allenai.org",
    licence="no licence is stated for the annotations; images as COCO's",
    left_out="nothing. Answers are taken as they were typed, not stemmed; ten of them, as for VQAv2",
)


def _aokvqa(inputs: Inputs, split: str) -> Iterator[Record]:
    yield from numbered(inputs.json_items("annotations", "item"))


def _aokvqa_samples(record: Record) -> Iterator[Sample]:
    identifier, coco_id, question = record.text("question_id"), record.integer("image_id"), record.text("question")
    yield Sample(
        id=identifier,
        fields={"question": question},
        completion=record.texts("direct_answers"),
        coco_id=coco_id,
        kind="direct_answer",
    )
    choices, correct = record.texts("choices"), record.integer("correct_choice_idx")
    if not 0 <= correct < len(choices):
        raise ValueError(f"'correct_choice_idx' must name one of {len(choices)} choices, got {correct}")
    yield Sample(
        id=identifier,
        fields={"question": question, "choices": choices},
        completion=[choices[correct]],
        coco_id=coco_id,
        kind="multiple_choice",
    )


AOKVQA = TrainingSource(
    name="aokvqa",
    title="A-OKVQA",
    stage="stage1",
    kinds=(
        RowKind(
            name="direct_answer",
            prompts=wordings.VQA,
            prompt_source=_INSTRUCTBLIP_VQA,
            level="image_level",
            expected={"train": 17_056},
        ),
        RowKind(
            name="multiple_choice",
            prompts=wordings.VQA_CHOICES,
            prompt_source=wordings.VQA_CHOICES_SOURCE,
            level="image_level",
            expected={"train": 17_056},
        ),
    ),
    forms=(
        SourceForm(
            name="aokvqa_v1p0_train.json",
            files={"train": {"annotations": "aokvqa_v1p0_train.json"}},
            records=_aokvqa,
            samples=_aokvqa_samples,
            schema="https://github.com/allenai/aokvqa",
            note="HuggingFaceM4/A-OKVQA lacks the numbers of its images, so that those of benchmarks could not be left "
            "out",
        ),
    ),
    folders=("aokvqa",),
    image_folders=COCO_IMAGES,
    homepage="https://allenai.org/project/a-okvqa",
    licence="annotations Apache 2.0; images as COCO's",
    left_out="rationales. The paper does not say in which setting it trains, so that each question is a row of both",
)


def _ocrvqa_json(inputs: Inputs, split: str) -> Iterator[Record]:
    for number, (identifier, book) in enumerate(inputs.json_entries("annotations")):
        record = Record(book, number)
        if record.get("split") == 1:
            record["image_id"] = identifier
            yield record


def _ocrvqa_parquet(inputs: Inputs, split: str) -> Iterator[Record]:
    yield from numbered(inputs.parquet_rows("rows", ("image", "image_id", "questions", "answers")))


def _ocrvqa_samples(record: Record) -> Iterator[Sample]:
    """A book with its questions and as many answers."""
    identifier = record.text("image_id")
    questions, answers = record.texts("questions"), record.value("answers")
    if len(questions) != len(answers):
        raise ValueError(f"there are {len(questions)} 'questions' and {len(answers)} 'answers'")
    if "image" in record:
        image = {"path": f"{identifier}.jpg", "bytes": record.value("image")["bytes"]}
    else:  # the authors' script names a file after the book and gives it the suffix of its address
        image = identifier + (os.path.splitext(urlparse(record.text("imageURL")).path)[1] or ".jpg")
    for number, (question, answer) in enumerate(zip(questions, answers)):
        if not str(answer).strip():
            raise ValueError(f"the answer to question {number} is empty")
        yield Sample(
            id=f"{identifier}/{number}",
            fields={"question": question},
            completion=[str(answer).strip()],
            image=image,
        )


OCRVQA = TrainingSource(
    name="ocrvqa",
    title="OCR-VQA",
    stage="stage1",
    kinds=(
        RowKind(
            name="",
            prompts=wordings.VQA_ANY_LENGTH,
            prompt_source=f"{_INSTRUCTBLIP_VQA}. Without the one that asks for three words, as titles have more",
            level="image_level",
            expected={"train": 801_700},
            exact=False,
        ),
    ),
    forms=(
        SourceForm(
            name="OCR-VQA's dataset.json",
            files={"train": {"annotations": "dataset.json"}},
            records=_ocrvqa_json,
            samples=_ocrvqa_samples,
            schema="https://ocr-vqa.github.io (loadDataset.py)",
            note="one field a book; `split` 1 is training. Images have to be fetched from their addresses by the "
            "authors' script, and some of them are gone",
        ),
        SourceForm(
            name="howard-hou/OCR-VQA",
            hub="howard-hou/OCR-VQA",
            files={"train": {"rows": "train-*.parquet"}},
            records=_ocrvqa_parquet,
            samples=_ocrvqa_samples,
            schema="https://huggingface.co/datasets/howard-hou/OCR-VQA",
            note="166,022 records, a book each; the images, 7.5 GB, are copied into the output",
        ),
    ),
    folders=("ocrvqa",),
    image_folders=("ocrvqa",),
    homepage="https://ocr-vqa.github.io",
    licence="for research; covers belong to their publishers",
    left_out="validation and test. Never cropped or flipped, since the answers are written on the cover",
    augment=False,
)
