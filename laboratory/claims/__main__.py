"""Train, score, report."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from laboratory.claims.claims import CLAIMS, ROUTERS, Claim, Variant
from laboratory.claims.conflict import CONFLICT
from laboratory.claims.report import draw, to_markdown, variants_of
from laboratory.claims.scoring import take_exam
from laboratory.claims.training import Trainings
from modeling_lion.modeling_lion import LionForConditionalGeneration
from trainers.atomic import read_json, write_json, write_text
from trainers.plots import plot_routers, router_weights


logger = logging.getLogger("laboratory.claims")

_ALONG = "scores-along.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.claims", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="directory of a staged nano's finished stage 0")
    parser.add_argument("--output", type=Path, required=True, help="models, scores and report")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training samples (default: all)")
    parser.add_argument("--tower-steps", type=int, default=1200, help="of the image-level tower (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="test samples of a task (default: %(default)s)")
    parser.add_argument("--claims", nargs="+", choices=[claim.name for claim in CLAIMS], help="default: all")
    parser.add_argument("--settings", nargs="+", metavar="NAME", help="of the claims (default: all)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = _settings(options)
    claims = [claim for claim in CLAIMS if not options.claims or claim.name in options.claims]
    jobs = [
        (seed, claim, variant)
        for seed in options.seeds
        for claim, setting, variant in variants_of(claims)
        if not options.settings or setting in options.settings
    ]
    if not jobs:
        known = "; ".join(dict.fromkeys(setting for _, setting, _ in variants_of(claims)))
        raise SystemExit(f"--settings must be among {known}")
    for seed, claim, variant in tqdm(jobs, desc="variants"):
        run(options, seed, claim, variant)
    write_report(options.base, options.output, settings)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What all seeds of an output share; another call must not mix in something else."""
    settings = {name: getattr(options, name) for name in ("scale", "tower_steps", "samples")}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "settings.json"
    if file.is_file() and read_json(file) != settings:
        raise SystemExit(f"{options.output} holds runs with {file.read_text()}; choose another --output")
    write_json(file, settings)
    return settings


def run(options: argparse.Namespace, seed: int, claim: Claim, variant: Variant) -> None:
    """Train and score one variant for one seed, unless both have been done."""
    trainings = Trainings(options.base, options.output, seed, options.scale, options.tower_steps)
    began = time.monotonic()
    directory = trainings.train(variant)
    trained = time.monotonic()
    model = None
    for tags in tags_to_ask_with(claim, variant):
        file = _score_file(directory, claim, tags)
        if file.is_file():
            continue
        if model is None:
            model = LionForConditionalGeneration.from_pretrained(directory).requires_grad_(False).eval()
        found = take_exam(
            model, trainings.processor, trainings.tagger, claim.exam, options.samples, tags, trainings.features
        )
        write_json(file, found)
    if claim.after_each_leg:
        _ask_along(trainings, variant, options.samples)
    if model is not None:
        spent = f"{trained - began:.0f} s of training, {time.monotonic() - trained:.0f} s of questions"
        logger.info("seed %d: %s: %s: %s", seed, claim.name, variant.name, spent)


def _ask_along(trainings: Trainings, variant: Variant, samples: int) -> None:
    """Ask the image level of what each leg but the last has left behind, as stage 1 does: through the Q-Former."""
    for directory in trainings.directories(variant)[1:-1]:
        file = directory / _ALONG
        if file.is_file():
            continue
        model = LionForConditionalGeneration.from_pretrained(directory).requires_grad_(False).eval()
        model.set_active_branches(("qformer",))
        found = take_exam(model, trainings.processor, trainings.tagger, "images", samples, 0.0, trainings.features)
        write_json(file, found)


def tags_to_ask_with(claim: Claim, variant: Variant) -> tuple[float | str | None, ...]:
    """The claim's, or none for a variant that has seen none."""
    return (None,) if variant.legs[-1].tags == "none" else claim.tags


def _score_file(directory: Path, claim: Claim, tags: float | str | None) -> Path:
    return directory / f"scores-{claim.exam}-{'none' if tags is None else tags}.json"


def write_report(base: Path, output: Path, settings: dict[str, Any]) -> None:
    """`report.json`, `report.md` and figures of all seeds that are there."""
    seeds = sorted(int(path.name.removeprefix("seed")) for path in output.glob("seed*"))
    scores: dict[str, Any] = {}
    along: dict[str, Any] = {}
    cosines: dict[str, Any] = {}
    for seed in seeds:
        trainings = Trainings(base, output, seed)
        for claim, setting, variant in variants_of(CLAIMS):
            _, *before, directory = trainings.directories(variant)
            for tags in tags_to_ask_with(claim, variant):
                file = _score_file(directory, claim, tags)
                if file.is_file():
                    by_variant = scores.setdefault(claim.name, {}).setdefault(setting, {}).setdefault(variant.name, {})
                    by_variant.setdefault("none" if tags is None else str(tags), {})[str(seed)] = read_json(file)
            if claim.after_each_leg:
                for leg, path in zip(variant.legs, before):
                    if (path / _ALONG).is_file():
                        by_stage = along.setdefault(variant.name, {}).setdefault(leg.stage.name, {})
                        by_stage[str(seed)] = read_json(path / _ALONG)
            if (directory / CONFLICT).is_file():
                _gather(cosines.setdefault(f"{variant.name}, {setting}", {}), read_json(directory / CONFLICT))
    settings = {**settings, "seeds": seeds}
    write_json(
        output / "report.json", {"settings": settings, "scores": scores, "along": along, "cosines": cosines}, indent=1
    )
    write_text(output / "report.md", to_markdown(scores, along, cosines, settings))
    draw(scores, output / "report.png")
    for name, variant in ROUTERS.items():
        directory = Trainings(base, output, seeds[0]).directories(variant)[-1]
        if directory.is_dir():
            plot_routers(router_weights(LionForConditionalGeneration.from_pretrained(directory)), output / name)
    logger.info("%s", output / "report.md")


def _gather(into: dict, cosines: dict) -> None:
    for moment, by_part in cosines.items():
        for part, pairs in by_part.items():
            for pair, value in pairs.items():
                into.setdefault(moment, {}).setdefault(part, {}).setdefault(pair, []).append(value)


if __name__ == "__main__":
    main()
