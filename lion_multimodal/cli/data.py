"""`lion data`: training data, before a training sees it."""

from __future__ import annotations

import argparse

from lion_multimodal.cli import data_check
from lion_multimodal.cli.arguments import positive_int


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `data`, which has subcommands of its own."""
    parser = subparsers.add_parser(
        "data",
        help="prepare and inspect training data",
        description="Training data, before a training sees it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    data_check.add_parser(actions)
    _add_sources_parser(actions)
    _add_prepare_parser(actions)


def _add_sources_parser(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "sources",
        help="list the paper's sources of training data",
        description="List the paper's sources of training data, with the files that they are read from.",
    )
    parser.add_argument("--markdown", action="store_true", help="write the tables of docs/training_data.md")
    parser.set_defaults(run=_list_sources)


def _list_sources(args: argparse.Namespace) -> int:
    from trainers.sources import SOURCES

    if args.markdown:
        from trainers.sources.documentation import source_sections, source_table

        print(f"{source_table()}\n\n{source_sections()}")
        return 0
    for source in SOURCES.values():
        rows = ", ".join(
            f"{'' if kind.exact else 'about '}{kind.expected['train']:,} rows{f' of {kind.name}' if kind.name else ''}"
            for kind in source.kinds
        )
        print(f"{source.name:16}{source.stage}  {source.title}: {rows}")
        for form in source.forms:
            print(f"{'':24}{form.name}{' (also from the Hub)' if form.hub else ''}")
    return 0


def _add_prepare_parser(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "prepare",
        help="make the rows of the paper's training data",
        description="Make the rows that the XL recipes train on from the annotation files of their authors, or from "
        "datasets on the Hub. Images that RefCOCO, RefCOCO+, RefCOCOg or Karpathy's split of COCO test on are left out "
        "of every source, for which their files have to be there too. A run that was interrupted goes on where it "
        "stopped when the command is repeated. docs/training_data.md tells which files are read.",
    )
    parser.add_argument("name", metavar="NAME|stage1|stage2|all", help="source, as `lion data sources` lists them")
    parser.add_argument(
        "--source", required=True, metavar="DIR|hub", help="folder with a folder for each source, or the Hub"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the rows; the recipe's data_dir")
    parser.add_argument("--images", metavar="DIR", help="folder with the images (default: that of --source)")
    parser.add_argument(
        "--hold-out",
        default="all",
        metavar="all|none|NAME[,NAME]",
        help="benchmarks whose images are left out: karpathy, refcoco, refcoco_plus, refcocog (default: all)",
    )
    parser.add_argument(
        "--format",
        choices=["parquet", "jsonl", "webdataset"],
        default="parquet",
        help="files of rows; webdataset holds the images as well (default: parquet)",
    )
    parser.add_argument(
        "--check-images",
        choices=["decode", "exists"],
        default="decode",
        help="read every image once, or only look whether it is there (default: decode)",
    )
    parser.add_argument(
        "--shard-rows", type=positive_int, default=100_000, metavar="N", help="rows in a file (default: 100000)"
    )
    parser.add_argument("--skip-missing", action="store_true", help="leave out sources whose files are not there")
    parser.add_argument("--overwrite", action="store_true", help="replace rows that were prepared otherwise")
    parser.set_defaults(run=_prepare)


def _prepare(args: argparse.Namespace) -> int:
    from trainers.sources import get_sources

    sources = get_sources(args.name)

    from trainers.sources.prepare import prepare

    reports = prepare(
        sources,
        args.source,
        args.output,
        images=args.images,
        hold_out=args.hold_out,
        format=args.format,
        check_images=args.check_images,
        shard_rows=args.shard_rows,
        skip_missing=args.skip_missing,
        overwrite=args.overwrite,
    )
    for report in reports:
        for line in report.lines():
            print(line, flush=True)
    return 0
