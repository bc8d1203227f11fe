"""`lion predict`: answers about images."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lion_multimodal.cli.arguments import positive_int


if TYPE_CHECKING:
    from modeling_lion import LionImageToTextPipeline


# What marks a file as a drawing that a later run may replace.
_MARK = "lion predict"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `predict`."""
    parser = subparsers.add_parser(
        "predict",
        help="answer about images",
        description="Answer an instruction about each image. Prints one answer a line, or JSON Lines with boxes, as "
        "soon as there is one. Images that cannot be read are named, skipped and counted; exit status 1 then.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images (files or URLs)")
    parser.add_argument("--prompt", help="instruction (default: a request for a short caption)")
    parser.add_argument("--tags", help="comma-separated tags (default: what the checkpoint's tagger finds)")
    parser.add_argument("--no-tags", action="store_true", help="leave the tag sentence out")
    levels = ["auto", "image_level", "region_level"]
    parser.add_argument("--level", "--task", choices=levels, default="auto", help="what the prompts ask about")
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint (default: the nano in this package)")
    parser.add_argument("--adapter", metavar="REPO_OR_DIR", help="PEFT adapter on top of it, of `lion finetune`")
    parser.add_argument("--device", help="for example cuda:0 or cpu (default: an accelerator where there is one)")
    parser.add_argument("--batch-size", type=positive_int, default=1, help="images per forward pass (default: 1)")
    parser.add_argument("--num-beams", type=positive_int, help="beams (default: the checkpoint's)")
    parser.add_argument("--max-new-tokens", type=positive_int, help="longest answer (default: the checkpoint's)")
    parser.add_argument("--json", action="store_true", help="print JSON Lines with text, boxes and labels")
    parser.add_argument(
        "--draw", metavar="DIR", help="write the images with their boxes there, as PNG, in folders as the images'"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Answer, print, draw; 1 if an image could not be read.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    if args.tags is not None and args.no_tags:
        raise ValueError("--tags and --no-tags exclude each other")
    drawings = drawing_files(args.images, Path(args.draw)) if args.draw else None
    from lion_multimodal.asking import load_pipeline

    pipe = load_pipeline(args.model, args.device, args.adapter)
    options: dict[str, Any] = {"prompt": args.prompt, "level": args.level}
    options["tags"] = False if args.no_tags else args.tags
    limits = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
    options["generate_kwargs"] = {name: value for name, value in limits.items() if value is not None}
    skipped = []
    for number, answer in answers(pipe, args.images, args.batch_size, options):
        image = args.images[number]
        if isinstance(answer, Exception):
            skipped.append(number)
            print(f"lion: skipped {shorten(image)}: {' '.join(str(answer).split())}", file=sys.stderr)
            continue
        image_read, found = answer
        record = {"image": image, **found}
        if drawings is not None:
            draw(image_read, found, drawings[number])
            record["drawing"] = str(drawings[number])
        prefix = f"{shorten(image)}: " if len(args.images) > 1 else ""
        print(json.dumps(record, ensure_ascii=False) if args.json else prefix + found["generated_text"], flush=True)
    if skipped:
        first = shorten(args.images[skipped[0]])
        message = f"{len(skipped)} of {len(args.images)} images could not be read; the first: {first}"
        print(f"lion: error: {message}", file=sys.stderr)
    return 1 if skipped else 0


def answers(
    pipe: LionImageToTextPipeline, images: Sequence[str], batch_size: int, options: dict[str, Any]
) -> Iterator[tuple[int, tuple[Any, dict[str, Any]] | Exception]]:
    """Each image's number, with the image and its answer, or with the error of reading it; batch by batch."""
    from processing_lion import load_image

    for start in range(0, len(images), batch_size):
        read: dict[int, Any] = {}
        failed: dict[int, Exception] = {}
        for number in range(start, min(start + batch_size, len(images))):
            try:
                read[number] = load_image(images[number])
            except (OSError, TypeError, ValueError) as error:
                failed[number] = error
        found = pipe(list(read.values()), batch_size=batch_size, **options) if read else []
        answered = dict(zip(read, found))
        for number in sorted([*read, *failed]):
            yield number, failed[number] if number in failed else (read[number], answered[number][0])


def drawing_files(images: Sequence[str], folder: Path) -> list[Path]:
    """
    A PNG file in `folder` for every image: named as the image, in folders as the image's, without those that all
    images share. None is written twice, and none takes the place of an image, be it asked about or not: a name that is
    taken gets a number.
    """
    kinds = [_drawing_name(image, number) for number, image in enumerate(images)]
    shared = {}
    for kind in {kind for kind, _ in kinds}:
        shared[kind] = os.path.commonpath([name.parent for other, name in kinds if other == kind])
    taken = {os.path.realpath(_path(image)) for image in images if not _is_address(image)}
    files: list[Path] = []
    for kind, name in kinds:
        wanted = folder / name.relative_to(shared[kind])
        file, number = wanted, 1
        while os.path.realpath(file) in taken or _is_foreign(file):
            number += 1
            file = wanted.with_name(f"{wanted.stem}_{number}.png")
        taken.add(os.path.realpath(file))
        files.append(file)
    return files


def _drawing_name(image: str, number: int) -> tuple[str, PurePosixPath]:
    """What kind of source an image is, and the path that it would have as a drawing, from that kind's root."""
    if image[:5].lower() == "data:":
        return "data", PurePosixPath("/", f"image_{number + 1}.png")
    kind, path = "file", PurePosixPath(Path(os.path.abspath(_path(image))).as_posix())
    if _is_address(image):
        parts = urlsplit(image)
        kind, path = "address", PurePosixPath("/", parts.netloc.replace(":", "_"), parts.path.lstrip("/"))
        path = path if parts.path.strip("/") else path / f"image_{number + 1}"
    return kind, path.with_name(f"{path.stem[:100]}.png")


def _path(image: str) -> str:
    return os.path.expanduser(image.removeprefix("file://"))


def _is_foreign(file: Path) -> bool:
    """Whether a file is there that is no drawing of an earlier run."""
    import PIL.Image

    if not os.path.lexists(file):
        return False
    try:
        with PIL.Image.open(file) as image:
            return image.info.get(_MARK) is None
    except (OSError, ValueError, SyntaxError):
        return True


def _is_address(image: str) -> bool:
    return image.lower().startswith(("http://", "https://", "data:"))


def shorten(image: str) -> str:
    """The name of an image for people: a data: address can be millions of characters long."""
    return image if len(image) <= 200 else f"{image[:60]}..."


def draw(image: Any, answer: dict[str, Any], file: Path) -> None:
    """Write an image with the answer's boxes."""
    from PIL.PngImagePlugin import PngInfo

    from processing_lion import draw_boxes
    from trainers.atomic import atomic_file

    mark = PngInfo()
    mark.add_text(_MARK, "drawing")
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        draw_boxes(image, answer.get("boxes", []), answer.get("labels")).save(partial, pnginfo=mark)
