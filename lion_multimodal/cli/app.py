"""`lion app`: a page in the browser."""

from __future__ import annotations

import argparse

from lion_multimodal.cli.arguments import port_number


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `app`."""
    parser = subparsers.add_parser(
        "app",
        help="ask in the browser",
        description="Serve a page: ask about an image, correct its tags, compare answers, answer about many images. "
        "Ends with Ctrl-C.",
    )
    parser.add_argument("--model", metavar="REPO_OR_DIR", help="checkpoint (default: the nano in this package)")
    parser.add_argument("--adapter", metavar="REPO_OR_DIR", help="PEFT adapter on top of it, of `lion finetune`")
    parser.add_argument("--device", help="for example cuda:0 or cpu (default: an accelerator where there is one)")
    parser.add_argument(
        "--host", help="address to listen at, 0.0.0.0 for all of them (default: reachable from this machine alone)"
    )
    parser.add_argument("--port", type=port_number, help="port (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="get a public address from Gradio for a week")
    parser.set_defaults(run=run, extra="app")


def run(args: argparse.Namespace) -> int:
    """
    Serve until interrupted.

    Raises:
        ImportError, ValueError, OSError: with one line to show to the user.
    """
    from lion_multimodal.app import launch

    launch(args.model, args.adapter, args.device, host=args.host, port=args.port, share=args.share)
    return 0
