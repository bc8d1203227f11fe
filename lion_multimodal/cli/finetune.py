"""`lion finetune`: a finished LION on somebody's own data."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `finetune`."""
    from lion_multimodal.cli.train import accept_overrides

    parser = subparsers.add_parser(
        "finetune",
        help="fine-tune a finished LION on your own data",
        description="Fine-tune a finished LION. Writes a PEFT adapter (with --method full a checkpoint), and a report "
        "with the figures of the base beside those of the tuned model. A run that was interrupted goes on with "
        "--resume. On several GPUs: accelerate launch --config_file ddp.yaml -m lion_multimodal.cli.main finetune ...",
        epilog="RECIPE is a YAML file with `finetune:`; options replace its fields. So does any key=value, for example "
        "finetune.training.num_train_epochs=3 or finetune.lora.r=8.",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="YAML file, in place of or beside the options")
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="finished LION (default: the nano in this package)")
    parser.add_argument(
        "--data",
        action="append",
        metavar="FILE|FOLDER|HUB_NAME[:SPLIT]",
        help="rows in any known format, see `lion data check`; may be repeated",
    )
    parser.add_argument("--image-folder", metavar="DIR", help="what file names in the data are relative to")
    parser.add_argument(
        "--box-format",
        metavar="FORMAT",
        help="how boxes are written, where the data do not say it: xyxy_pixels, xywh_pixels, xyxy_fractions, "
        "xywh_fractions or xyxy_1000",
    )
    parser.add_argument(
        "--eval-data",
        action="append",
        metavar="[NAME=]FILE|FOLDER|HUB_NAME[:SPLIT]",
        help="rows to evaluate on before and after; may be repeated (default: a tenth of the data is set aside)",
    )
    parser.add_argument("--method", choices=["adapters", "lora", "full"], help="what is trained (default: adapters)")
    parser.add_argument(
        "--train",
        metavar="PART[,PART]",
        help="which of LION's parts are trained: adapters, routers, connectors, soft_prompt (default: "
        "adapters,routers; with lora none)",
    )
    parser.add_argument(
        "--rehearsal",
        type=float,
        metavar="RATIO",
        help="against forgetting: rows of what the base answers about the same images, for each row of the data "
        "(default: 6; 0 for none)",
    )
    parser.add_argument(
        "--precision", choices=["auto", "float32", "bfloat16", "4bit"], help="of the base (default: auto)"
    )
    parser.add_argument(
        "--level", choices=["auto", "image_level", "region_level"], help="level of all rows (default: by the row)"
    )
    parser.add_argument(
        "--tags",
        choices=["tagger", "column", "none"],
        help="tags of the model's tagger, of the data's column `tags`, or none (default: none)",
    )
    parser.add_argument("--output", metavar="DIR", help="where the adapter and the report go")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run in that directory stopped")
    parser.set_defaults(run=run, overrides=[])
    accept_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """
    Fine-tune, and print the figures.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    # Loading torch and friends takes seconds, which --help and a wrong recipe need not wait for.
    from trainers.recipe import Recipe, find_recipe

    recipe_file = args.recipe
    if recipe_file is not None and "=" in recipe_file:  # an override that came first
        args.overrides.insert(0, recipe_file)
        recipe_file = None
    content = {} if recipe_file is None else Recipe.read_file(find_recipe(recipe_file))
    recipe = Recipe.from_content(_with_options(content, args), args.overrides, where=recipe_file or "lion finetune")

    # What was read, and how, is told line by line.
    logging.getLogger("trainers").setLevel(logging.INFO)

    from accelerate import PartialState

    from trainers.finetune import REPORT, run_finetune

    directory = run_finetune(recipe, resume=args.resume)
    if PartialState().is_main_process:
        print((directory / REPORT).read_text(encoding="utf-8"))
        print(directory)
    return 0


def _with_options(content: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields, with those that options give."""
    if args.model is not None:
        content["model"] = args.model
    if content.get("model") is None:
        from lion_multimodal import checkpoints

        content["model"] = str(checkpoints.path("nano"))
    if args.output is not None:
        content["output_dir"] = args.output
    if content.get("output_dir") is None:
        raise ValueError("--output is needed: where the adapter and the report go")
    finetune = content.setdefault("finetune", {})
    if not isinstance(finetune, dict):
        raise ValueError(f"`finetune` must be a mapping of fields, got {type(finetune).__name__}.")
    if args.data:
        finetune["data"] = [_source(item, args) for item in args.data]
    if not finetune.get("data"):
        raise ValueError("--data is needed: a file, a folder or a dataset on the Hub")
    if args.eval_data:
        finetune["evaluation"] = [
            {**_source(path, args), **({"name": name} if name else {})} for name, path in map(_named, args.eval_data)
        ]
    given = {"method": args.method, "precision": args.precision, "rehearsal": args.rehearsal}
    finetune |= {name: value for name, value in given.items() if value is not None}
    if args.train is not None:
        finetune["train"] = [part for part in args.train.split(",") if part]
    return content


def _named(item: str) -> tuple[str, str]:
    name, equals, path = item.partition("=")
    return (name, path) if equals and not Path(item).exists() else ("", item)


def _source(path: str, args: argparse.Namespace) -> dict[str, Any]:
    name, split = path, "train"
    if not Path(path).expanduser().exists() and ":" in path and "://" not in path:
        name, _, split = path.partition(":")
    fields = {
        "path": name,
        "split": split,
        "format": "auto",
        "image_folder": args.image_folder,
        "box_format": args.box_format,
        "level": args.level,
        "tags": args.tags,
    }
    return {key: value for key, value in fields.items() if value is not None}
