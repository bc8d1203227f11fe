"""Object hallucination: POPE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lion_multimodal.evaluation.benchmark import Benchmark, Example, HubDataset, Metric
from lion_multimodal.evaluation.benchmarks.row import Row
from lion_multimodal.evaluation.benchmarks.settings import ANSWER_DECODING, LAVIS_ANSWERS, lmms_lab
from lion_multimodal.evaluation.published import published_figures
from processing_lion.prompts_lion import format_prompt


PARTS = ("random", "popular", "adversarial")


def _example(row: Row, image: object, image_id: str, part: str, question: str, answer: str) -> Example:
    if part not in PARTS:
        raise ValueError(f"'category' must be one of {', '.join(PARTS)}, got {part!r:.100}")
    if answer not in ("yes", "no"):
        raise ValueError(f"the answer must be yes or no, got {answer!r:.100}")
    return Example(
        # Numbers of questions begin anew in each part.
        id=f"{part}/{row.text('question_id')}",
        image=image,
        image_id=image_id,
        instruction=format_prompt("yes_no", question=question),
        metric_inputs={"references": answer},
        part=part,
    )


def _lmms_row(row: Row) -> Iterator[Example]:
    part, answer = row.text("category").lower(), row.text("answer").lower()
    yield _example(row, row.image("image"), row.text("image_source"), part, row.text("question"), answer)


def _original_row(row: Row) -> Iterator[Example]:
    name = row.text("image")
    yield _example(
        row, row.image("image"), name, row.text("category").lower(), row.text("text"), row.text("label").lower()
    )


def _original_rows(files: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of `coco_pope_random.json` and its two siblings; the kind of a question stands in its file's name only."""
    rows: list[dict[str, Any]] = []
    for name, content in files.items():
        part = next((part for part in PARTS if part in name.lower()), None)
        if part is None or not isinstance(content, list) or not content or "label" not in content[0]:
            return None
        rows += [{"category": part, **row} for row in content]
    return rows


POPE = Benchmark(
    name="pope",
    title="POPE",
    task="object existence",
    prompts=("yes_no",),
    sources=(
        *lmms_lab(
            "POPE",
            "test",
            ("question_id", "question", "answer", "image_source", "image", "category"),
            _lmms_row,
            note="9,000 questions: 500 images of COCO's val2014, three kinds, six questions each",
        ),
        HubDataset(
            "coco_pope_*.json (RUCAIBox/POPE)",
            "test",
            ("question_id", "image", "text", "label", "category"),
            _original_row,
            unpack=_original_rows,
            local_only=True,
            note="the original files, one for each kind of question, and val2014's images in images/",
        ),
    ),
    metrics={"": Metric("pope", "f1")},
    decoding=ANSWER_DECODING,
    published=published_figures("pope"),
    why="The official questions, whose three kinds are scored apart. Prompt: the questions in InstructBLIP's words for "
    f"VQA; LION's paper gives none. The answer is generated and read for yes or no. Decoding: {LAVIS_ANSWERS}.",
)
