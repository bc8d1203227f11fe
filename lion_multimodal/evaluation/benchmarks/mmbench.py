"""Multiple choice by ability: MMBench."""

from __future__ import annotations

from collections.abc import Iterator

from lion_multimodal.evaluation.benchmark import Benchmark, Example, HubDataset, Metric
from lion_multimodal.evaluation.benchmarks.row import Row
from lion_multimodal.evaluation.benchmarks.settings import ANSWER_DECODING, lmms_lab
from lion_multimodal.evaluation.published import published_figures
from processing_lion.prompts_lion import format_prompt


LETTERS = "ABCD"
# The tables hold each question several times, with its options rotated; copies have a multiple of this added.
_COPY = 1_000_000


def rotations(options: list[str], correct: int) -> Iterator[tuple[list[str], int]]:
    """The options in each of their circular orders, the given one first, with the place of the correct one."""
    for shift in range(len(options)):
        yield options[shift:] + options[:shift], (correct - shift) % len(options)


def _mmbench(row: Row) -> Iterator[Example]:
    index = row.integer("index")
    if index >= _COPY:
        return
    options = []
    for letter in LETTERS:
        text = row.optional_text(letter)
        if not text:
            break
        options.append(text)
    answer = row.text("answer")
    if answer not in LETTERS[: len(options)] or len(answer) != 1:
        letters = ", ".join(LETTERS[: len(options)]) or "no options"
        raise ValueError(f"'answer' must be one of {letters}, got {answer!r:.100}")
    if len(options) < 2:
        raise ValueError("there must be at least two options")
    ability = row.optional_text("L2-category") or row.text("l2-category")
    hint = row.optional_text("hint")
    question = f"{hint} {row.text('question')}" if hint else row.text("question")
    image = row.image("image")
    for shift, (choices, correct) in enumerate(rotations(options, LETTERS.index(answer))):
        yield Example(
            id=f"{index}/{shift}",
            image=image,
            image_id=str(index),
            instruction=format_prompt("vqa_choices", question=question, choices=choices),
            metric_inputs={"references": correct, "groups": str(index), "categories": ability},
            candidates=tuple(choices),
        )


_COLUMNS = ("index", "question", "A", "B", "answer", "image")

MMBENCH = Benchmark(
    name="mmbench",
    title="MMBench",
    task="multiple choice",
    prompts=("vqa_choices",),
    sources=(
        *lmms_lab(
            "MMBench",
            "dev",
            (*_COLUMNS, "L2-category"),
            _mmbench,
            name="en",
            note="4,329 rows of development: 1,164 questions, each once for every rotation of its options. The "
            "rotations are made here from the first row of each question. The answers of `test` are kept on a server",
        ),
        HubDataset(
            "HuggingFaceM4/MMBench",
            "validation",
            (*_COLUMNS, "l2-category"),
            _mmbench,
            note="the same rows, images in base64. Tables of MMBench itself (.tsv) have these columns",
        ),
    ),
    metrics={"": Metric("mmbench_circular", "accuracy")},
    decoding=ANSWER_DECODING,
    published=published_figures("mmbench"),
    normalize_candidates=True,
    why="English, development: the published 73.4 is on `test`, whose answers only MMBench's server has, so the two "
    "figures are not of the same questions. A question counts if it is right under every rotation of its options. "
    "Prompt: InstructBLIP's for questions with options, the hint before the question. Options are ranked by the mean "
    "log-likelihood of their tokens, as they differ much in length; MMBench's own protocol has ChatGPT match a "
    "generated answer with an option.",
)
