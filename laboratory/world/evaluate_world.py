"""
Scores of a checkpoint on images of the world that it was never trained on, beside what chance would give.

    python -m laboratory.world.evaluate_world --model DIR --output report

writes `report.json` and `report.md`.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from laboratory.world.language import EXISTENCE_FORMS, TAGS, TASKS, Sample, box_text, possible_counts, scene_tags
from laboratory.world.scene import GLYPHS, SPLITS, Scene, render, sample_scene
from lion_multimodal.evaluation.statistics import bootstrap_interval, f1_of_counts
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion.grounding_lion import intersection_over_union, parse_boxes
from processing_lion.image_processing_lion import LionImageProcessor
from processing_lion.processing_lion import LionProcessor
from trainers.publishing.markdown import markdown_table


logger = logging.getLogger(__name__)

POPE_FORMS = ("random", "popular", "adversarial")
_BATCH = 100


@dataclass
class Score:
    """
    One figure of the report.

    Args:
        task (`str`): Task, with its form where a task has several.
        metric (`str`): What is measured.
        value (`float`): Its value.
        low, high (`float`): Ends of the 95 % confidence interval (bootstrap over samples).
        chance (`float`, *optional*): The same metric for an answer that knows everything about the image but not
            what is asked (see [`chance_answer`]); `None` where nothing is asked.
        samples (`int`): How many samples there were.
    """

    task: str
    metric: str
    value: float
    low: float
    high: float
    chance: float | None
    samples: int


def held_out(
    task: str,
    samples: int,
    split: str = "test",
    first_scene: int = 0,
    most_objects: int | None = None,
    cells: int | None = None,
    known: Mapping[str, Callable[[Scene, np.random.Generator], Sample | None]] = TASKS,
) -> Iterator[tuple[Scene, Sample]]:
    """
    Yield one instruction of a task, a key of `known`, for each of the split's next scenes that allow it, until there
    are `samples`.
    """
    count = 0
    for seed in SPLITS[split][first_scene:]:
        scene = sample_scene(seed, None, most_objects, cells)
        sample = known[task](scene, np.random.default_rng([seed, 4]))
        if sample is None or sample.form == "long":
            continue
        yield scene, sample
        count += 1
        if count == samples:
            return


def chance_answer(scene: Scene, sample: Sample, rng: np.random.Generator) -> str:
    """
    What someone answers who sees the image and knows the kind of question, but not what it is about.

    Colour, kind, place, side and description are those of some object of the image, a direction that between two of
    them; a number is one that some kind or colour of the image has; yes and no, true and false are tossed for.
    """
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    if sample.task == "count":
        if sample.form == "objects":
            return str(len(scene.objects))
        return str(rng.choice(sorted(possible_counts(scene, sample.form))))
    for tossed in (("yes", "no"), ("true", "false")):
        if sample.completion in tossed:
            return tossed[int(rng.integers(2))]
    if sample.task in ("side", "direction"):
        for _ in range(100):
            other = TASKS[sample.task](scene, rng)
            if other is not None and other.form == sample.form:
                return other.completion
    return {"color": item.color, "object": item.glyph, "rec": box_text(item), "reg": f"the {item.name}"}[sample.task]


def object_f1(caption: str, scene: Scene) -> float:
    """F1 between the objects (colour and kind) that a caption names and those of the scene, repeats counted."""
    named = re.findall(rf"\b\w+ (?:{'|'.join(GLYPHS)})\b", caption)
    left = [item.name for item in scene.objects]
    correct = 0
    for name in named:
        if name in left:
            left.remove(name)
            correct += 1
    return 2 * correct / max(1, len(named) + len(scene.objects))


def box_overlap(answer: str, sample: Sample) -> float:
    """Overlap of the first box in an answer with the true one; 0 without a box."""
    boxes = parse_boxes(answer)
    return intersection_over_union(boxes[0], sample.box) if boxes and sample.box else 0.0


def answer_all(
    model: LionForConditionalGeneration,
    processor: LionProcessor,
    cases: Sequence[tuple[Scene, Sample]],
    tags_of: Callable[[Sequence[Scene]], list[list[str]]] | None,
    num_beams: int | None = None,
) -> list[str]:
    """
    The model's answers.

    Args:
        model, processor: The checkpoint.
        cases: Scenes and instructions.
        tags_of: Gives the tags of scenes, for image-level prompts; without it there is no tag sentence.
        num_beams: In place of the checkpoint's own number.
    """
    answers: list[str] = []
    options = {} if num_beams is None else {"num_beams": num_beams}
    for start in range(0, len(cases), _BATCH):
        batch = cases[start : start + _BATCH]
        pictures = [render(scene) for scene, _ in batch]
        level = batch[0][1].level
        tags = None
        if tags_of is not None and level == "image_level":
            tags = [", ".join(row) for row in tags_of([scene for scene, _ in batch])]
        inputs = processor(
            images=pictures,
            text=[sample.prompt for _, sample in batch],
            tags=tags,
            level=[sample.level for _, sample in batch],
            return_tensors="pt",
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, **options)
        answers += [answer.strip() for answer in processor.batch_decode(ids, skip_special_tokens=True)]
    return answers


def tag_scenes(tagger: RamForImageTagging, scenes: Sequence[Scene]) -> list[list[str]]:
    """What a tagger finds in the images of scenes."""
    size = tagger.config.vision_config.image_size
    pictures = [render(scene) for scene in scenes]
    pixels = LionImageProcessor.for_tagging(size)(pictures, return_tensors="pt")["pixel_values"]
    return tagger.generate_tags(pixels)


def score_task(task: str, cases: Sequence[tuple[Scene, Sample]], answers: Sequence[str]) -> list[Score]:
    """The figures of one task."""
    rng = np.random.default_rng(0)
    guesses = [chance_answer(*case, rng) if task != "caption" else "" for case in cases]
    exact = np.array([answer == sample.completion for (_, sample), answer in zip(cases, answers)], dtype=float)
    guessed = np.array([guess == sample.completion for (_, sample), guess in zip(cases, guesses)], dtype=float)
    forms = np.array([sample.form for _, sample in cases])
    scores = []

    def add(metric, values, chance=None, name=task, statistic=np.mean):
        chance = None if chance is None else float(statistic(chance))
        scores.append(
            Score(name, metric, float(statistic(values)), *bootstrap_interval(values, statistic), chance, len(values))
        )

    if task == "caption":
        add("object F1", np.array([object_f1(answer, scene) for (scene, _), answer in zip(cases, answers)]))
        add("exact match", exact)
    elif task == "rec":
        overlap = np.array([box_overlap(answer, sample) for (_, sample), answer in zip(cases, answers)])
        chance = np.array([box_overlap(guess, sample) for (_, sample), guess in zip(cases, guesses)])
        add("accuracy at IoU 0.5", (overlap >= 0.5).astype(float), (chance >= 0.5).astype(float))
        add("mean IoU", overlap, chance)
    elif task == "existence":
        positive = np.array([sample.completion == "yes" for _, sample in cases])

        def counts(given: Sequence[str]) -> np.ndarray:
            said = np.array([answer == "yes" for answer in given])
            return np.stack([said & positive, said, positive], axis=1).astype(float)

        for form in EXISTENCE_FORMS:
            chosen = forms == form
            rows, chance = counts(answers)[chosen], counts(guesses)[chosen]
            add("F1", rows, chance, f"existence ({form})", f1_of_counts)
            add("accuracy", exact[chosen], guessed[chosen], f"existence ({form})")
    else:
        add("exact match" if task == "reg" else "accuracy", exact, guessed)
        if task == "count":
            for form in sorted(set(forms)):
                add("accuracy", exact[forms == form], guessed[forms == form], f"count ({form})")
    return scores


def score_tagger(tagger: RamForImageTagging, samples: int, split: str, most_objects: int | None = None) -> Score:
    """F1 over all tags and images (micro average)."""
    rows = []
    seeds = SPLITS[split][:samples]
    for start in range(0, samples, _BATCH):
        scenes = [sample_scene(seed, most_objects=most_objects) for seed in seeds[start : start + _BATCH]]
        for scene, tags in zip(scenes, tag_scenes(tagger, scenes)):
            true = set(scene_tags(scene))
            rows.append((len(true & set(tags)), len(tags), len(true)))
    values = np.array(rows, dtype=float)
    # Without looking, F1 is highest for naming every tag.
    everything = np.stack([values[:, 2], np.full(len(values), len(TAGS)), values[:, 2]], axis=1)
    return Score(
        "tagger",
        "F1",
        f1_of_counts(values),
        *bootstrap_interval(values, f1_of_counts),
        f1_of_counts(everything),
        samples,
    )


def evaluate(
    directory: str | Path,
    samples: int = 2000,
    split: str = "test",
    tasks: Sequence[str] = tuple(TASKS),
    use_tags: bool = True,
    num_beams: int | None = None,
    most_objects: int | None = None,
) -> list[Score]:
    """
    Evaluate a checkpoint.

    Args:
        directory: Directory of a checkpoint with its processor, the tagger in `tagger/`.
        samples: Samples of each task (existence: of each of its forms, on average).
        split: `"test"`, or `"validation"` while choices are still being made.
        tasks: Which tasks.
        use_tags: Whether image-level prompts hold the tags that the tagger finds.
        num_beams: In place of the checkpoint's own number.
        most_objects: Objects of the fullest images; as the world has them by default.
    """
    directory = Path(directory)
    model = LionForConditionalGeneration.from_pretrained(directory).eval()
    processor = LionProcessor.from_pretrained(directory)
    tagger = None
    if (directory / "tagger" / "config.json").is_file():
        tagger = RamForImageTagging.from_pretrained(directory / "tagger").eval()
    tags_of = partial(tag_scenes, tagger) if tagger is not None and use_tags else None
    scores = []
    for task in tasks:
        scores += evaluate_task(model, processor, task, samples, split, tags_of, num_beams, most_objects)
    if tagger is not None:
        scores.append(score_tagger(tagger, samples, split, most_objects))
    return scores


def evaluate_task(
    model: LionForConditionalGeneration,
    processor: LionProcessor,
    task: str,
    samples: int,
    split: str,
    tags_of: Callable[[Sequence[Scene]], list[list[str]]] | None = None,
    num_beams: int | None = None,
    most_objects: int | None = None,
) -> list[Score]:
    """The figures of a model in one task; arguments as in [`answer_all`] and [`evaluate`]."""
    count = samples * (len(EXISTENCE_FORMS) if task == "existence" else 1)
    cases = list(held_out(task, count, split, 0, most_objects))
    scores = score_task(task, cases, answer_all(model, processor, cases, tags_of, num_beams))
    logger.info("%s", "; ".join(f"{score.task} {score.metric} {score.value:.3f}" for score in scores))
    return scores


def to_markdown(scores: Sequence[Score]) -> str:
    """The figures as a table."""
    rows = []
    for score in scores:
        chance = "–" if score.chance is None else f"{score.chance:.3f}"
        interval = f"{score.low:.3f}–{score.high:.3f}"
        rows.append([score.task, score.metric, f"{score.value:.3f}", interval, chance, str(score.samples)])
    return markdown_table(["task", "metric", "score", "95 % interval", "chance", "samples"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Score a checkpoint on held-out pictures of the world.")
    parser.add_argument("--model", required=True, help="directory of the checkpoint")
    parser.add_argument("--output", default="world_report", help="report without its suffix (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2000, help="samples of each task (default: %(default)s)")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), metavar="TASK")
    parser.add_argument("--no-tags", action="store_true", help="ask without the tagger's tags")
    parser.add_argument("--num-beams", type=int, help="in place of the checkpoint's own number")
    parser.add_argument("--most-objects", type=int, help="objects of the fullest pictures (default: the world's)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scores = evaluate(
        options.model,
        options.samples,
        options.split,
        options.tasks,
        not options.no_tags,
        options.num_beams,
        options.most_objects,
    )
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    report = {"model": options.model, "split": options.split, "scores": [asdict(score) for score in scores]}
    output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    table = to_markdown(scores)
    output.with_suffix(".md").write_text(table, encoding="utf-8")
    logger.info("\n%s", table)


if __name__ == "__main__":
    main()
