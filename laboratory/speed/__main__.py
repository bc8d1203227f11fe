"""
Measures LION's speed and memory: `python -m laboratory.speed`.

Every figure is a ratio of two sides that were timed in turns (or seconds beyond a baseline), with its target beside it,
in `speed.json` and `speed.md` of the output folder. A run that was cut off goes on where it stopped.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from laboratory.speed.floors import measure_floors
from laboratory.speed.generation import (
    measure_beam_search,
    measure_decode_step,
    measure_instructblip,
    measure_questions,
)
from laboratory.speed.importing import measure_import
from laboratory.speed.session import Session
from laboratory.speed.sizes import BASE, TINY


def measure_training(session: Session) -> None:
    """Time and memory of training steps, which need the packages of the extra `train`."""
    from laboratory.speed.training import measure_training_memory, measure_training_step

    measure_training_step(session)
    measure_training_memory(session)


GROUPS = (
    measure_import,
    measure_instructblip,
    measure_decode_step,
    measure_beam_search,
    measure_floors,
    measure_training,
    measure_questions,
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m laboratory.speed", description=__doc__.split("\n")[1])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="figures whose names begin so")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of every comparison (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: torch's)")
    parser.add_argument("--output", type=Path, default=Path("outputs/speed"), help="folder for the figures")
    parser.add_argument("--device", choices=("cpu", "cuda"), action="append", help="default: the CPU, then a GPU")
    parser.add_argument(
        "--gpu-dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of the weights on a GPU"
    )
    parser.add_argument("--new-tokens", type=int, default=BASE.answer_tokens, help="tokens of every answer")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that everything runs")
    parser.add_argument("--profile", action="store_true", help="profile also what keeps to its target")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.new_tokens < 1:
        parser.error("--repeats and --new-tokens must be at least 1")
    if options.device and "cuda" in options.device and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("laboratory").setLevel(logging.INFO)
    transformers_logging.set_verbosity_error()  # its advice on generation settings, at every call
    if options.threads:
        torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # for processes that are started
    sizes = TINY if options.tiny else BASE
    if options.new_tokens != BASE.answer_tokens:
        sizes = type(sizes)(**{**vars(sizes), "answer_tokens": options.new_tokens})
    passed = []
    for device in options.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        session = Session(
            sizes=sizes,
            device=device,
            dtype=torch.float32 if device == "cpu" else getattr(torch, options.gpu_dtype),
            repeats=options.repeats,
            threads=torch.get_num_threads(),
            output=options.output,
            only=options.only,
            profile_all=options.profile,
        )
        for measure in GROUPS:
            measure(session)
        passed += [figure["passed"] for figure in session.figures.values()]
    print(f"{passed.count(True)} targets reached, {passed.count(False)} missed: {options.output / 'speed.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
