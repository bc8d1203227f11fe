"""`lion predict`: answers about pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `predict`."""
    parser = subparsers.add_parser(
        "predict",
        help="answer about pictures",
        description="Answer an instruction about each picture. Prints one answer a line, or JSON Lines with boxes.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures (files or URLs)")
    parser.add_argument("--prompt", help="instruction (default: a request for a short caption)")
    parser.add_argument("--tags", help="comma-separated tags (default: what the checkpoint's tagger finds)")
    parser.add_argument("--no-tags", action="store_true", help="leave the tag sentence out")
    parser.add_argument("--task", choices=["auto", "image_level", "region_level"], default="auto", help="routing")
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint (default: the nano in this package)")
    parser.add_argument("--device", help="for example cuda:0 or cpu (default: an accelerator where there is one)")
    parser.add_argument("--batch-size", type=int, default=1, help="pictures per forward pass (default: 1)")
    parser.add_argument("--num-beams", type=int, help="beams (default: the checkpoint's)")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer (default: the checkpoint's)")
    parser.add_argument("--json", action="store_true", help="print JSON Lines with text, boxes and labels")
    parser.add_argument("--draw", metavar="DIR", help="write the pictures with their boxes there, as PNG")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Answer, print, draw.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    if args.tags is not None and args.no_tags:
        raise ValueError("--tags and --no-tags exclude each other")
    from lion_multimodal.cli.asking import load_pipeline

    pipe = load_pipeline(args.model, args.device)
    options: dict[str, Any] = {"prompt": args.prompt, "task": args.task, "batch_size": args.batch_size}
    options["tags"] = False if args.no_tags else args.tags
    limits = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
    options["generate_kwargs"] = {name: value for name, value in limits.items() if value is not None}
    for image, (answer,) in zip(args.images, pipe(list(args.images), **options)):
        record = {"image": image, **answer}
        if args.draw:
            record["drawing"] = str(draw(image, answer, Path(args.draw)))
        prefix = f"{image}: " if len(args.images) > 1 else ""
        print(json.dumps(record, ensure_ascii=False) if args.json else prefix + answer["generated_text"])
    return 0


def draw(image: str, answer: dict[str, Any], folder: Path) -> Path:
    """Write the picture with the answer's boxes; return the file."""
    from processing_lion import draw_boxes, load_image

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{Path(image).stem}.png"
    draw_boxes(load_image(image), answer.get("boxes", []), answer.get("labels")).save(file)
    return file
