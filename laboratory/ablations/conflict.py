"""Whether image-level and region-level tasks pull the weights that they share in opposite directions.

Cosines between mean gradients of the two levels at the start of a stage-3 training, part by part; beside them what two
samples of one and the same level give, since gradients of few samples are noisy. A conflict is a cosine below zero.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from tqdm.auto import tqdm

from laboratory.ablations.claims import FIXED_ROUTERS
from laboratory.ablations.rows import training_rows
from laboratory.ablations.training import BATCH, share_adapters
from laboratory.world.dataset import LEVELS
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion import LionProcessor
from trainers.collator import LionDataCollator
from trainers.stages import AGGREGATOR_PARTS, Q_FORMER_PARTS


logger = logging.getLogger(__name__)

_PARTS = {
    "Q-Former": Q_FORMER_PARTS,
    "aggregator": AGGREGATOR_PARTS,
    "shared adapter": ("language_model.",),
}


def part_of(name: str) -> str | None:
    """The part that a parameter belongs to."""
    return next((part for part, starts in _PARTS.items() if name.startswith(starts)), None)


def gradients(
    model: LionForConditionalGeneration, processor: LionProcessor, level: str, seed: int, batches: int
) -> dict[str, torch.Tensor]:
    """Mean gradient of a level's loss over `batches` of 64 samples, as one vector for each part."""
    rows = training_rows((level,), batches * BATCH, seed, 0, True)
    collate = LionDataCollator(processor)
    model.zero_grad()
    for start in range(0, batches * BATCH, BATCH):
        batch = collate([rows[i] for i in range(start, start + BATCH)])
        (model(**batch).loss / batches).backward()
    found: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part is not None and parameter.grad is not None:
            found.setdefault(part, []).append(parameter.grad.flatten())
    return {part: torch.cat(vectors) for part, vectors in found.items()}


def measure(directory: Path, processor: LionProcessor, seeds: list[int], batches: int) -> dict[str, dict[str, list]]:
    """
    Cosines by part and pair (`"between levels"`, and each level with itself), a value for each seed.

    The model is one before training: its adapters change nothing yet, so that they can be taken for one that is shared.
    """
    model = LionForConditionalGeneration.from_pretrained(directory)
    share_adapters(model)
    FIXED_ROUTERS.freeze(model)
    model.eval()  # no dropout: two runs of one level differ by their samples alone
    cosines: dict[str, dict[str, list]] = {}
    for seed in tqdm(seeds, desc="seeds"):
        halves = {
            (level, half): gradients(model, processor, level, 30 + 2 * seed + half, batches)
            for level in LEVELS
            for half in (0, 1)
        }
        pairs = {
            "between levels": (("image_level", 0), ("region_level", 0)),
            **{level: ((level, 0), (level, 1)) for level in LEVELS},
        }
        for pair, (one, other) in pairs.items():
            for part in _PARTS:
                value = torch.cosine_similarity(halves[one][part], halves[other][part], dim=0).item()
                cosines.setdefault(part, {}).setdefault(pair, []).append(value)
    return cosines


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.ablations.conflict", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="directory of a LION with untrained adapters")
    parser.add_argument("--processor", type=Path, help="directory of its processor (default: that of the model)")
    parser.add_argument("--output", type=Path, required=True, help="report.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--batches", type=int, default=8, help="of 64 samples (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    processor = LionProcessor.from_pretrained(options.processor or options.model)
    cosines = measure(options.model, processor, options.seeds, options.batches)
    options.output.write_text(json.dumps(cosines, indent=1) + "\n", encoding="utf-8")
    for part, pairs in cosines.items():
        logger.info("%s: %s", part, {pair: [round(value, 3) for value in values] for pair, values in pairs.items()})


if __name__ == "__main__":
    main()
