"""`lion merge`: an adapter and its base become one checkpoint."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `merge`."""
    parser = subparsers.add_parser(
        "merge",
        help="fold an adapter into a self-contained checkpoint",
        description="Fold a PEFT adapter (of `lion finetune`, or LoRA trained elsewhere) into its base: a checkpoint "
        "with processor and tagger that needs no PEFT.",
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="directory or Hub repo of the adapter")
    parser.add_argument(
        "--model", metavar="REPO_OR_DIR", help="its base (default: the one that the adapter names, else the nano)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the checkpoint goes; must not exist")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Merge, and say where the checkpoint is.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    from lion_multimodal.asking import base_of_adapter
    from trainers.finetune import merge_adapter

    print(merge_adapter(args.adapter, args.output, base_of_adapter(args.adapter, args.model)))
    return 0
