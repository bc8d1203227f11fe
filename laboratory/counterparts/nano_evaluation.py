"""
Evaluates the shipped checkpoint on the synthetic counterpart of every benchmark; brings docs/evaluation.md up to date.

    python -m laboratory.counterparts.nano_evaluation

writes the counterparts into the output folder, evaluates as `lion eval` does, and replaces what stands between the
markers of the page: the table of figures, and the description of the benchmarks. A run that was cut off goes on where
it stopped; another checkpoint needs another output folder. After a change of definitions alone, `--definitions` needs
no model.
"""

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from laboratory.counterparts.synthetic import write_synthetic
from lion_multimodal import checkpoints
from lion_multimodal.evaluation.benchmark import Benchmark, HubDataset
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.report import Report, describe_decoding, metric_label, part_title
from lion_multimodal.evaluation.scoring import Score
from lion_multimodal.evaluation.sheet import join_strips
from processing_lion.prompts_lion import PROMPT_TEMPLATES
from trainers.publishing.markdown import markdown_table


DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "evaluation.md"
IMAGE = DOCS / "images" / "evaluation.jpg"

# Of each kind of benchmark one, for the image.
_SHOWN = ("coco_caption", "okvqa", "visdial", "refcoco_val", "mmbench")
# Metrics whose predictions are likelihoods of candidates.
_RANKING = frozenset(["multiple_choice_accuracy", "visdial_ranking", "mmbench_circular"])
_REPO = re.compile(r"[\w-]+/[\w.-]+")
# Figures worth a column, by the metric that gives them.
_BESIDE = {
    "cider": ("BLEU-4", "METEOR"),
    "exact_match_accuracy": (),
    "multiple_choice_accuracy": ("chance_accuracy",),
    "rec_accuracy": ("mean_iou",),
    "visdial_ranking": ("R@1", "R@5", "R@10", "NDCG"),
    "pope": ("accuracy", "precision", "recall", "yes_ratio"),
    "mmbench_circular": ("rotation_accuracy",),
}


def replace_section(page: str, name: str, content: str) -> str:
    """
    The page with other content between the markers `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the page lacks a marker.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"the page must hold the markers {start.strip()} and {end}")
    return f"{before}{start}\n{content.strip()}\n\n{end}{after}"


def figures_section(report: Report, rows: int) -> str:
    """The table of a report's figures on the synthetic counterparts."""
    figures = []
    for benchmark in report.evaluated:
        for score in benchmark.scores:
            ends = "–" if score.interval is None else f"{score.interval[0]:.1f}–{score.interval[1]:.1f}"
            cells = [part_title(benchmark, score), metric_label(score), f"{score.value:.1f}", ends]
            figures.append([*cells, _beside(score), f"{score.samples:,}"])
    tokenizers = {score.notes.get("tokenizer") for benchmark in report.evaluated for score in benchmark.scores} - {None}
    left_out = sum(benchmark.left_out for benchmark in report.evaluated)
    count = sum(benchmark.answered for benchmark in report.evaluated)
    versions = report.versions
    notes = (
        f"{count:,} questions about {rows} rows of each benchmark, {left_out} left out; tags from the checkpoint's "
        f"tagger; {report.settings['dtype']} on {report.evaluated[0].run['device']}. Weights "
        f"{(report.settings['weights_sha256'] or '')[:12]} (SHA-256 of configuration and weights). torch "
        f"{versions['torch']}, transformers {versions['transformers']}, datasets {versions['datasets']}. Captions were "
        f"made into words by {'; '.join(sorted(tokenizers))}."
    )
    header = ["benchmark", "metric", "nano", "95 % interval", "beside it", "questions"]
    return markdown_table(header, figures, "llrrlr") + f"\n{notes}"


def _beside(score: Score) -> str:
    names = [name for name in _BESIDE.get(score.metric, ()) if name in score.figures]
    return (
        ", ".join(f"{name.replace('_', ' ').replace('iou', 'IoU')} {score.figures[name]:.3f}" for name in names) or "–"
    )


def definitions_section(benchmarks: Sequence[Benchmark]) -> str:
    """Which dataset and prompt each benchmark uses, and why; those that differ in their rows only stand together."""
    return "\n\n".join(_family(list(family)) for _, family in groupby(benchmarks, lambda one: (one.why, one.prompts)))


def _family(family: list[Benchmark]) -> str:
    first = family[0]
    lines = [f"### {', '.join(one.title for one in family)}", "", f"`{','.join(one.name for one in family)}`", ""]
    lines += [f"- {line}" for line in dict.fromkeys(line for one in family for line in _rows(one, len(family) > 1))]
    lines += [f"- Prompt: `{PROMPT_TEMPLATES[name].text}`".replace("\n", "\\n") for name in first.prompts]
    metrics = dict.fromkeys(f"{metric.headline} (`{metric.name}`)" for metric in first.metrics.values())
    further = dict.fromkeys(f"{metric.headline} (`{metric.name}`)" for metric in first.further_metrics)
    names = {metric.name for metric in first.metrics.values()}
    decoding = {
        "generates": bool(names - _RANKING),
        "ranks": bool(names & _RANKING),
        **asdict(first.decoding),
        "normalize_candidates": first.normalize_candidates,
    }
    lines.append(f"- {describe_decoding(decoding)}.")
    lines.append(f"- Metric: {', '.join(metrics)}{'; beside it ' + ', '.join(further) if further else ''}.")
    lines += ["", first.why]
    return "\n".join(lines)


def _rows(benchmark: Benchmark, named: bool) -> Iterator[str]:
    """Where a benchmark's rows are: on the Hub, the first that is there, and in which other schemas on a disk."""
    merged: list[tuple[HubDataset, list[HubDataset]]] = []
    for source in benchmark.sources:
        if merged and (merged[-1][0].note, merged[-1][0].read_row) == (source.note, source.read_row):
            merged[-1][1].append(source)
        else:
            merged.append((source, [source]))
    for place, (source, same) in enumerate(merged):
        names = " or ".join(f"`{other.path}`" if _REPO.fullmatch(other.path) else other.path for other in same)
        note = f": {source.note}" if source.note else ""
        if source.local_only:
            yield f"On a disk only: {names}{note}."
        elif place and named:  # what differs from one of the family to the next is said of the first dataset
            yield f"Else: {names}{note}."
        else:
            title = benchmark.title if named else "Else" if place else "Dataset"
            config = f", configuration `{source.name}`" if source.name else ""
            yield f"{title}: {names}{config}, split `{source.split}`{note}."


def write_page(page: Path, sections: dict[str, str]) -> None:
    """Replace sections of a page."""
    text = page.read_text(encoding="utf-8")
    for name, content in sections.items():
        text = replace_section(text, name, content)
    page.write_text(text, encoding="utf-8")


def evaluate_nano(model: str, output: Path, rows: int, device: str | None) -> Report:
    """
    The report on the counterparts.

    Raises:
        ValueError: a benchmark could not be evaluated.
    """
    from lion_multimodal.evaluation.runner import evaluate

    data = output / f"data-{rows}"
    written = [name for name in BENCHMARKS if not (data / name).is_dir()]
    if written:
        write_synthetic(data, rows, written)
    report = evaluate(model, list(BENCHMARKS.values()), output / f"report-{rows}", data_dir=data, device=device)
    failed = [benchmark for benchmark in report.benchmarks if benchmark.error]
    if failed:
        raise ValueError("; ".join(f"{benchmark.name}: {benchmark.error}" for benchmark in failed))
    return report


def write_image(report_folder: Path, file: Path) -> None:
    """The strips of some benchmarks, small enough for a page."""
    strips = [report_folder / "sheets" / f"{name}.png" for name in _SHOWN]
    join_strips(strips).convert("RGB").save(file, quality=82, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, and bring the page up to date."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.counterparts.nano_evaluation", description=main.__doc__)
    parser.add_argument("--model", default=str(checkpoints.path("nano")), help="checkpoint (default: the nano)")
    parser.add_argument("--rows", type=int, default=100, help="rows of each benchmark (default: 100)")
    parser.add_argument("--output", type=Path, default=Path("runs/nano_evaluation"), help="folder for data and report")
    parser.add_argument("--device", help="for example cpu (default: an accelerator where there is one)")
    parser.add_argument("--definitions", action="store_true", help="only what the benchmarks are; no figures")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    sections = {"definitions": definitions_section(list(BENCHMARKS.values()))}
    if not options.definitions:
        report = evaluate_nano(options.model, options.output, options.rows, options.device)
        sections["figures"] = figures_section(report, options.rows)
        write_image(options.output / f"report-{options.rows}", IMAGE)
    write_page(PAGE, sections)


if __name__ == "__main__":
    main()
