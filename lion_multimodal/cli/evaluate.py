"""`lion eval`: benchmarks, with published figures beside those of a checkpoint."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from lion_multimodal.evaluation.benchmark import Benchmark
    from lion_multimodal.evaluation.report import Report


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `eval`."""
    parser = subparsers.add_parser(
        "eval",
        aliases=["evaluate"],
        help="evaluate a checkpoint on the benchmarks of the paper, POPE and MMBench",
        description="Evaluate a checkpoint and report its figures beside the published ones. A run that was "
        "interrupted goes on where it stopped when the command is repeated with the same settings. What cannot be "
        "read is named, left out and counted. On several devices: "
        "accelerate launch -m lion_multimodal.cli.main eval ...",
    )
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint")
    parser.add_argument("--adapter", metavar="REPO_OR_DIR", help="PEFT adapter on top of it, of `lion finetune`")
    parser.add_argument("--revision", help="branch, tag or commit of the checkpoint on the Hub")
    parser.add_argument("--benchmark", required=True, metavar="all|NAME[,NAME]", help="what to evaluate on")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for predictions and report")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with DIR/NAME for each benchmark (default: datasets on the Hub)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N questions of each benchmark only")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        help="images and questions at once, for each process (default: 16)",
    )
    parser.add_argument(
        "--tags",
        choices=["column", "tagger", "none"],
        default="tagger",
        help="tags from the rows' column `tags`, from the checkpoint's tagger, or none (default: tagger)",
    )
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="precision of the model (default: that of its files)",
    )
    parser.add_argument("--device", help="for example cuda:0 or cpu (default: an accelerator where there is one)")
    parser.add_argument(
        "--update-card",
        action="store_true",
        help="write the figures into the model card of the checkpoint's directory, as the Hub's model-index",
    )
    parser.add_argument(
        "--check-overlap",
        metavar="DATA",
        help="instead of evaluating, say which images of the benchmarks are in a training set, by COCO id and by "
        "perceptual hash: the folder of `lion data prepare`, a folder of images, a dataset or a file of rows",
    )
    parser.set_defaults(run=run)


class _Once(logging.Filter):
    """Lets every message pass once: what the metrics of one benchmark say, those of the next say again."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


@contextmanager
def _each_message_once(name: str) -> Iterator[None]:
    """For as long as this lasts, the logger of that name says nothing twice."""
    once = _Once()
    logging.getLogger(name).addFilter(once)
    try:
        yield
    finally:
        logging.getLogger(name).removeFilter(once)


def run(args: argparse.Namespace) -> int:
    """
    Evaluate, and print the figures; 1 if there are none.

    Raises:
        ValueError, OSError, ImportError: with one line to show to the user.
    """
    from lion_multimodal.evaluation.benchmarks import get_benchmarks

    benchmarks = get_benchmarks(args.benchmark)
    if args.check_overlap is not None:
        return _check_overlap(args, benchmarks)
    if args.model is None:
        raise ValueError("lion eval needs --model, or --check-overlap with a training set")

    # Loading torch and friends takes seconds, which --help and a wrong name need not wait for.
    from lion_multimodal.loading import check_device
    from modeling_lion.extras_lion import needs_extra

    with needs_extra("evaluation", "lion eval", "accelerate", "datasets", "evaluate", "tqdm"):
        from lion_multimodal.evaluation.report import headline_tables
        from lion_multimodal.evaluation.runner import evaluate, process_state

    check_device(args.device, "--device")
    is_main = process_state(args.device).is_main_process
    if not is_main:  # the others would say the same
        logging.getLogger().setLevel(logging.ERROR)
    with _each_message_once("lion_multimodal.evaluation.metrics.captions"):
        report = evaluate(
            args.model,
            benchmarks,
            args.output,
            adapter=args.adapter,
            revision=args.revision,
            data_dir=args.data_dir,
            limit=args.limit,
            batch_size=args.batch_size,
            tags=args.tags,
            dtype=args.dtype,
            device=args.device,
        )
    names = {benchmark.name for benchmark in benchmarks}
    evaluated = [benchmark for benchmark in report.evaluated if benchmark.name in names]
    failed = [benchmark for benchmark in report.benchmarks if benchmark.error and benchmark.name in names]
    if is_main:
        if evaluated:
            print(headline_tables(evaluated))
        for benchmark in failed:
            print(f"{benchmark.name} is not evaluated: {benchmark.error}")
        print(f"report    {Path(args.output, 'report.md')}")
        if args.update_card and report.evaluated:
            _update_card(args, report)
    if not evaluated:
        raise ValueError(f"none of the benchmarks could be evaluated; the first: {failed[0].name}: {failed[0].error}")
    return 0


def _check_overlap(args: argparse.Namespace, benchmarks: list[Benchmark]) -> int:
    from lion_multimodal.evaluation.overlap import find_overlap, overlap_table

    overlaps = find_overlap(benchmarks, args.check_overlap, args.output, data_dir=args.data_dir, limit=args.limit)
    print(overlap_table(overlaps))
    print(f"images    {Path(args.output, 'overlap.json')}")
    if all(overlap.error for overlap in overlaps):
        raise ValueError(f"none of the benchmarks could be compared; the first: {overlaps[0].error}")
    return 0


def _update_card(args: argparse.Namespace, report: Report) -> None:
    from lion_multimodal.evaluation.model_card import update_card, write_piece

    if Path(args.model).is_dir():
        print(f"card      {update_card(args.model, report)}")
    else:
        piece = write_piece(args.output, report)
        print(f"card      {piece}: metadata for the card of {args.model}, which is not a directory here")
