"""`lion train`: the stages of a recipe."""

from __future__ import annotations

import argparse


STAGES = ("stage0", "stage1", "stage2", "stage3", "all")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `train`."""
    parser = subparsers.add_parser(
        "train",
        help="train LION in stages",
        description="Run one training stage of a recipe, or all of them and write the final checkpoint. Each stage "
        "starts from the results of those before it. On several GPUs: accelerate launch --config_file ddp.yaml -m "
        "lion_multimodal.cli.main train ...",
        epilog="Any key=value replaces a field of the recipe, for example training.max_steps=100 or "
        "stages.stage1.data.0.max_samples=64.",
    )
    parser.add_argument("stage", choices=STAGES, help="stage to run")
    parser.add_argument(
        "--config", required=True, metavar="RECIPE", help="YAML file, or the name of a recipe of this package"
    )
    parser.add_argument("--output-dir", metavar="DIR", help="in place of the recipe's output_dir")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run in that directory stopped")
    parser.set_defaults(run=run, overrides=[])
    accept_overrides(parser)


def accept_overrides(parser: argparse.ArgumentParser) -> None:
    """Take every key=value for an override, wherever it stands: argparse wants all positionals in front of options."""
    parse = parser.parse_known_args

    def parse_known_args(args=None, namespace=None):
        namespace, left_over = parse(args, namespace)
        overrides = [word for word in left_over if "=" in word and not word.startswith("-")]
        namespace.overrides = overrides
        return namespace, [word for word in left_over if word not in overrides]

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]


def run(args: argparse.Namespace) -> int:
    """
    Train, and say where the result is.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    # Loading torch and friends takes seconds, which --help and a wrong recipe need not wait for.
    from trainers.recipe import Recipe

    overrides = list(args.overrides)
    if args.output_dir is not None:
        overrides.append(f"output_dir={args.output_dir}")
    recipe = Recipe.load(args.config, overrides)

    from accelerate import PartialState

    from trainers.run import run_all, run_stage, write_final

    if args.stage == "all":
        result = run_all(recipe, resume=args.resume)
    else:
        result = run_stage(recipe, args.stage, resume=args.resume)
        if args.stage == "stage3":
            result = write_final(recipe, args.stage)
    if PartialState().is_main_process:
        print(result)
    return 0
