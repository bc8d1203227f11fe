"""`lion demo`: what a checkpoint says about one picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST_DRAWING = 480
"""Pixels of the drawing's longer side, at least: labels on the nano's pictures of 96 pixels could not be read."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="show what a checkpoint says about a picture",
        description="Tag, describe, ask about and locate something in one picture, and draw it. Without a picture it "
        "takes one of the synthetic world that the nano checkpoint has never seen, and prints what is true beside "
        "the answers.",
    )
    parser.add_argument("image", nargs="?", help="picture (file or URL)")
    parser.add_argument("--scene", type=int, default=0, metavar="N", help="held-out scene to take (default: 0)")
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint (default: the nano in this package)")
    parser.add_argument("--output", default="demo.png", metavar="FILE.png", help="drawing (default: demo.png)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Ask the checkpoint, print its answers and draw its box.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    from command_line.asking import load_pipeline
    from processing_lion import draw_boxes, load_image

    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline(args.model)
    questions: list[dict[str, str]] = []
    if args.image is None:
        picture, questions = held_out_scene(args.scene)
        image_file = output.with_name(f"{output.stem}_picture.png")
        picture.save(image_file)
        args.image = str(image_file)
    picture = load_image(args.image)
    tags = pipe.tagger([picture])[0] if pipe.tagger is not None else []
    questions = questions or questions_from_tags(tags)

    print(f"picture   {args.image}")
    print(f"tags      {', '.join(tags)}")
    answers = pipe([{"image": picture, "prompt": question["prompt"], "tags": tags} for question in questions])
    boxes: list[list[float]] = []
    labels: list[str] = []
    for question, (answer,) in zip(questions, answers):
        truth = f"   (true: {question['truth']})" if "truth" in question else ""
        print(f"\nasked     {question['prompt']}\nanswered  {answer['generated_text']}{truth}")
        boxes += answer.get("boxes", [])
        labels += [question.get("about", "")] * len(answer.get("boxes", []))

    drawing, scale = enlarge(picture)
    draw_boxes(drawing, [[side * scale for side in box] for box in boxes], labels).save(output)
    print(f"\ndrawn     {output.resolve()}")
    return 0


def held_out_scene(number: int) -> tuple[Image, list[dict[str, Any]]]:
    """A picture that no training has seen, with a caption, a question about it and an object to locate."""
    from trainers.world.dataset import SPLITS, ask
    from trainers.world.scene import render, sample_scene

    seeds = SPLITS["test"]
    if not 0 <= number < len(seeds):
        raise ValueError(f"--scene must be 0 to {len(seeds) - 1}, got {number}")
    scene = sample_scene(seeds[number])
    questions = []
    for tasks in (("caption",), ("color", "object", "count"), ("rec",)):
        sample = ask(scene, tasks, 1)[0]
        questions.append({"prompt": sample.prompt, "truth": sample.completion})
    located = next(item for item in scene.objects if item.normalized_box == sample.box)
    questions[-1]["about"] = located.name
    return render(scene), questions


def questions_from_tags(tags: list[str]) -> list[dict[str, str]]:
    """A caption, a question about the first tag, and a request to locate it."""
    from processing_lion import format_prompt

    about = tags[0] if tags else "main object"
    return [
        {"prompt": format_prompt("caption_short")},
        {"prompt": format_prompt("vqa", question=f"what color is the {about}?")},
        {"prompt": format_prompt("rec", expression=f"the {about}"), "about": about},
    ]


def enlarge(picture: Image) -> tuple[Image, float]:
    """The picture at a size at which labels can be read, and how much larger it is."""
    from PIL.Image import Resampling

    scale = max(1.0, SMALLEST_DRAWING / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Resampling.LANCZOS), scale
