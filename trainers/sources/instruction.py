"""Instructions with long answers: LLaVA-Instruct-150K."""

from __future__ import annotations

from collections.abc import Iterator

from trainers.record import Record
from trainers.sources import wordings
from trainers.sources.captioning import COCO_IMAGES
from trainers.sources.images import read_coco_id
from trainers.sources.inputs import Inputs, numbered
from trainers.sources.source import RowKind, Sample, SourceForm, TrainingSource


_PLACEHOLDER = "<image>"


def _conversations(inputs: Inputs, split: str) -> Iterator[Record]:
    yield from numbered(inputs.json_items("annotations", "item"))


def _turns(record: Record) -> Iterator[Sample]:
    """A conversation of turns by a human and the assistant in turn: each question with its answer is a row."""
    name = record.text("image")
    coco_id = read_coco_id(name)
    if coco_id is None:
        raise ValueError(f"'image' {name!r} is not named as COCO's images are")
    turns = record.records("conversations")
    if [turn.get("from") for turn in turns] != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError("'conversations' must be turns from 'human' and 'gpt' by turns")
    for number in range(0, len(turns), 2):
        question = turns[number].text("value").replace(_PLACEHOLDER, " ").strip()
        if not question:
            raise ValueError(f"turn {number} of 'conversations' asks nothing")
        yield Sample(
            # Some of the file's conversations share their `id`, the name of their image.
            id=f"{record.number}/{number // 2}",
            fields={"question": question},
            completion=[turns[number + 1].text("value")],
            coco_id=coco_id,
        )


LLAVA_INSTRUCT = TrainingSource(
    name="llava_instruct",
    title="LLaVA-Instruct-150K",
    stage="stage1",
    kinds=(
        RowKind(
            name="",
            prompts=wordings.QUESTION,
            prompt_source="the dataset's own questions",
            level="image_level",
            expected={"train": 157_712},
            exact=False,
        ),
    ),
    forms=(
        SourceForm(
            name="llava_instruct_150k.json (liuhaotian/LLaVA-Instruct-150K)",
            hub="liuhaotian/LLaVA-Instruct-150K",
            files={"train": {"annotations": "llava_instruct_150k.json"}},
            records=_conversations,
            samples=_turns,
            schema="https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md",
            note="157,712 conversations; a question is a row, so that there are more rows than that",
        ),
    ),
    folders=("llava_instruct", "llava", "llava_instruct_150k"),
    image_folders=COCO_IMAGES,
    homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
    licence="CC BY 4.0, and OpenAI's terms of use, as GPT-4 wrote it; images as COCO's",
    left_out="what was said before: each question is asked on its own. The images are train2017's, among which most of "
    "Karpathy's validation and test images are",
)
