"""Train, score, report."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from laboratory.ablations.claims import CLAIMS, Claim, Variant
from laboratory.ablations.report import draw, to_markdown
from laboratory.ablations.scoring import score
from laboratory.ablations.training import Trainings
from modeling_lion.modeling_lion import LionForConditionalGeneration
from trainers.plots import plot_routers, router_weights


logger = logging.getLogger("laboratory.ablations")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.ablations", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="directory of a finished stage 0")
    parser.add_argument("--output", type=Path, required=True, help="models, scores and report")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of a leg (default: %(default)s)")
    parser.add_argument("--connector-steps", type=int, default=500, help="of new connectors (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=400, help="test samples of a task (default: %(default)s)")
    parser.add_argument("--claims", nargs="+", choices=[claim.name for claim in CLAIMS], help="default: all")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = _settings(options)
    claims = [claim for claim in CLAIMS if not options.claims or claim.name in options.claims]
    jobs = [(seed, claim, variant) for seed in options.seeds for claim in claims for variant in claim.variants]
    for seed, claim, variant in tqdm(jobs, desc="variants"):
        run(options, seed, claim, variant)
    write_report(options.output, settings)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What all seeds of an output share; another call must not mix in something else."""
    settings = {name: getattr(options, name) for name in ("steps", "connector_steps", "samples")}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "settings.json"
    if file.is_file() and json.loads(file.read_text()) != settings:
        raise SystemExit(f"{options.output} holds runs with {file.read_text()}; choose another --output")
    file.write_text(json.dumps(settings))
    return settings


def run(options: argparse.Namespace, seed: int, claim: Claim, variant: Variant) -> None:
    """Train and score one variant for one seed, unless both have been done."""
    directory = options.output / f"seed{seed}"
    trainings = Trainings(options.base, directory, seed, options.steps, options.connector_steps)
    model = trainings.train(variant)
    branches = tuple(dict.fromkeys(branch for leg in variant.legs[-1:] for branch in leg.stage.visual_branches))
    tagged = variant.legs[-1].tags and "image_level" in claim.levels
    shares = claim.wrong_tags if tagged else (None,)
    if claim.levels == ("region_level",):
        shares = (0.0,)  # no tags are asked with, but the column is that of the others
    for share in shares:
        name = "none" if share is None else str(share)
        file = directory / "scores" / claim.name / f"{variant.name} {name}.json"
        if file.is_file():
            continue
        logger.info("seed %d: %s: %s, wrong tags: %s", seed, claim.name, variant.name, name)
        found = score(model, trainings.processor, branches, claim.levels, options.samples, share)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"variant": variant.name, "wrong_tags": name, "scores": found}, indent=1))
    if claim is CLAIMS[0] and variant is claim.variants[0]:
        plot_routers(router_weights(LionForConditionalGeneration.from_pretrained(model)), directory / "routers.png")


def write_report(output: Path, settings: dict[str, Any]) -> None:
    """`report.json`, `report.md` and `report.png` of all seeds that are there."""
    scores: dict[str, Any] = {}
    seeds = set()
    for file in sorted(output.glob("seed*/scores/*/*.json")):
        entry = json.loads(file.read_text())
        seed = file.parents[2].name.removeprefix("seed")
        seeds.add(seed)
        by_share = scores.setdefault(file.parent.name, {}).setdefault(entry["variant"], {})
        by_share.setdefault(entry["wrong_tags"], {})[seed] = entry["scores"]
    settings = {**settings, "seeds": sorted(seeds, key=int)}
    (output / "report.json").write_text(json.dumps({"settings": settings, "scores": scores}, indent=1) + "\n")
    (output / "report.md").write_text(to_markdown(scores, settings), encoding="utf-8")
    draw(scores, output / "report.png")
    logger.info("%s", output / "report.md")


if __name__ == "__main__":
    main()
