"""Benchmarks, from rows to a report: interruptible at any time, by one process or several."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from lion_multimodal.evaluation.answering import Answer, Answerer, Unanswered, group_by_image
from lion_multimodal.evaluation.benchmark import Benchmark, Example
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.metrics import load_metric
from lion_multimodal.evaluation.report import BenchmarkReport, Report, hide_paths
from lion_multimodal.evaluation.rows import Examples, read_examples
from lion_multimodal.evaluation.scoring import score
from lion_multimodal.evaluation.sheet import draw_strip, join_strips
from modeling_lion.device_lion import default_device
from modeling_lion.extras_lion import needs_extra
from processing_lion.prompts_lion import PROMPT_TEMPLATES
from trainers.atomic import atomic_file, read_json, write_json
from trainers.resumable_jsonl import ResumableJsonl


with needs_extra("evaluation", "lion_multimodal.evaluation", "datasets", "evaluate"):
    from accelerate import PartialState
    from accelerate.utils import gather_object, parse_flag_from_env


logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
PREDICTIONS_FOLDER = "predictions"
RESULTS_FOLDER = "results"
SHEETS_FOLDER = "sheets"
SHEET_FILE = "sheet.png"

_EVALUATION = "evaluation"
_FIELDS = ("answer", "tags")
_WEIGHTS = "*.safetensors"
_MOST_REASONS = 100
# Metrics are computed by one process while the others wait; that may take long (SPICE), and shares are never equal.
_PATIENCE = timedelta(hours=12)


class OtherSettingsError(ValueError):
    """The output folder holds an evaluation with other settings."""


def process_state(device: str | None = None) -> PartialState:
    """
    This process among those that `accelerate launch` started.

    Args:
        device: where models will run; by default an accelerator, if there is one.
    """
    on_cpu = device == "cpu" if device else default_device().type == "cpu"
    # Processes on CPUs find one another only if they are told that it is CPUs.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU", on_cpu), timeout=_PATIENCE)


def evaluate(
    model: str | os.PathLike,
    benchmarks: Sequence[Benchmark],
    output: str | os.PathLike,
    *,
    adapter: str | os.PathLike | None = None,
    revision: str | None = None,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    tags: str = "tagger",
    dtype: str = "auto",
    device: str | None = None,
    read: Callable[[Benchmark, str | Path | None, int | None], Examples] = read_examples,
    load_metric: Callable[[str], Any] = load_metric,
) -> Report:
    """
    Evaluate a checkpoint.

    Into `output` go, besides `report.md` and `report.json`: `predictions/NAME.jsonl`, an answer a line; `results/`,
    the figures of each benchmark; `sheet.png`, the first images with answers; and `settings.json`. An `output` of
    the same settings is continued: no question is asked twice, benchmarks that an earlier run evaluated stay in the
    report. Batch size, device and number of processes may differ from run to run.

    Under `accelerate launch` every process takes a share of the images.

    Args:
        model: directory of a checkpoint, or a repo on the Hub.
        benchmarks: the benchmarks.
        output: folder, created if need be.
        adapter: a PEFT adapter on top of it; directory, or a repo on the Hub.
        revision: branch, tag or commit of the repo.
        data_dir: folder with a folder for each benchmark; by default rows come from the Hub.
        limit: ask the first examples of each benchmark only.
        batch_size: images encoded at once, and questions asked at once, by each process.
        tags: where tags come from: the tagger in the repo's subfolder `tagger/` (`"tagger"`), the rows' column `tags`
            (`"column"`), or nowhere (`"none"`).
        dtype: precision: a name of `lion_multimodal.evaluation.answering.DTYPES`.
        device: for example `"cpu"`; this process's accelerator by default, if there is one.
        read, load_metric: in place of `rows.read_examples` and `metrics.load_metric` of `lion_multimodal.evaluation`.

    Returns:
        The report, in every process; benchmarks that could not be evaluated say why.

    Raises:
        OtherSettingsError: `output` holds an evaluation with other settings.
        ValueError, OSError: an argument is outside what is described here, or there is no such checkpoint.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise ValueError(f"data_dir must be a folder, and there is none at {data_dir}")

    state = process_state(device)
    answerer = Answerer.from_pretrained(
        model,
        adapter=adapter,
        revision=revision,
        tags=tags,
        batch_size=batch_size,
        dtype=dtype,
        device=device or state.device,
    )
    settings = {
        **_identity(model, answerer, state),
        **_adapter_identity(adapter),
        "dtype": str(answerer.model.dtype).removeprefix("torch."),
        "tags": tags,
        "limit": limit,
    }
    run = _Run(
        Path(output), answerer, settings, state, load_metric, [output, *([] if data_dir is None else [data_dir])]
    )
    run.start()
    for number, benchmark in enumerate(benchmarks, start=1):
        with state.main_process_first():  # what comes from the Hub is fetched once
            examples, problem = _try_to_read(read, benchmark, data_dir, limit)
        problems = [entry for entry in gather_object([problem]) if entry]
        if examples is None or problems:
            logger.warning("%s is not evaluated: %s", benchmark.name, problems[0])
            run.finish(benchmark, BenchmarkReport(benchmark.name, benchmark.title, error=problems[0]))
        else:
            run.evaluate(benchmark, examples, f"{benchmark.name} ({number}/{len(benchmarks)})")
    return run.close()


def _try_to_read(
    read: Callable[..., Examples], benchmark: Benchmark, data_dir: str | Path | None, limit: int | None
) -> tuple[Examples | None, str]:
    try:
        return read(benchmark, data_dir, limit), ""
    except (OSError, ValueError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__


def _identity(model: str | os.PathLike, answerer: Answerer, state: PartialState) -> dict[str, Any]:
    """Which checkpoint it is: name and commit on the Hub, or name of a directory and checksum of all its weights."""
    directory = Path(model)
    if not directory.is_dir():
        return {"model": os.fspath(model), "revision": answerer.revision, "weights_sha256": None}
    checksum = ""
    if state.is_main_process:
        digest = hashlib.sha256()
        for file in (directory / "config.json", *sorted(directory.rglob(_WEIGHTS))):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        checksum = digest.hexdigest()
    # An empty string from the others.
    (checksum,) = filter(None, gather_object([checksum]))
    return {"model": directory.resolve().name, "revision": None, "weights_sha256": checksum}


def _adapter_identity(adapter: str | os.PathLike | None) -> dict[str, Any]:
    """Which adapter it is; nothing without one."""
    if adapter is None:
        return {}
    weights = Path(adapter) / "adapter_model.safetensors"
    if not weights.is_file():
        return {"adapter": os.fspath(adapter)}
    with weights.open("rb") as content:
        checksum = hashlib.file_digest(content, "sha256").hexdigest()
    return {"adapter": Path(adapter).resolve().name, "adapter_sha256": checksum}


def examples_digest(examples: Iterable[Example], benchmark: Benchmark) -> str:
    """A checksum of what is asked, how, and how it is judged; the images' contents excepted."""
    digest = hashlib.sha256(json.dumps([asdict(benchmark.decoding), benchmark.normalize_candidates]).encode())
    for example in examples:
        asked = (example.id, example.image_id, example.instruction, example.candidates, example.level, example.tags)
        judged = (example.part, sorted(example.metric_inputs.items()))
        digest.update(json.dumps([asked, judged], default=str).encode())
    return digest.hexdigest()


@dataclass
class _Run:
    """
    An output folder that is being filled.

    Attributes:
        output: the folder.
        answerer: the checkpoint.
        settings: what must not change from run to run.
        state: this process.
        load_metric: gives metrics by name.
        directories: whose paths must not get into the report.
    """

    output: Path
    answerer: Answerer
    settings: dict[str, Any]
    state: PartialState
    load_metric: Callable[[str], Any]
    directories: list[str | os.PathLike]

    def start(self) -> None:
        """Check that the folder is new or holds the same evaluation, and note the settings."""
        self._require_same(_EVALUATION, self.settings)
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            for name in (PREDICTIONS_FOLDER, RESULTS_FOLDER, SHEETS_FOLDER):
                (self.output / name).mkdir(parents=True, exist_ok=True)
            self._note(_EVALUATION, self.settings)
        self.state.wait_for_everyone()

    def evaluate(self, benchmark: Benchmark, examples: Examples, title: str) -> None:
        """Ask what was not asked yet, and score all answers."""
        data = {"source": _identifying(examples.source), "examples_sha256": examples_digest(examples, benchmark)}
        self._require_same(benchmark.name, data)
        file = ResumableJsonl(
            self.output / PREDICTIONS_FOLDER / f"{benchmark.name}.jsonl",
            "id",
            _FIELDS,
            self.state.process_index,
            # At least two, so that one process writes to a part, too: the file itself is whole and in order.
            max(2, self.state.num_processes),
        )
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self._note(benchmark.name, data)
            file.recover()
        self.state.wait_for_everyone()

        present = {record["id"] for record in file.records()}
        started = time.perf_counter()
        answered, lost = self._ask(benchmark, examples, file, present, title)
        seconds = max(gather_object([time.perf_counter() - started]))
        lost = [example for share in gather_object([lost]) for example in share]
        answered = sum(gather_object([answered]))
        self.state.wait_for_everyone()
        if not self.state.is_main_process:
            self.state.wait_for_everyone()
            return

        file.append([])  # nothing may have been left to ask, and parts are what `join` puts in order
        file.join([example.id for example in examples])
        records = {record["id"]: record for record in file.records()}
        report = _describe(benchmark, examples, records, lost)
        report.run = {
            "seconds": round(seconds, 3),
            "answered": answered,
            "batch_size": self.answerer.batch_size,
            "processes": self.state.num_processes,
            "device": _device_name(self.answerer.model.device),
        }
        if not records:
            report.error = f"none of its {len(examples)} questions could be answered ({lost[0].reason})"
        else:
            predictions = {name: record.get("scores", record["answer"]) for name, record in records.items()}
            try:
                report.scores = score(benchmark, examples, predictions, self.load_metric)
            except ValueError as error:
                report.error = str(error)
            with atomic_file(self.output / SHEETS_FOLDER / f"{benchmark.name}.png") as partial:
                draw_strip(benchmark, examples, records).save(partial)
        if report.error:
            logger.warning("%s is not evaluated: %s", benchmark.name, report.error)
        self.finish(benchmark, report)
        self.state.wait_for_everyone()

    def _ask(
        self,
        benchmark: Benchmark,
        examples: Sequence[Example],
        file: ResumableJsonl,
        present: Collection[str],
        title: str,
    ) -> tuple[int, list[Unanswered]]:
        """Answer this process's share, write the answers as they come, and tell what has none."""
        groups = group_by_image(examples, self.answerer.batch_size)
        share = groups[self.state.process_index :: self.state.num_processes]
        asked = {example.id: example for group in share for example in group}
        done = sum(name in present for name in asked)
        answers = self.answerer.answer(
            share, benchmark.decoding, normalize_candidates=benchmark.normalize_candidates, answered=present
        )
        answered, lost = 0, []
        hidden = not self.state.is_main_process
        with tqdm(total=len(asked), initial=done, desc=title, unit="question", disable=hidden) as progress:
            for found, unanswered in _with_hint(answers, self.answerer.batch_size):
                if found:
                    file.append(_record(asked[answer.id], answer) for answer in found)
                for example in unanswered:
                    logger.warning("%s: %s is left out: %s", benchmark.name, example.id, example.reason)
                answered += len(found)
                lost += unanswered
                progress.update(len(found) + len(unanswered))
        return answered, lost

    def finish(self, benchmark: Benchmark, report: BenchmarkReport) -> None:
        """Note a benchmark's report, and write the whole one anew."""
        if not self.state.is_main_process:
            return
        report.error = hide_paths(report.error, self.directories)
        report.reasons = hide_paths(report.reasons, self.directories)
        report.source = hide_paths(report.source, self.directories)
        write_json(self.output / RESULTS_FOLDER / f"{benchmark.name}.json", asdict(report))
        self.report().write(self.output)

    def close(self) -> Report:
        """Put the sheet together, and give the report to every process."""
        if self.state.is_main_process:
            strips = [self.output / SHEETS_FOLDER / f"{benchmark.name}.png" for benchmark in self.report().evaluated]
            whole = [strip for strip in strips if _is_whole_image(strip)]
            if whole:
                with atomic_file(self.output / SHEET_FILE) as partial:
                    join_strips(whole).save(partial)
            self.report().write(self.output)
        self.state.wait_for_everyone()
        return self.report()

    def report(self) -> Report:
        """The report on all benchmarks that the folder holds, in their usual order."""
        found = {file.stem: file for file in sorted((self.output / RESULTS_FOLDER).glob("*.json"))}
        names = [*(name for name in BENCHMARKS if name in found), *(name for name in found if name not in BENCHMARKS)]
        benchmarks = []
        for name in names:
            try:
                benchmarks.append(BenchmarkReport.from_dict(read_json(found[name])))
            except (KeyError, TypeError, ValueError) as error:
                logger.warning(
                    "%s is no whole report and is left out; evaluate %s again to have it made anew: %s",
                    found[name],
                    name,
                    error,
                )
        return Report(self.settings, benchmarks, sheet=(self.output / SHEET_FILE).exists())

    def _noted(self) -> dict[str, Any]:
        """The content of the file of settings: those of the evaluation, and the data of each benchmark."""
        file = self.output / SETTINGS_FILE
        try:
            noted = read_json(file) if file.exists() else {}
            if not isinstance(noted, dict) or not all(isinstance(value, dict) for value in noted.values()):
                raise ValueError(f"{file} holds no settings")
        except ValueError as error:
            raise OtherSettingsError(
                f"{error}; without it nobody knows what the answers beside it are of: give another output folder, or "
                f"delete {self.output}"
            ) from error
        return noted

    def _require_same(self, key: str, settings: dict[str, Any]) -> None:
        noted = self._noted().get(key)
        if noted is None:
            return
        changed = [
            f"{name} was {noted.get(name)!r} and is {settings.get(name)!r}"
            for name in dict.fromkeys((*noted, *settings))
            if noted.get(name) != settings.get(name)
        ]
        if changed:
            what = "" if key == _EVALUATION else f"{key}: "
            raise OtherSettingsError(
                f"{self.output} holds an evaluation with other settings ({what}{'; '.join(changed)}); give another "
                "output folder, or the same settings"
            )

    def _note(self, key: str, settings: dict[str, Any]) -> None:
        write_json(self.output / SETTINGS_FILE, {**self._noted(), key: settings})


def _with_hint(answers: Iterator[Any], batch_size: int) -> Iterator[Any]:
    try:
        yield from answers
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"out of memory with batches of {batch_size}: repeat the command with a smaller --batch-size, it goes on "
            "where it stopped"
        ) from error


def _record(example: Example, answer: Answer) -> dict[str, Any]:
    """A line of the predictions."""
    record: dict[str, Any] = {"id": example.id, "answer": answer.text}
    if answer.scores is not None:
        record["scores"] = list(answer.scores)
    references = example.metric_inputs.get("references")
    return record | {
        "references": references,
        "instruction": example.instruction,
        "tags": answer.tags,
        "image_id": example.image_id,
        "part": example.part,
    }


def _describe(
    benchmark: Benchmark, examples: Examples, records: dict[str, dict[str, Any]], lost: Sequence[Unanswered]
) -> BenchmarkReport:
    """All of a benchmark's report but its figures."""
    kinds = {example.candidates is None for example in examples}
    return BenchmarkReport(
        name=benchmark.name,
        title=benchmark.title,
        task=benchmark.task,
        why=benchmark.why,
        examples=len(examples),
        answered=len(records),
        left_out=len(examples.unusable) + len(examples) - len(records),
        reasons=[*examples.unusable, *(asdict(example) for example in lost)][:_MOST_REASONS],
        source=examples.source,
        prompts={name: PROMPT_TEMPLATES[name].text for name in benchmark.prompts},
        decoding={
            "generates": True in kinds,
            "ranks": False in kinds,
            **asdict(benchmark.decoding),
            "normalize_candidates": benchmark.normalize_candidates,
        },
        tagged=sum(record["tags"] is not None for record in records.values()),
    )


def _identifying(source: dict[str, Any]) -> dict[str, Any]:
    """What of a source says whether two runs read the same rows, wherever these lie."""
    return {
        key: _identifying(value) if isinstance(value, dict) else value
        for key, value in source.items()
        if key not in ("folder", "fingerprint")
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _is_whole_image(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        if file.exists():
            logger.warning("%s is no whole image, and is left out of the sheet: %s", file, error)
        return False
    return True


__all__ = ["OtherSettingsError", "evaluate", "examples_digest", "process_state"]
