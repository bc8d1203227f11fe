"""The `lion` command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from lion_multimodal.cli import convert, data, demo, evaluate, predict, push, tag, train


SUBCOMMANDS = (convert, data, demo, evaluate, predict, push, tag, train)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser; every subcommand's module adds its own part."""
    parser = argparse.ArgumentParser(
        prog="lion",
        description="LION, a multimodal LLM with dual-level visual knowledge: ask it, tag with it, train it.",
        epilog="Set LION_TRACEBACK=1 to see where an error comes from.",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or a line on stderr and another exit status."""
    args = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        status = args.run(args)
        _leave_process_group()
        return status
    except KeyboardInterrupt:
        print("lion: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("LION_TRACEBACK"):
            raise
        print(f"lion: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1


def _leave_process_group() -> None:
    """One process of several that ends without taking leave can abort another."""
    if "torch" in sys.modules:  # a command that did without it is not made to load it
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
