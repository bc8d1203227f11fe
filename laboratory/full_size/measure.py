"""
What full size takes: peak memory and seconds of converting, checking, loading and asking.

Every step runs in a process of its own, whose peak of resident memory is then known. Pages of mapped files count, as
the system counts them.
"""

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from laboratory.speed.measurement import describe_environment


logger = logging.getLogger(__name__)

GIB = 2**30
QUESTION = "Question: what is the person wearing? Short answer:"
CONVERTED = "LION-FlanT5-XL"
STEPS = ("convert", "verify", "load", "answer")
_NUMBERS_IN_A_PAGE = 2048
_SOURCES = {
    "--checkpoint": "LION-FlanT5-XL.pth",
    "--vision": "eva_vit_g.pth",
    "--text-model": "flan-t5-xl",
    "--qformer-tokenizer": "bert-base-uncased",
    "--ram": "ram_swin_large_14m.pth",
    "--ram-tags": "ram/data",
}


def main() -> None:
    """Parse the command line, measure, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True, metavar="FOLDER", help="what make_files has written")
    parser.add_argument("--image", type=Path, required=True, metavar="PICTURE", help="photograph to ask about")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.json", help="report, continued if it exists"
    )
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (default: one a core)")
    parser.add_argument("--new-tokens", type=int, default=20, help="length of the answers (default: 20)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report: dict[str, Any] = json.loads(args.output.read_text()) if args.output.is_file() else {}
    report["environment"] = describe_environment(args.threads)
    report["environment"]["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)
    for name in args.steps:
        logger.info("%s ...", name)
        report[name] = run_step(name, args)
        logger.info("%s", json.dumps(report[name], indent=1))
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_step(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One step in a new process: what it returns, and its peak."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(name, args, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the step {name} ended with {process.exitcode}") from None
    process.join()
    # What else the machine did: with more than one process a core, seconds are longer than processor seconds.
    return {**result, "load_average": round(os.getloadavg()[0], 1)}


def _run(name: str, args: argparse.Namespace, sender: Connection) -> None:
    import torch

    torch.set_num_threads(args.threads)
    steps: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "convert": convert,
        "verify": lambda args: convert(args, "--verify"),
        "load": load,
        "answer": answer,
    }
    started = time.perf_counter()
    result = steps[name](args)
    measured = {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time(), 1),
        "peak_gib": gib(peak_memory()),
    }
    sender.send({**measured, **result})


def convert(args: argparse.Namespace, *more: str) -> dict[str, Any]:
    """`lion convert official`, or with `--verify` the check of what it wrote."""
    from lion_multimodal.cli.main import main as lion

    arguments = ["convert", "official", "--dtype", "bfloat16", "--output", str(args.files / CONVERTED), *more]
    for option, file in _SOURCES.items():
        arguments += [option, str(args.files / file)]
    if lion(arguments) != 0:
        raise RuntimeError("the conversion failed")
    largest = max(
        file.stat().st_size
        for file in args.files.glob("**/*")
        if CONVERTED not in file.relative_to(args.files).parts and file.is_file()
    )
    return {
        "largest_input_gib": gib(largest),
        "limit_gib": gib(1.3 * largest + GIB),
        "written_gib": gib(size_on_disk(args.files / CONVERTED, "**/*")),
    }


def load(args: argparse.Namespace) -> dict[str, Any]:
    """
    `from_pretrained` in bfloat16, and its peak beside the size of the weights: right after it, when much may still be
    on the disk, and once every page of every parameter has been read.
    """
    import torch

    from modeling_lion import LionForConditionalGeneration

    directory = args.files / CONVERTED
    imports = peak_memory()
    started = time.perf_counter()
    model = LionForConditionalGeneration.from_pretrained(directory, dtype=torch.bfloat16)
    seconds, after = time.perf_counter() - started, peak_memory()
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    started = time.perf_counter()
    total = sum(float(parameter.detach().flatten()[::_NUMBERS_IN_A_PAGE].sum()) for parameter in model.parameters())
    assert total == total
    size = size_on_disk(directory, "*.safetensors")
    return {
        "from_pretrained_seconds": round(seconds, 1),
        "read_seconds": round(time.perf_counter() - started, 1),
        "imports_gib": gib(imports),
        "on_disk_gib": gib(size),
        "after_from_pretrained_gib": gib(after),
        "peak_to_disk": round(peak_memory() / size, 3),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def answer(args: argparse.Namespace) -> dict[str, Any]:
    """Tags of a photograph, then one question about it, greedy and with five beams."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor

    from modeling_lion import LionForConditionalGeneration, LionTagger

    directory = args.files / CONVERTED
    model = LionForConditionalGeneration.from_pretrained(directory, dtype=torch.bfloat16).eval()
    loaded = peak_memory()
    processor = AutoProcessor.from_pretrained(directory)
    tagger = LionTagger.from_pretrained(directory)
    with Image.open(args.image) as picture:
        size, mode = picture.size, picture.mode
    seconds: dict[str, float] = {}
    processor_seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        started, processor_started = time.perf_counter(), time.process_time()
        result = function()
        seconds[name] = round(time.perf_counter() - started, 2)
        processor_seconds[name] = round(time.process_time() - processor_started, 2)
        return result

    tags = timed("tags", lambda: tagger(args.image)[0])
    inputs = timed("processor", lambda: processor(images=args.image, text=QUESTION, tags=tags[:20]))
    pixel_values = inputs.pop("pixel_values").to(model.dtype)
    with torch.no_grad():
        features = timed("picture", lambda: model.encode_images(pixel_values))
    lengths = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens}
    for name, beams in (("greedy", 1), ("beam 5", 5)):
        ids = timed(
            name, lambda beams=beams: model.generate(**inputs, image_features=features, num_beams=beams, **lengths)
        )
    # Any size and mode of picture gives the same kind of input.
    with Image.open(args.image) as picture:
        for other in (
            picture.convert("L"),
            picture.convert("RGBA"),
            picture.convert("CMYK"),
            picture.resize((31, 900)),
        ):
            values = processor(images=other, text=QUESTION)["pixel_values"]
            assert values.shape == pixel_values.shape
            assert values.isfinite().all()
    return {
        "picture": f"{size[0]} x {size[1]}, {mode}",
        "prompt_tokens": int(inputs["attention_mask"].sum()),
        "new_tokens": int(ids.shape[1] - 1),
        "num_tags": len(tags),
        "loaded_gib": gib(loaded),
        "seconds_of": seconds,
        "processor_seconds_of": processor_seconds,
        "answer": processor.batch_decode(ids, skip_special_tokens=True)[0],
    }


def peak_memory() -> int:
    """Bytes of this process's largest resident memory so far, without what it inherited."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def size_on_disk(directory: Path, pattern: str) -> int:
    """Bytes of the files in `directory`."""
    return sum(file.stat().st_size for file in directory.glob(pattern) if file.is_file())


def gib(number: float) -> float:
    """Bytes as GiB, to two places."""
    return round(number / GIB, 2)


if __name__ == "__main__":
    main()
