"""
Measures `lion predict` on many images: `python -m laboratory.speed.prediction`.

Images per second of the nano in batches of 16 beside calling its pipeline image by image, and beside transformers' own
pipeline "image-text-to-text" with a BLIP-2 of the same sizes, whose LLM reads as many visual tokens; and the memory
that 10,000 rows take. All sides read the same files from disk, give the same number of tokens, and take turns.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
    T5Config,
    pipeline,
)
from transformers.utils import logging as transformers_logging

from laboratory.speed.measurement import Side, describe_environment, median_ratio, time_interleaved
from laboratory.world.scene import SPLITS, render, sample_scene
from lion_multimodal.asking import load_pipeline
from lion_multimodal.engine import LionEngine
from lion_multimodal.prediction.inputs import Inputs, Prompt, Row, open_input
from lion_multimodal.prediction.outputs import Output
from lion_multimodal.prediction.runner import Options, Predictor, group_requests


QUESTION = "Question: What is in the image? Short answer:"
TARGETS = {"one by one": 1 / 3, "BLIP-2": 1.0, "BLIP-2, without tags": 1.0}
# Of the memory in use when a tenth of the rows is done: what may come on top for all others.
MOST_GROWTH = 0.03


def draw_scenes(folder: Path, number: int, first: int = 0) -> list[str]:
    """Scenes of the test split, PNG and JPEG in turns, in several sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(first, first + number):
        image = render(sample_scene(SPLITS["test"][index % len(SPLITS["test"])]))
        file = folder / f"{index:05d}.{('png', 'jpg')[index % 2]}"
        image.resize((96 + 32 * (index % 3),) * 2).save(file)
        files.append(str(file))
    return files


def make_blip2(model: Any, processor: Any) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    """A BLIP-2 with random weights; its parts have the sizes of a LION's, and its LLM reads as many visual tokens."""
    config, tokenizer = model.config, PreTrainedTokenizerFast(tokenizer_object=processor.tokenizer.backend_tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "eos_token": "</s>", "additional_special_tokens": ["<image>"]})
    vision, size = config.vision_config, config.vision_config.image_size
    branches = model.active_branches
    visual_tokens = config.num_query_tokens * ("qformer" in branches)
    visual_tokens += ((size // vision.patch_size) ** 2 + 1) * ("aggregator" in branches)
    text = {name: value for name, value in config.text_config.to_dict().items() if name in T5Config().to_dict()}
    peer_config = Blip2Config(
        vision_config={
            name: getattr(vision, name)
            for name in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "image_size",
                "patch_size",
            )
        },
        qformer_config={
            **{
                name: getattr(config.qformer_config, name)
                for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
            },
            "encoder_hidden_size": vision.hidden_size,
            "vocab_size": 100,
        },
        text_config={**text, "model_type": "t5", "vocab_size": len(tokenizer)},
        num_query_tokens=visual_tokens,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    peer = Blip2ForConditionalGeneration(peer_config).eval()
    for generation in (peer.generation_config, peer.language_model.generation_config):
        generation.pad_token_id = generation.decoder_start_token_id = tokenizer.pad_token_id
        generation.eos_token_id = tokenizer.eos_token_id
    image_processor = BlipImageProcessor(size={"height": size, "width": size})
    return peer, Blip2Processor(image_processor, tokenizer, num_query_tokens=visual_tokens)


def compare(number: int, batch_size: int, tokens: int, repeats: int, workers: int) -> dict[str, Any]:
    """Seconds that each side needs for the same images."""
    length = {"num_beams": 1, "min_new_tokens": tokens, "max_new_tokens": tokens}
    pipe = load_pipeline(device="cpu")
    peer_model, peer_processor = make_blip2(pipe.model, pipe.processor)
    peer = pipeline("image-text-to-text", model=peer_model, processor=peer_processor, device="cpu")
    engine = LionEngine(pipe)
    options = Options(batch_size, length, workers=workers)

    def ask(files: list[str], no_tags: bool = False) -> list[str]:
        inputs = Inputs([open_input(file) for file in files], Prompt(QUESTION), no_tags=no_tags)
        batches = Predictor(engine, options).run(group_requests(inputs.requests(), batch_size))
        return [record["generated_text"] for batch in batches for _, record in batch.answers]

    def ask_peer(files: list[str]) -> list[Any]:
        # It takes all that one call brings as one batch, whatever `batch_size` says.
        batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
        return [
            answer
            for batch in batches
            for answer in peer(images=batch, text=[QUESTION] * len(batch), generate_kwargs=length)
        ]

    with tempfile.TemporaryDirectory() as folder:
        files = draw_scenes(Path(folder), number)
        ours = Side("lion predict", lambda _: ask(files))
        alone = Side("one by one", lambda _: [pipe(f, prompt=QUESTION, **length)[0]["generated_text"] for f in files])
        without = Side("lion predict, without tags", lambda _: ask(files, no_tags=True))
        peers = Side("BLIP-2", lambda _: ask_peer(files))
        load = os.getloadavg()
        seconds: dict[str, list[float]] = {}
        processor_seconds: dict[str, list[float]] = {}
        ratios, processor_ratios = {}, {}
        # What takes less time has more rounds.
        for pair, name, rounds in (
            ((ours, alone), "one by one", repeats),
            ((ours, peers), "BLIP-2", 3 * repeats),
            ((without, peers), "BLIP-2, without tags", 3 * repeats),
        ):
            wall, processor, results = time_interleaved(list(pair), rounds, "cpu")
            assert all(len(result) == number for result in results)
            assert pair[1] is not alone or results[0] == results[1], "the answers differ"
            ratios[name], processor_ratios[name] = median_ratio(*wall), median_ratio(*processor)
            for side, side_wall, side_processor in zip(pair, wall, processor):
                seconds.setdefault(side.label, []).extend(side_wall)
                processor_seconds.setdefault(side.label, []).extend(side_processor)
    return {
        "images": number,
        "batch_size": batch_size,
        "tokens": tokens,
        "load_average": load,
        "images_per_second": {name: number / statistics.median(rounds) for name, rounds in seconds.items()},
        "images_per_processor_second": {n: number / statistics.median(r) for n, r in processor_seconds.items()},
        "ratios": ratios,
        "processor_ratios": processor_ratios,
        "targets": TARGETS,
        "seconds": seconds,
    }


class _Repeated:
    """The same files again and again, as rows of their own."""

    name, holds_images = "repeated", False

    def __init__(self, files: list[str], total: int):
        self.files = files
        self.total: int | None = total

    def __iter__(self) -> Iterator[Row]:
        for number, file in enumerate(itertools.islice(itertools.cycle(self.files), self.total)):
            yield Row(number, file, Path(file))

    def describe(self) -> dict[str, Any]:
        return {"rows": self.total}


def measure_memory(rows: int, batch_size: int, workers: int, tags: bool) -> dict[str, Any]:
    """The memory in use while many rows are answered and written, in MiB, by the number of rows."""
    process = psutil.Process()
    engine = LionEngine(load_pipeline(device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        source = _Repeated(draw_scenes(Path(folder) / "scenes", 64), rows)
        inputs = Inputs([source], Prompt(QUESTION), no_tags=not tags)
        output = Output(Path(folder) / "answers.jsonl", {"rows": rows})
        output.check()
        output.start()
        groups = group_requests(inputs.requests(), batch_size)
        curve, answered, started = [], 0, time.perf_counter()
        for batch in Predictor(engine, Options(batch_size, {"max_new_tokens": 2}, workers=workers)).run(groups):
            output.append(batch)
            answered += len(batch.answers)
            if answered % (rows // 20) < batch_size:
                curve.append((answered, round(process.memory_info().rss / 2**20, 1)))
        summary = output.finish()
        curve.append((summary.answers, round(process.memory_info().rss / 2**20, 1)))
    settled = next(mebibytes for count, mebibytes in curve if count >= rows // 10)
    growth = max(mebibytes for count, mebibytes in curve if count >= rows // 10) / settled - 1
    return {
        "rows": rows,
        "seconds": time.perf_counter() - started,
        "mebibytes": curve,
        "growth": growth,
        "passed": growth <= MOST_GROWTH,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m laboratory.speed.prediction")
    parser.add_argument("--images", type=int, default=64, help="images in every round (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=16, help="length of every answer (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="threads that read images")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of the memory's curve; 0 for none")
    parser.add_argument("--no-tags", action="store_true", help="no tagger in the memory's curve, which is faster")
    parser.add_argument("--output", type=Path, default=Path("outputs/speed"), help="folder for prediction.json")
    options = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    report: dict[str, Any] = {"environment": describe_environment(torch.get_num_threads()), "runs": []}
    for workers in options.workers if options.images else ():
        run = compare(options.images, options.batch_size, options.tokens, options.repeats, workers)
        report["runs"].append({"workers": workers, **run})
        # On a busy machine, processor time is what can be compared; that images are read beside the model is not in it.
        for name, ratio in run["processor_ratios"].items():
            verdict = "reached" if ratio <= TARGETS[name] else "MISSED"
            print(
                f"{name}: {ratio:.2f} in processor time, at most {TARGETS[name]:.2f}: {verdict}; "
                f"{run['ratios'][name]:.2f} in all ({workers} workers)"
            )
        for name in run["images_per_second"]:
            rates = run["images_per_second"][name], run["images_per_processor_second"][name]
            print(f"  {name}: {rates[0]:.1f} images/s, {rates[1]:.1f} per second of processor time")
    if options.rows:
        report["memory"] = measure_memory(options.rows, options.batch_size, options.workers[0], not options.no_tags)
        memory = report["memory"]
        verdict = "reached" if memory["passed"] else "MISSED"
        print(f"memory over {memory['rows']} rows: {memory['growth']:+.1%} after the first tenth: {verdict}")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "prediction.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
