"""`lion predict`: answers about images."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lion_multimodal.cli.arguments import natural_int, not_empty, positive_int
from lion_multimodal.prediction.drawings import drawing_files


if TYPE_CHECKING:
    from lion_multimodal.prediction.inputs import Inputs
    from lion_multimodal.prediction.outputs import Output, Summary
    from lion_multimodal.prediction.processes import Processes
    from lion_multimodal.prediction.runner import Batch, Options


# Below this many questions, each answer is printed as soon as there is one.
_FEW = 16


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `predict`."""
    parser = subparsers.add_parser(
        "predict",
        help="answer about images",
        description="Answer an instruction about each image. Prints one answer a line, or JSON Lines with boxes, as "
        "soon as there is one; or fills a file with --output, which goes on where it stopped when the command is "
        "repeated. Images that cannot be read are named, skipped and counted; exit status 1 then. By several "
        "processes: accelerate launch -m lion_multimodal.cli.main predict ... --output FILE",
    )
    parser.add_argument(
        "images",
        nargs="*",
        type=not_empty,
        metavar="IMAGE",
        help="images (files or URLs), folders (searched with their subfolders), quoted patterns, rows (.jsonl, .json, "
        ".csv, .tsv, .parquet with columns image, prompt, tags, level, id), WebDataset shards (.tar), or "
        "hub:NAME[:SPLIT]",
    )
    parser.add_argument(
        "--dataset", metavar="NAME[:SPLIT]", type=not_empty, help="dataset on the Hub, or folder of one"
    )
    parser.add_argument("--image-folder", metavar="DIR", help="what paths in rows are relative to (default: the file)")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--prompt", help="instruction (default: a request for a short caption)")
    asked.add_argument(
        "--prompts-file",
        metavar="FILE",
        help="instructions that are all asked about every image, one a line, or JSON Lines: prompt, tags, level, id",
    )
    parser.add_argument("--tags", help="comma-separated tags (default: what the checkpoint's tagger finds)")
    parser.add_argument("--no-tags", action="store_true", help="leave the tag sentence out")
    levels = ["auto", "image_level", "region_level"]
    parser.add_argument("--level", "--task", choices=levels, default="auto", help="what the prompts ask about")
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint (default: the nano in this package)")
    parser.add_argument("--adapter", metavar="REPO_OR_DIR", help="PEFT adapter on top of it, of `lion finetune`")
    parser.add_argument("--device", help="for example cuda:0 or cpu (default: an accelerator where there is one)")
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        help=f"images, and questions, per forward pass (default: 16; 1 for the first answer soon, with up to {_FEW} "
        "questions and no --output)",
    )
    parser.add_argument("--workers", type=positive_int, help="threads that read images (default: up to 4)")
    parser.add_argument("--num-beams", type=positive_int, help="beams (default: the checkpoint's)")
    parser.add_argument("--max-new-tokens", type=positive_int, help="longest answer (default: the checkpoint's)")
    parser.add_argument("--temperature", type=_positive, help="sample answers, the more freely the higher")
    parser.add_argument("--top-p", type=_share, help="sample from the likeliest tokens of this probability in all")
    parser.add_argument("--seed", type=natural_int, help="of sampling (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON Lines with text, boxes and labels")
    parser.add_argument(
        "--output",
        metavar="FILE|DIR",
        type=not_empty,
        help="write the answers to a .jsonl or .parquet file, or as a dataset to a folder",
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew, whatever an earlier run left in --output")
    parser.add_argument(
        "--draw", metavar="DIR", help="write the images with their boxes there, as PNG, in folders as the images'"
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", type=not_empty, help="share the work on a Ray cluster: its address, auto, or local"
    )
    parser.add_argument("--ray-workers", type=positive_int, help="models on it (default: one a GPU, or two processors)")
    parser.set_defaults(run=run)


def _positive(text: str) -> float:
    return _number(text, lambda value: 0 < value < float("inf"), "a positive number")


def _share(text: str) -> float:
    return _number(text, lambda value: 0 < value <= 1, "a number above 0, up to 1")


def _number(text: str, fits: Any, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not fits(value):
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r:.100}")
    return value


def run(args: argparse.Namespace) -> int:
    """
    Answer, print or write, draw; 1 if something could not be answered.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    _check_arguments(args)
    # Loading torch takes seconds, which --help need not wait for.
    from lion_multimodal.prediction.processes import Processes

    processes = Processes.launched()
    if processes.count > 1 and (not args.output or args.ray):
        raise ValueError(f"{processes.count} processes need --output, and no --ray: they share one file of answers")
    inputs = _inputs(args)
    if args.draw:
        inputs.draw_to(lambda names: drawing_files(names, Path(args.draw)))
    return _write(args, inputs, processes) if args.output else _print(args, inputs)


def _check_arguments(args: argparse.Namespace) -> None:
    if args.tags is not None and args.no_tags:
        raise ValueError("--tags and --no-tags exclude each other")
    if not args.images and not args.dataset:
        raise ValueError("give images, or --dataset")
    if args.overwrite and not args.output:
        raise ValueError("--overwrite needs --output")
    if args.seed is not None and args.temperature is None and args.top_p is None:
        raise ValueError("--seed needs --temperature or --top-p: nothing is drawn without them")
    if args.ray_workers is not None and not args.ray:
        raise ValueError("--ray-workers needs --ray")


def _inputs(args: argparse.Namespace) -> Inputs:
    from lion_multimodal.prediction.inputs import DatasetRows, Inputs, Prompt, open_input, read_prompts

    if args.image_folder is not None and not Path(args.image_folder).expanduser().is_dir():
        raise ValueError(f"--image-folder must be a folder, and there is none at {args.image_folder}")
    prompts = read_prompts(args.prompts_file) if args.prompts_file else []
    sources: list[Any] = [open_input(image, args.image_folder) for image in args.images]
    if args.dataset:
        sources.append(DatasetRows(args.dataset, args.image_folder))
    return Inputs(sources, Prompt(args.prompt, args.tags, args.level), prompts, args.no_tags)


def _options(args: argparse.Namespace, batch_size: int) -> Options:
    from lion_multimodal.prediction.runner import Options

    limits = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
    drawn = {"temperature": args.temperature, "top_p": args.top_p}
    generation = {name: value for name, value in {**limits, **drawn}.items() if value is not None}
    if any(value is not None for value in drawn.values()):
        generation["do_sample"] = True
    workers = args.workers or min(4, os.cpu_count() or 1)
    return Options(batch_size, generation, args.seed or 0, workers)


def _engine(args: argparse.Namespace, processes: Processes | None = None) -> Any:
    from lion_multimodal import asking
    from lion_multimodal.engine import LionEngine

    device = args.device if processes is None else processes.device(args.device)
    return LionEngine(asking.load_pipeline(args.model, device, args.adapter))


# --- Answers that are printed ---


def _print(args: argparse.Namespace, inputs: Inputs) -> int:
    from lion_multimodal.prediction.outputs import Summary
    from lion_multimodal.prediction.runner import BATCH_SIZE, Predictor, group_requests, peek

    count, requests = peek(inputs.requests(), _FEW + 1)
    options = _options(args, args.batch_size or (BATCH_SIZE if count > _FEW else 1))
    if args.ray:
        batches = _on_ray(args, inputs, options, set)
    else:
        engine = _engine(args)
        batches = Predictor(engine, options).run(group_requests(requests, options.batch_size))
    summary, seen, named = Summary(), set[str](), _Named()
    several_prompts = len(inputs.prompts) > 1
    for batch in _with_progress(batches, inputs, hidden=sys.stdout.isatty() or count <= _FEW):
        for _, record in sorted([*batch.answers, *batch.errors], key=lambda numbered: numbered[0]):
            if "error" in record:
                named.name(record)
                continue
            prefix = f"{shorten(record['image'])}: " if count > 1 else ""
            prefix += f"{record['prompt']} " if several_prompts else ""
            text = json.dumps(record, ensure_ascii=False) if args.json else prefix + record["generated_text"]
            print(_printable(text), flush=True)
        summary.count(batch, seen)
    return _conclude(summary)


class _Named:
    """Names what has no answer: every row, and an image once, however many questions there are about it."""

    def __init__(self) -> None:
        self.last: str | None = None

    def name(self, record: dict[str, Any]) -> None:
        """One line on stderr."""
        image = record["image"] if record["kind"] == "image" else None
        if image is None or image != self.last:
            reason = " ".join(record["error"].split())
            print(_printable(f"lion: skipped {shorten(record['image'])}: {reason}"), file=sys.stderr)
        self.last = image


def _conclude(summary: Summary) -> int:
    """Say what has no answer, and give the exit status."""
    for what, first in (
        (f"{summary.unreadable} of {summary.images} images could not be read", summary.first_unreadable),
        (f"{summary.unasked} questions could not be asked", summary.first_unasked),
    ):
        if first is not None:
            print(f"lion: error: {what}; the first: {_printable(shorten(first))}", file=sys.stderr)
    return 1 if summary.unreadable or summary.unasked else 0


def shorten(image: str) -> str:
    """The name of an image for people: a data: address can be millions of characters long."""
    return image if len(image) <= 200 else f"{image[:60]}..."


def _printable(text: str) -> str:
    """Bytes of file names that are no UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


# --- Answers that are written ---


def _write(args: argparse.Namespace, inputs: Inputs, processes: Processes) -> int:
    from lion_multimodal.prediction.outputs import Output
    from lion_multimodal.prediction.runner import BATCH_SIZE, Predictor, group_requests

    options = _options(args, args.batch_size or BATCH_SIZE)
    output = Output(args.output, _settings(args, inputs, options), processes.index)
    for source in inputs.sources:
        read = getattr(source, "path", None)
        if read is not None and output.path.exists() and output.path.samefile(read):
            raise ValueError(f"--output {args.output} is what is read")
    complete = output.check(args.overwrite)
    processes.wait()
    if complete is not None:
        if processes.is_main:
            output.clear()
            _report(output, complete, "was complete")
        return _conclude(complete) if processes.is_main else 0
    if processes.is_main:
        output.start(args.overwrite)
    processes.wait()

    done = output.done()
    shared = None
    if args.ray:
        batches = _on_ray(args, inputs, options, lambda: set(done))
    else:
        engine = _engine(args, processes)
        shared = _Share(group_requests(inputs.requests(), options.batch_size), processes)
        batches = Predictor(engine, options).run(shared, lambda group, batch: (group, batch) in done)
    named = _Named()
    counted = {"share": processes.count, "done": sum(done.values())}
    for batch in _with_progress(batches, inputs, hidden=not processes.is_main, **counted):
        output.append(batch)
        for _, record in batch.errors:
            named.name(record)
    processes.wait()
    if not processes.is_main:
        processes.wait()
        return 0
    summary = output.finish(None if shared is None else shared.count)
    _report(output, summary, "is complete")
    processes.wait()
    return _conclude(summary)


class _Share:
    """This process's groups, every so many of all."""

    def __init__(self, groups: Iterator[Any], processes: Processes):
        self.groups = groups
        self.processes = processes
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        for group in self.groups:
            self.count += 1
            if group.number % self.processes.count == self.processes.index:
                yield group


def _settings(args: argparse.Namespace, inputs: Inputs, options: Options) -> dict[str, Any]:
    """What must not change from run to run."""
    import lion_multimodal
    from lion_multimodal import checkpoints
    from lion_multimodal.prediction.identity import describe_checkpoint

    settings = {
        "version": lion_multimodal.__version__,
        "model": None,
        "adapter": None,
        **inputs.describe(),
        "image_folder": args.image_folder,
        "batch_size": options.batch_size,
        "generation": options.generate_kwargs,
        "seed": options.seed if options.generate_kwargs.get("do_sample") else None,
        "draw": args.draw,
    }
    if args.model or not args.adapter:
        settings["model"] = describe_checkpoint(args.model or checkpoints.path("nano"))
    if args.adapter:
        settings["adapter"] = describe_checkpoint(args.adapter, "adapter_config.json")
    return settings


def _report(output: Output, summary: Summary, state: str) -> None:
    without = summary.unreadable + summary.unasked
    errors = f"; what has none is in {output.errors}" if without else ""
    print(_printable(f"{output.path} {state}: {summary.answers} answers{errors}"))


def _on_ray(args: argparse.Namespace, inputs: Inputs, options: Options, done: Any) -> Iterator[Batch]:
    from lion_multimodal.prediction.ray import run_on_ray

    return run_on_ray(
        args.ray,
        inputs,
        options,
        done,
        model=args.model,
        adapter=args.adapter,
        device=args.device,
        workers=args.ray_workers,
    )


def _with_progress(
    batches: Iterator[Batch], inputs: Inputs, *, hidden: bool, share: int = 1, done: int = 0
) -> Iterator[Batch]:
    """Batches as they come, with images per second and the time that is left on stderr."""
    from huggingface_hub import constants
    from huggingface_hub.utils import enable_progress_bars, tqdm

    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars("lion_multimodal")  # loading without progress switched all off
    # To a file, a line now and then.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    total = None if inputs.total is None else -(-inputs.total // share)
    shown = {"total": total, "initial": done // share, "unit": "image", "smoothing": 0.05, "mininterval": interval}
    with tqdm(**shown, disable=hidden, name="lion_multimodal.predict") as progress:
        for batch in batches:
            yield batch
            if batch.is_last:
                progress.update(batch.rows)
