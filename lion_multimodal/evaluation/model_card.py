"""Figures for the Hub: the `model-index` of a model card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, metadata_load, metadata_save
from huggingface_hub.repocard_data import eval_results_to_model_index

from lion_multimodal.evaluation.report import BenchmarkReport, Report, metric_label, part_title
from lion_multimodal.evaluation.scoring import Score


CARD_FILE = "README.md"
PIECE_FILE = "model_card.md"

# Tasks of the Hub that come closest; it has none for referring expressions.
_HUB_TASKS = {"captioning": "image-to-text"}
_QUESTION_TASKS = frozenset({"question answering", "dialogue", "object existence", "multiple choice"})


def eval_results(report: Report) -> list[EvalResult]:
    """
    The headline figures of a report, in their published units.

    Figures on a local folder are named as such: only rows that came from the Hub count as the Hub's data set.
    """
    return [_eval_result(report, benchmark, score) for benchmark in report.evaluated for score in benchmark.scores]


def _eval_result(report: Report, benchmark: BenchmarkReport, score: Score) -> EvalResult:
    source, limit = benchmark.source, report.settings.get("limit")
    name = part_title(benchmark, score)
    if "dataset" not in source:
        name += ", local files"
    if limit:
        name += f", first {limit} examples"
    task = _HUB_TASKS.get(benchmark.task, "image-text-to-text")
    return EvalResult(
        task_type="visual-question-answering" if benchmark.task in _QUESTION_TASKS else task,
        task_name=benchmark.task[:1].upper() + benchmark.task[1:] or None,
        dataset_type=source.get("dataset", benchmark.name),
        dataset_name=name,
        # The part is what tells POPE's three figures apart.
        dataset_config=score.part or source.get("config"),
        dataset_split=source.get("split"),
        dataset_revision=source.get("revision"),
        dataset_args={"num_examples": score.samples, "left_out": benchmark.left_out},
        metric_type=score.headline.lower(),
        metric_name=metric_label(score),
        metric_value=round(score.value, 2),
    )


def update_card(directory: str | os.PathLike, report: Report) -> Path:
    """
    Put a report's figures into the card of a checkpoint, `README.md` in its directory, created if need be.

    Figures of the same benchmark, part and metric are replaced. Text, other metadata and other figures stay.

    Returns:
        The card.

    Raises:
        ValueError: there are no figures, the directory is none, or the card's metadata is no mapping.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"directory must be that of a checkpoint, and there is none at {directory}")
    file = directory / CARD_FILE
    name = directory.resolve().name
    if not file.exists():
        file.write_text(f"# {name}\n", encoding="utf-8")
    try:
        metadata = metadata_load(file) or {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from error
    metadata_save(file, {**metadata, "model-index": _merged(metadata.get("model-index"), report, name)})
    return file


def write_piece(directory: str | os.PathLike, report: Report) -> Path:
    """
    Write the metadata alone, as the head of a card, into `model_card.md` of a directory.

    Raises:
        ValueError: there are no figures.
    """
    file = Path(directory) / PIECE_FILE
    file.unlink(missing_ok=True)
    metadata_save(file, {"model-index": _merged(None, report, report.settings["model"].rpartition("/")[2])})
    return file


def _merged(model_index: Any, report: Report, name: str) -> list[dict[str, Any]]:
    """The model index of a card, with a report's figures in the entry of its first model."""
    new = eval_results(report)
    if not new:
        raise ValueError("the report holds no figures for a model card")
    model_index = model_index or [{"name": name, "results": []}]
    first = model_index[0]
    replaced = {_key(entry, metric) for result in new for entry, metric in _metrics(_entry(name, result))}
    kept = []
    for entry in first.get("results", []):
        metrics = [metric for metric in entry.get("metrics", []) if _key(entry, metric) not in replaced]
        if metrics:
            kept.append({**entry, "metrics": metrics})
    return [{**first, "results": [*kept, *(_entry(name, result) for result in new)]}, *model_index[1:]]


def _entry(name: str, result: EvalResult) -> dict[str, Any]:
    # One by one: together, those of one data set would share the first one's name.
    return eval_results_to_model_index(name, [result])[0]["results"][0]


def _metrics(entry: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return [(entry, metric) for metric in entry["metrics"]]


def _key(entry: Mapping[str, Any], metric: Mapping[str, Any]) -> tuple[Any, ...]:
    """What figure this is; value, sample count and revision of the data set excepted."""
    dataset = entry.get("dataset", {})
    described = (dataset.get("type"), dataset.get("config"), dataset.get("split"), dataset.get("name"))
    return entry.get("task", {}).get("type"), *described, metric.get("type")


__all__ = ["CARD_FILE", "PIECE_FILE", "eval_results", "update_card", "write_piece"]
