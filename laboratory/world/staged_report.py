"""
Figures before and after each stage of a recipe of the world.

    python -m laboratory.world.staged_report --config laboratory/recipes/nano_staged.yaml --output report

writes `report.json`, to which a later call adds what is missing, and `report.md`. Five states of the model are asked:

- `before`: what stage 1 starts from, the image level through the Q-Former, the region level through the aggregator;
- `stage1`, `stage2`: what these two leave, each with its own visual branch alone;
- `together`: the two put together, as stage 3 starts;
- `stage3`: the end.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel

from laboratory.world.dataset import LEVELS
from laboratory.world.evaluate_world import Score, evaluate_task, score_tagger, tag_scenes
from laboratory.world.language import TASKS
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from modeling_lion.peft_lion import fold_adapters
from processing_lion import LionProcessor
from trainers.atomic import read_json, write_json, write_text
from trainers.publishing.markdown import markdown_table
from trainers.recipe import Recipe
from trainers.run import STAGE_RESULT, run_stage, stage_model
from trainers.stages import STAGES


logger = logging.getLogger(__name__)

STATES = ("before", "stage1", "stage2", "together", "stage3")
"""States of the model, in their order."""

_BRANCHES = {"image_level": "qformer", "region_level": "aggregator"}
_FOR_TASK = {task: _BRANCHES[level] for level, tasks in LEVELS.items() for task in tasks}


def model_in_state(recipe: Recipe, state: str) -> LionForConditionalGeneration:
    """The model of a recipe that has been run, in one of [`STATES`]."""
    base = _base(recipe)
    if state == "together":
        model = fold_adapters(stage_model(recipe, STAGES["stage3"], base))
    else:
        model = LionForConditionalGeneration.from_pretrained(base)
        if state != "before":
            model = fold_adapters(PeftModel.from_pretrained(model, Path(recipe.output_dir) / state))
    return model.eval()


def report_stages(
    recipe: Recipe,
    path: Path,
    samples: int = 2000,
    split: str = "test",
    states: Sequence[str] = STATES,
    tasks: Sequence[str] = tuple(TASKS),
    most_objects: int | None = None,
) -> dict[str, dict[str, list[dict]]]:
    """
    Ask every state every task.

    Args:
        recipe ([`Recipe`]): A recipe that has been run, at least as far as `states` need.
        path (`Path`): JSON file; what it holds already is not asked again.
        samples (`int`): Samples of each task (existence: of each of its forms, on average).
        split (`str`): `"test"`, or `"validation"` while choices are still being made.
        states (`Sequence[str]`): Among [`STATES`].
        tasks (`Sequence[str]`): Which tasks.
        most_objects (`int`, *optional*): Objects of the fullest images.

    Returns:
        `dict`: Scores (see [`~laboratory.world.evaluate_world.Score`]) by state and task.
    """
    settings = {"samples": samples, "split": split, "most_objects": most_objects}
    report: dict[str, Any] = {"settings": settings, "states": {}}
    if path.is_file():
        report = read_json(path)
        if report["settings"] != settings:
            raise ValueError(f"{path} holds figures for {report['settings']}, not for {settings}")
    base = _base(recipe)
    processor = LionProcessor.from_pretrained(base)
    tagger = RamForImageTagging.from_pretrained(Path(base) / "tagger").eval()

    def keep(state: str, task: str, scores: Sequence[Score]) -> None:
        report["states"].setdefault(state, {})[task] = [asdict(score) for score in scores]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, report, indent=1)

    if "tagger" not in report["states"]:
        keep("tagger", "tagger", [score_tagger(tagger, samples, split, most_objects)])
    for state in states:
        left = [task for task in tasks if task not in report["states"].get(state, {})]
        if not left:
            continue
        logger.info("State %s:", state)
        model = model_in_state(recipe, state)
        for task in left:
            if state == "before":
                model.set_active_branches([_FOR_TASK[task]])
            keep(
                state,
                task,
                evaluate_task(
                    model, processor, task, samples, split, partial(tag_scenes, tagger), most_objects=most_objects
                ),
            )
    return report["states"]


def _base(recipe: Recipe) -> str | Path:
    if recipe.stage0 is None:
        return str(recipe.model)
    marker = Path(recipe.output_dir) / "stage0" / STAGE_RESULT
    if not marker.is_file():
        raise ValueError(f"`output_dir` must hold a finished stage 0, but there is no {marker}")
    return run_stage(recipe, "stage0", resume=True)


def to_markdown(states: dict[str, dict[str, list[dict]]]) -> str:
    """One row a figure, one column a state, with 95 % intervals."""
    columns = [state for state in STATES if state in states]
    cells: dict[tuple[str, str], dict[str, dict]] = {}
    for state in columns:
        for scores in states[state].values():
            for score in scores:
                cells.setdefault((score["task"], score["metric"]), {})[state] = score
    rows = []
    for (task, metric), by_state in cells.items():
        chance = next(iter(by_state.values()))["chance"]
        row = [task, metric, "–" if chance is None else f"{chance:.3f}"]
        for state in columns:
            found = by_state.get(state)
            row.append(f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})" if found else "")
        rows.append(row)
    table = markdown_table(["task", "metric", "chance", *columns], rows)
    notes = [
        f"\nTagger F1 {score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f}), chance {score['chance']:.3f}.\n"
        for score in states.get("tagger", {}).get("tagger", [])
    ]
    return table + "".join(notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Figures before and after each stage.")
    parser.add_argument("--config", required=True, help="the recipe")
    parser.add_argument("--output", default="staged_report", help="report without its suffix (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2000, help="samples of each task (default: %(default)s)")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES, metavar="STATE")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), metavar="TASK")
    parser.add_argument("--most-objects", type=int, default=3, help="of the fullest pictures (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the recipe's values")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    states = report_stages(
        Recipe.load(options.config, options.overrides),
        Path(options.output).with_suffix(".json"),
        options.samples,
        options.split,
        options.states,
        options.tasks,
        options.most_objects,
    )
    table = to_markdown(states)
    write_text(Path(options.output).with_suffix(".md"), table)
    logger.info("\n%s", table)


if __name__ == "__main__":
    main()
