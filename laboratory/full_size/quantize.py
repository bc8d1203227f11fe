"""
What quantised loading saves at full size, and how far it moves the outputs.

    python -m laboratory.full_size.quantize --model FOLDER --image PICTURE --output REPORT.json

Every method runs in a process of its own; the first one, `none`, is what others are compared with. Random weights have
no answers to keep, so logits of one forward pass are compared; `--samples` compares the answers of a trained nano on
the synthetic world as well.
"""

import argparse
import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from laboratory.full_size.measure import GIB, QUESTION, peak_memory
from laboratory.speed.measurement import describe_environment


logger = logging.getLogger(__name__)

REFERENCE = "none"
METHODS = (REFERENCE, "bitsandbytes 8 bit", "bitsandbytes 4 bit", "torchao int8")
# Teacher-forced: what it says does not matter, only that all methods are asked for the same.
_ANSWER = "a black suit with a white shirt and a dark tie"
_LOGITS = "logits"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a LION checkpoint")
    parser.add_argument("--image", type=Path, required=True, metavar="PICTURE", help="picture to ask about")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="report")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of what is not quantised")
    parser.add_argument("--samples", type=int, default=0, help="test samples a task of the world, for a nano")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (default: one a core)")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report: dict[str, Any] = json.loads(args.output.read_text()) if args.output.is_file() else {}
    report["environment"] = describe_environment(args.threads)
    for method in args.methods:
        logger.info("%s ...", method)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            report[method] = pool.submit(measure, method, args).result()
        logger.info("%s", json.dumps(report[method], indent=1))
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def quantization_config(method: str, dtype: Any) -> Any:
    """What `from_pretrained` takes for a method of [`METHODS`]."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    makers: dict[str, Callable[[], Any]] = {
        REFERENCE: lambda: None,
        "bitsandbytes 8 bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
        "bitsandbytes 4 bit": lambda: BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        ),
        "torchao int8": lambda: TorchAoConfig(importlib.import_module("torchao.quantization").Int8WeightOnlyConfig()),
    }
    return makers[method]()


def measure(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Load by a method, ask once, compare."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoProcessor

    from modeling_lion import LionForConditionalGeneration

    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    config = quantization_config(method, dtype)
    options = {} if config is None else {"quantization_config": config, "device_map": {"": "cpu"}}
    started = time.perf_counter()
    model = LionForConditionalGeneration.from_pretrained(args.model, dtype=dtype, **options).eval()
    result: dict[str, Any] = {
        "load_seconds": round(time.perf_counter() - started, 1),
        "weights_gib": round(sum(map(storage_bytes, model.parameters())) / GIB, 3),
    }
    inputs = AutoProcessor.from_pretrained(args.model)(
        images=args.image, text=QUESTION, answers=_ANSWER, return_tensors="pt"
    )
    started = time.perf_counter()
    with torch.no_grad():
        logits = model(**inputs).logits.float().contiguous()
    result |= {
        "forward_seconds": round(time.perf_counter() - started, 1),
        "peak_gib": round(peak_memory() / GIB, 2),
    }
    kept = args.output.with_suffix(".safetensors")
    if method == REFERENCE:
        save_file({_LOGITS: logits}, kept)
    elif kept.is_file():
        expected = load_file(kept)[_LOGITS]
        result["relative_difference"] = float((logits - expected).norm() / expected.norm())
        result["same_choice"] = float((logits.argmax(-1) == expected.argmax(-1)).float().mean())
    if args.samples:
        result["world"] = ask_about_the_world(model, args)
    return result


def storage_bytes(parameter: Any) -> int:
    """Bytes that a parameter takes, also where a quantised one poses as a float tensor of the original shape."""
    names = getattr(parameter.data, "__tensor_flatten__", None)
    if names is None:
        return parameter.numel() * parameter.element_size()
    return sum(storage_bytes(getattr(parameter.data, name)) for name in names()[0])


def ask_about_the_world(model: Any, args: argparse.Namespace) -> dict[str, float]:
    """Headline figures on test pictures of the synthetic world, without tags."""
    from laboratory.world.evaluate_world import answer_all, held_out, score_task
    from laboratory.world.language import TASKS
    from processing_lion import LionProcessor

    processor = LionProcessor.from_pretrained(args.model)
    figures = {}
    for task in TASKS:
        cases = list(held_out(task, args.samples))
        for score in score_task(task, cases, answer_all(model, processor, cases, None)):
            figures[f"{score.task}, {score.metric}"] = round(score.value, 4)
    return figures


if __name__ == "__main__":
    main()
