"""`lion demo`: what a checkpoint says about images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lion_multimodal.cli.contact_sheet import Exchange, Shown, contact_sheet


if TYPE_CHECKING:
    from PIL.Image import Image

    from modeling_lion import LionImageToTextPipeline

SMALLEST_DRAWING = 480
"""Pixels of the drawing's longer side, at least: labels on the nano's images of 96 pixels could not be read."""

HELD_OUT_SCENES = 10
"""How many held-out scenes are shown by default: the first ones, whatever comes out."""

_LEAST_OVERLAP = 0.5


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="show what a checkpoint says about images",
        description="Tag, describe, ask about and locate something in an image, and draw it. Without an image it "
        f"takes the first {HELD_OUT_SCENES} of the synthetic world that the nano checkpoint has never seen, and prints "
        "what is true beside the answers.",
    )
    parser.add_argument("image", nargs="?", help="image (file or URL)")
    parser.add_argument("--scene", type=int, metavar="N", help="one held-out scene, in place of the first ten")
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint (default: the nano in this package)")
    parser.add_argument("--output", default="demo.png", metavar="FILE.png", help="drawing (default: demo.png)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Ask the checkpoint, print its answers and draw its boxes.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    from lion_multimodal.asking import load_pipeline
    from processing_lion import draw_boxes, load_image
    from trainers.atomic import atomic_file

    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if args.image is not None:
        shown = [Shown(args.image, load_image(args.image), [], [])]
    elif args.scene is not None:
        shown = [held_out_scene(args.scene)]
        shown[0].name = str(output.with_name(f"{output.stem}_picture.png"))
        shown[0].image.save(shown[0].name)
    else:
        shown = [held_out_scene(number) for number in range(HELD_OUT_SCENES)]
    pipe = load_pipeline(args.model)
    ask_all(pipe, shown)
    for item in shown:
        _print(item)
    judged = [exchange.is_right for item in shown for exchange in item.exchanges if exchange.is_right is not None]
    if judged:
        print(f"right     {sum(judged)} of {len(judged)}")

    if len(shown) == 1:
        (item,) = shown
        drawing, scale = enlarge(item.image)
        found = [(box, exchange.about) for exchange in item.exchanges for box in exchange.boxes or []]
        boxes = [[side * scale for side in box] for box, _ in found]
        sheet = draw_boxes(drawing, boxes, [about for _, about in found])
    else:
        sheet = contact_sheet(shown)
    with atomic_file(output) as partial:
        sheet.save(partial)
    print(f"drawn     {output.resolve()}")
    return 0


def ask_all(pipe: LionImageToTextPipeline, shown: list[Shown]) -> None:
    """Fill in tags and answers; images without questions get some from their tags."""
    from processing_lion import intersection_over_union, parse_boxes

    if pipe.tagger is not None:
        for item, tags in zip(shown, pipe.tagger([item.image for item in shown])):
            item.tags = tags
    for item in shown:
        item.exchanges = item.exchanges or questions_from_tags(item.tags)
    asked = [(item, exchange) for item in shown for exchange in item.exchanges]
    answers = pipe([{"image": item.image, "prompt": exchange.prompt, "tags": item.tags} for item, exchange in asked])
    for (_, exchange), (answer,) in zip(asked, answers):
        exchange.answer, exchange.boxes = answer["generated_text"], answer.get("boxes", [])
        true_boxes = parse_boxes(exchange.truth)
        if true_boxes:
            said = parse_boxes(exchange.answer)
            exchange.is_right = bool(said) and intersection_over_union(said[0], true_boxes[0]) >= _LEAST_OVERLAP
        elif exchange.truth:
            exchange.is_right = exchange.answer == exchange.truth


def _print(item: Shown) -> None:
    print(f"image   {item.name}")
    print(f"tags      {', '.join(item.tags)}")
    for exchange in item.exchanges:
        truth = f"   (true: {exchange.truth})" if exchange.truth else ""
        print(f"asked     {exchange.prompt}\nanswered  {exchange.answer}{truth}")
    print()


def held_out_scene(number: int) -> Shown:
    """An image that no training has seen, with a caption, a question about it and an object to locate."""
    from lion_multimodal.checkpoints import demo_scenes

    scenes = demo_scenes()
    if not 0 <= number < len(scenes):
        raise ValueError(f"--scene must be 0 to {len(scenes) - 1}, got {number}")
    scene = scenes[number]
    exchanges = [Exchange(item["prompt"], item["truth"], item.get("about", "")) for item in scene.questions]
    return Shown(f"held-out scene {number}", scene.image, exchanges, [])


def questions_from_tags(tags: list[str]) -> list[Exchange]:
    """A caption, a question about the first tag, and a request to locate it."""
    from processing_lion import format_prompt

    about = tags[0] if tags else "main object"
    return [
        Exchange(format_prompt("caption_short")),
        Exchange(format_prompt("vqa", question=f"what color is the {about}?")),
        Exchange(format_prompt("rec", expression=f"the {about}"), about=about),
    ]


def enlarge(image: Image) -> tuple[Image, float]:
    """The image at a size at which labels can be read, and how much larger it is."""
    from PIL.Image import Resampling

    scale = max(1.0, SMALLEST_DRAWING / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Resampling.LANCZOS), scale
