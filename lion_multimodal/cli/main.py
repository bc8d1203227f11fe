"""The `lion` command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from lion_multimodal.cli import app, convert, data, demo, evaluate, finetune, merge, predict, push, serve, tag, train


SUBCOMMANDS = (app, convert, data, demo, evaluate, finetune, merge, predict, push, serve, tag, train)


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
        status = _run(args)
        _leave_process_group()
        return status
    except KeyboardInterrupt:
        print("lion: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        # A panic of a library in Rust is no `Exception`.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if os.environ.get("LION_TRACEBACK"):
            raise
        print(_describe(error), file=sys.stderr)
        return 1 if _is_foreseen(error) else 70


def _is_foreseen(error: BaseException) -> bool:
    """Whether an error tells of arguments, files or the machine, and not of a fault in this program."""
    if isinstance(error, (ValueError, TypeError, OSError, ImportError, MemoryError)):
        return True
    # The libraries that write weights and tokenizers raise these, on a full disk for one.
    if type(error) is Exception or type(error).__name__ == "SafetensorError":
        return True
    return type(error).__name__ in ("OutOfMemoryError", "StrictDataclassError") or any(
        base.__name__ == "StrictDataclassError" for base in type(error).__mro__
    )


def _describe(error: BaseException) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    if _is_foreseen(error):
        return f"lion: error: {message}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"lion: internal error: {type(error).__name__}: {message} ({Path(place.filename).name}, line {place.lineno}); "
        "a fault of this program, or a damaged file that it did not recognise: LION_TRACEBACK=1 shows the traceback"
    )


def _run(args: argparse.Namespace) -> int:
    try:
        return args.run(args)
    except ModuleNotFoundError:
        # Imported only now, as it loads transformers, which not every command does.
        from modeling_lion.extras_lion import needs_extra

        # A command that an extra of another name makes possible says so with `set_defaults(extra=...)`.
        with needs_extra(getattr(args, "extra", "train"), f"lion {args.command}"):
            raise


def _leave_process_group() -> None:
    """One process of several that ends without taking leave can abort another."""
    if "torch" in sys.modules:  # a command that did without it is not made to load it
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
