"""Dialogue: VisDial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lion_multimodal.evaluation.benchmark import Benchmark, Example, HubDataset, Metric
from lion_multimodal.evaluation.benchmarks.row import Row
from lion_multimodal.evaluation.benchmarks.settings import ANSWER_DECODING
from lion_multimodal.evaluation.published import published_figures
from processing_lion.prompts_lion import format_prompt


def _visdial_rows(files: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """
    Rows of `visdial_1.0_val.json`, a dialogue each, and of `visdial_1.0_val_dense_annotations.json` if it is there.

    The file numbers its questions and answers, and dialogues hold the numbers. Rows get the lists too, not the texts:
    there are a hundred candidates a round.
    """
    found = [content for content in files.values() if isinstance(content, Mapping) and "data" in content]
    if not found or not isinstance(found[0]["data"], Mapping) or "dialogs" not in found[0]["data"]:
        return None
    data, split = found[0]["data"], found[0].get("split", "val2018")
    relevance = {
        (row.get("image_id"), row.get("round_id")): row.get("gt_relevance", row.get("relevance"))
        for content in files.values()
        if isinstance(content, list)
        for row in content
        if isinstance(row, Mapping)
    }
    return [
        {
            **dialogue,
            "split": split,
            "questions": data["questions"],
            "answers": data["answers"],
            "relevance": {
                number: relevance[dialogue.get("image_id"), number]
                for number in range(1, len(dialogue.get("dialog", ())) + 1)
                if (dialogue.get("image_id"), number) in relevance
            },
        }
        for dialogue in data["dialogs"]
    ]


def _look_up(texts: Any, number: Any, what: str) -> str:
    if not isinstance(number, int) or not 0 <= number < len(texts):
        raise ValueError(f"{what} {number!r} is not among the {len(texts)} that the file lists")
    return str(texts[number]).strip()


def _visdial(row: Row) -> Iterator[Example]:
    image_id = row.text("image_id")
    split = row.text("split")
    name = f"VisualDialog_{split}_{int(image_id):012d}" if image_id.isdecimal() else image_id
    image = row.local_image(
        *(f"{name}{suffix}" for suffix in (".jpg", ".png")), *(f"{image_id}{suffix}" for suffix in (".jpg", ".png"))
    )
    questions, answers = row.value("questions"), row.value("answers")
    history = [row.text("caption") + "."]
    for number, turn in enumerate(row.value("dialog"), start=1):
        question = _look_up(questions, turn.get("question"), f"round {number}: the question")
        if not question.endswith("?"):
            question += "?"
        options = turn.get("answer_options")
        correct = turn.get("gt_index")
        if not isinstance(options, list) or not options:
            raise ValueError(f"round {number} has no 'answer_options'")
        if not isinstance(correct, int) or not 0 <= correct < len(options):
            raise ValueError(f"round {number}: 'gt_index' must be below {len(options)}, got {correct!r:.100}")
        relevance = row.value("relevance").get(number) or []
        if relevance and len(relevance) != len(options):
            raise ValueError(f"round {number} has {len(relevance)} relevances for {len(options)} answers")
        yield Example(
            id=f"{image_id}/{number}",
            image=image,
            image_id=image_id,
            instruction=format_prompt("dialogue", history=history, question=question),
            metric_inputs={"references": correct, "relevance": [float(value) for value in relevance]},
            candidates=tuple(_look_up(answers, option, f"round {number}: the answer") for option in options),
        )
        answer = _look_up(answers, turn.get("answer"), f"round {number}: the answer")
        history.append(f"{question} {answer}.")


VISDIAL = Benchmark(
    name="visdial",
    title="VisDial",
    task="dialogue",
    prompts=("dialogue",),
    sources=(
        HubDataset(
            "visualdialog.org/data",
            "val2018",
            ("image_id", "caption", "dialog", "split", "questions", "answers", "relevance"),
            _visdial,
            unpack=_visdial_rows,
            local_only=True,
            note="visdial_1.0_val.json, visdial_1.0_val_dense_annotations.json, and the images "
            "VisualDialog_val2018_*.jpg in images/. The copies on the Hub (jxu124/visdial, HuggingFaceM4/VisDial) lack "
            "the hundred candidate answers, so nothing can be ranked with them",
        ),
    ),
    metrics={"": Metric("visdial_ranking", "MRR")},
    decoding=ANSWER_DECODING,
    published=published_figures("visdial"),
    why="The 2,064 dialogues of VisDial 1.0's validation, ten rounds each, since the true answers of its test are kept "
    "on a server; from the original files, as no dataset on the Hub has the candidates. Each round's hundred "
    "candidates are ranked by their likelihood. Prompt: InstructBLIP's for VisDial; the history is the caption, then "
    "each question with its answer.",
)
