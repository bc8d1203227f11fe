"""What an evaluation found: for programs as JSON, for readers as Markdown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Self

from lion_multimodal.evaluation import published
from lion_multimodal.evaluation.scoring import Score
from trainers.atomic import write_json, write_text
from trainers.publishing.markdown import markdown_table


PACKAGES = (
    "lion-multimodal",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface-hub",
    "pycocoevalcap",
    "numpy",
    "Pillow",
)
"""Packages whose versions a report names."""

_MOST_REASONS = 10
# Headlines that nobody calls a percentage, although they are published times 100.
_NO_PERCENTAGES = frozenset({"CIDEr", "MRR"})


@dataclass
class BenchmarkReport:
    """
    One benchmark of a report.

    Attributes:
        name, title, task, why: the benchmark's.
        error: why it could not be evaluated; nothing below is known then.
        scores: its figures, by part.
        examples: how many questions were to be asked.
        answered: how many were.
        left_out: how many rows and questions were left out, because they cannot be used or their image cannot be
            read.
        reasons: the first of these: `{"id": ..., "reason": ...}`.
        source: where the rows come from.
        prompts: the templates of its instructions, by name.
        decoding: how answers are generated, and whether candidates' likelihoods are divided by their lengths.
        tagged: how many prompts had tags.
        run: of the last run: seconds, questions answered in these, batch size, device, processes.
    """

    name: str
    title: str
    task: str = ""
    why: str = ""
    error: str | None = None
    scores: list[Score] = field(default_factory=list)
    examples: int = 0
    answered: int = 0
    left_out: int = 0
    reasons: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    tagged: int = 0
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        scores = [
            Score(**{**score, "interval": None if score["interval"] is None else tuple(score["interval"])})
            for score in values["scores"]
        ]
        return cls(**{**values, "scores": scores})


@dataclass
class Report:
    """
    A report.

    Attributes:
        settings: what was evaluated, and how: model, revision, precision, tags, limit.
        benchmarks: the benchmarks, evaluated or not.
        versions: of Python and packages.
        created: when, in UTC.
        sheet: whether images of the first answers lie beside the report.
    """

    settings: dict[str, Any]
    benchmarks: list[BenchmarkReport]
    versions: dict[str, str] = field(default_factory=lambda: package_versions())
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    sheet: bool = False

    @property
    def evaluated(self) -> list[BenchmarkReport]:
        """The benchmarks that have figures."""
        return [benchmark for benchmark in self.benchmarks if benchmark.scores]

    def write(self, directory: str | os.PathLike) -> None:
        """Write `report.json` and `report.md`."""
        directory = Path(directory)
        write_json(directory / "report.json", asdict(self))
        write_text(directory / "report.md", to_markdown(self))


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures may depend on."""
    versions = {"python": python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def hide_paths(value: Any, directories: Iterable[str | os.PathLike] = ()) -> Any:
    """
    Reports are published: of local paths in their texts, only the last part stays.

    Args:
        value: a string, or lists and dicts with strings.
        directories: paths that may hold blanks, which cannot be told from the words around them.
    """
    if isinstance(value, dict):
        return {key: hide_paths(entry, directories) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [hide_paths(entry, directories) for entry in value]
    if not isinstance(value, str):
        return value
    known = {path for directory in (*directories, Path.home()) for path in (Path(directory), Path(directory).resolve())}
    for path in sorted((path for path in known if path.is_absolute()), key=lambda path: -len(str(path))):
        if path.name:
            value = value.replace(str(path), path.name)
    # Not behind a colon or another slash: addresses on the web stay.
    value = re.sub(r"(?<![\w/.:~-])~?/(?:[^\s/'\"]+/)+", "", value)
    return re.sub(r"\b[A-Za-z]:\\(?:[^\s\\'\"]+\\)+", "", value)


def metric_label(score: Score) -> str:
    """The headline with its published unit."""
    if score.scale == 100:
        return f"{score.headline} × 100" if score.headline in _NO_PERCENTAGES else f"{score.headline}, %"
    return score.headline if score.scale == 1 else f"{score.headline} × {score.scale:g}"


def part_title(benchmark: BenchmarkReport, score: Score) -> str:
    """The benchmark's title, with its part where it has several."""
    return f"{benchmark.title} ({score.part.replace('_', ' ')})" if score.part else benchmark.title


def headline_tables(benchmarks: Sequence[BenchmarkReport]) -> str:
    """Our figures beside the published ones; a table for each set of models that figures are published of."""
    tables: dict[tuple[str, ...], list[tuple[BenchmarkReport, Score]]] = {}
    for benchmark in benchmarks:
        for score in benchmark.scores:
            models = tuple(score.published)
            if not models:
                # Parts without figures of their own stand with the other parts.
                models = next((tuple(other.published) for other in benchmark.scores if other.published), ())
            tables.setdefault(models, []).append((benchmark, score))
    texts = []
    for models, rows in tables.items():
        header = ["benchmark", "metric", "this model", "95 % interval", *models, "samples", "left out"]
        lines = [
            [
                part_title(benchmark, score),
                metric_label(score),
                f"**{score.value:.2f}**",
                "–" if score.interval is None else f"{score.interval[0]:.2f}–{score.interval[1]:.2f}",
                *(f"{score.published[model]:.2f}" if model in score.published else "–" for model in models),
                f"{score.samples:,}",
                f"{benchmark.left_out:,}",
            ]
            for benchmark, score in rows
        ]
        texts.append(markdown_table(header, lines, "llr"))
    return "\n".join(texts)


def to_markdown(report: Report) -> str:
    """The report for readers."""
    name = report.settings.get("model", "a model")
    sections = [f"# Evaluation of {name}\n"]
    if report.evaluated:
        sections += [
            headline_tables(report.evaluated),
            f"Figures of other models: {published.SOURCE}. Intervals: bootstrap over images. An image or row that "
            'cannot be read or used is left out and counted under "left out", for all parts of a benchmark together.\n',
        ]
    # Captions that were tokenized in different ways have different figures.
    tokenizers = dict.fromkeys(
        score.notes["tokenizer"]
        for benchmark in report.evaluated
        for score in benchmark.scores
        if "tokenizer" in score.notes
    )
    if tokenizers:
        sections.append(f"Captions were made into words by {'; '.join(tokenizers)}.\n")
    if limit := report.settings.get("limit"):
        sections.append(f"Only the first {limit:,} examples of each benchmark were asked.\n")
    if failed := [benchmark for benchmark in report.benchmarks if benchmark.error]:
        sections.append("## Not evaluated\n")
        sections.append("\n".join(f"- {benchmark.title}: {benchmark.error}" for benchmark in failed) + "\n")
    sections += [_further_figures(report.evaluated), _left_out(report.evaluated)]
    sections += [_details(report.evaluated, report.sheet), _settings(report)]
    return "\n".join(section for section in sections if section)


def _further_figures(benchmarks: Sequence[BenchmarkReport]) -> str:
    lines = []
    for benchmark in benchmarks:
        for score in benchmark.scores:
            models = list(score.published_figures)
            for key, figure in score.figures.items():
                if key == score.headline:
                    continue
                others = {m: score.published_figures[m][key] for m in models if key in score.published_figures[m]}
                lines.append(
                    [
                        part_title(benchmark, score),
                        f"{key}, %" if others else key,
                        f"{figure * score.scale:.2f}" if others else _number(figure),
                        ", ".join(f"{model} {other:.2f}" for model, other in others.items()) or "–",
                    ]
                )
            for key, note in score.notes.items():
                lines.append([part_title(benchmark, score), key, note, "–"])
    if not lines:
        return ""
    return "## Further figures\n\n" + markdown_table(["benchmark", "figure", "this model", "published"], lines, "llr")


def _left_out(benchmarks: Sequence[BenchmarkReport]) -> str:
    lines = []
    for benchmark in benchmarks:
        if not benchmark.left_out:
            continue
        lines.append(f"- {benchmark.title}: {benchmark.left_out:,}")
        lines += [f"  - {entry['id']}: {entry['reason']}" for entry in benchmark.reasons[:_MOST_REASONS]]
        if benchmark.left_out > _MOST_REASONS:
            lines.append(f"  - and {benchmark.left_out - _MOST_REASONS:,} more")
    return "## Left out\n\n" + "\n".join(lines) + "\n" if lines else ""


def _details(benchmarks: Sequence[BenchmarkReport], sheet: bool) -> str:
    texts = []
    for benchmark in benchmarks:
        run = benchmark.run
        lines = [
            f"- Rows: {_source(benchmark.source)}",
            *(f"- Prompt `{name}`: `{text}`" for name, text in benchmark.prompts.items()),
            f"- {describe_decoding(benchmark.decoding)}",
            f"- Questions: {benchmark.answered:,} of {benchmark.examples:,} answered, {benchmark.tagged:,} with tags",
            f"- Last run: {run['answered']:,} questions in {run['seconds']:.1f} s, batches of {run['batch_size']}, "
            f"{run['processes']} process{'es' if run['processes'] > 1 else ''} on {run['device']}",
        ]
        why = f"\n{benchmark.why}\n" if benchmark.why else ""
        strip = f"![The first images of {benchmark.title}](sheets/{benchmark.name}.png)\n" if sheet else ""
        texts.append(f"### {benchmark.title}\n{why}\n" + "\n".join(lines) + f"\n\n{strip}")
    note = "The first images of all benchmarks with their answers are in `sheet.png`, too.\n\n" if sheet else ""
    return f"## How each was asked\n\n{note}" + "\n".join(texts) if texts else ""


def _source(source: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_cell(entry)}" for key, entry in source.items() if entry not in (None, "", {}, []))


def describe_decoding(decoding: Mapping[str, Any]) -> str:
    """How answers are generated and candidates ranked, in words; `decoding` is that of a `BenchmarkReport`."""
    texts = []
    if decoding.get("generates"):
        beams = decoding["num_beams"]
        shortest = decoding.get("min_new_tokens")
        texts.append(
            f"Answers are generated: {f'beam search of {beams}' if beams > 1 else 'greedily'}, "
            f"{f'{shortest} to' if shortest else 'at most'} {decoding['max_new_tokens']} tokens, length penalty "
            f"{decoding['length_penalty']:g}, repetition penalty {decoding['repetition_penalty']:g}"
        )
    if decoding.get("ranks"):
        rule = "mean log-likelihood of their tokens" if decoding["normalize_candidates"] else "log-likelihood"
        texts.append(f"Candidates are ranked by the {rule}")
    return ". ".join(texts)


def _settings(report: Report) -> str:
    lines = [[key, _cell(value)] for key, value in report.settings.items() if value is not None]
    lines += [[package, number] for package, number in report.versions.items()]
    lines.append(["created", report.created])
    return "## Settings and versions\n\n" + markdown_table(["", ""], lines)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + _source(value) + ")"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 2 else f"{value:.4f}"


__all__ = [
    "BenchmarkReport",
    "Report",
    "describe_decoding",
    "headline_tables",
    "hide_paths",
    "metric_label",
    "package_versions",
    "part_title",
    "to_markdown",
]
