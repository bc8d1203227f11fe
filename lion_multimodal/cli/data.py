"""`lion data`: training data, before a training sees it."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `data`, which has subcommands of its own."""
    parser = subparsers.add_parser(
        "data",
        help="prepare and inspect training data",
        description="Training data, before a training sees it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_sources_parser(actions)


def _add_sources_parser(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "sources",
        help="list the paper's sources of training data",
        description="List the paper's sources of training data, with the files that they are read from.",
    )
    parser.set_defaults(run=_list_sources)


def _list_sources(args: argparse.Namespace) -> int:
    from trainers.sources import SOURCES

    for source in SOURCES.values():
        rows = ", ".join(
            f"{'' if kind.exact else 'about '}{kind.expected['train']:,} rows{f' of {kind.name}' if kind.name else ''}"
            for kind in source.kinds
        )
        print(f"{source.name:16}{source.stage}  {source.title}: {rows}")
        for form in source.forms:
            print(f"{'':24}{form.name}{' (also from the Hub)' if form.hub else ''}")
    return 0
