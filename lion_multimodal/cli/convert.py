"""`lion convert`: the authors' files to a checkpoint of this package, and back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from lion_multimodal.conversion.from_official import OfficialConversion


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `convert` with its two ways."""
    parser = subparsers.add_parser(
        "convert",
        help="convert the authors' files to a checkpoint, and back",
        description="Convert the files that the authors of LION released to a self-contained checkpoint, and back.",
    )
    ways = parser.add_subparsers(dest="way", metavar="WAY", required=True)
    _add_official(ways)
    _add_to_official(ways)


def _add_official(ways: argparse._SubParsersAction) -> None:
    parser = ways.add_parser(
        "official",
        help="the authors' files to a checkpoint",
        description="Make a self-contained checkpoint of the files that the authors of LION released. Every parameter "
        "comes from exactly one of them. What is missing, unexpected, of the wrong shape or different in two files is "
        "listed before anything is written, and nothing in the files is executed.",
    )
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="learnt parts (LION-FlanT5-XL.pth)")
    parser.add_argument("--vision", metavar="FILE", help="vision tower (eva_vit_g.pth), unless in --checkpoint")
    parser.add_argument(
        "--text-model",
        required=True,
        metavar="DIR",
        help="T5 with its tokenizer (flan-t5-xl); its weights may also be in --checkpoint",
    )
    parser.add_argument(
        "--qformer-tokenizer", required=True, metavar="DIR", help="tokenizer of the Q-Former (bert-base-uncased)"
    )
    parser.add_argument("--ram", metavar="FILE", help="tagger (ram_swin_large_14m.pth), for the folder tagger/")
    parser.add_argument(
        "--ram-tags",
        metavar="FILE_OR_DIR",
        help="the tagger's English tags (ram_tag_list.txt), or the folder ram/data of its release with all three lists",
    )
    parser.add_argument("--ram-tags-zh", metavar="FILE", help="its Chinese tags (ram_tag_list_chinese.txt)")
    parser.add_argument(
        "--ram-thresholds", metavar="FILE", help="its thresholds (ram_tag_list_threshold.txt; default: 0.68 for all)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="LION configuration, where sizes are not those of a released model"
    )
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        default="bfloat16",
        help="of the weights; the tagger keeps its own (default: bfloat16)",
    )
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of one file (default: 5GB)")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where to write; with --verify also what to check"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read everything back and compare checksums with the sources; where --output exists, only that",
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="send the checkpoint to this repo on the Hub, too")
    parser.set_defaults(run=run_official)


def _add_to_official(ways: argparse._SubParsersAction) -> None:
    parser = ways.add_parser(
        "to-official",
        help="a checkpoint to a state dict with official names",
        description="Write a checkpoint, or a tagger, as one safetensors file with the names of the authors' code.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint, or the folder of a tagger")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="what to write")
    parser.set_defaults(run=run_to_official)


def run_official(args: argparse.Namespace) -> int:
    """
    Check, report, write, verify, push; 1 with a list where the files don't make up a model, or were not copied right.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    if args.ram and not args.ram_tags:
        raise ValueError("--ram needs --ram-tags: a tagger has names for what it sees")
    if not args.ram and (args.ram_tags or args.ram_tags_zh or args.ram_thresholds):
        raise ValueError("--ram-tags, --ram-tags-zh and --ram-thresholds belong to --ram")
    import torch
    from transformers.utils import logging

    from lion_multimodal.conversion.files import parse_size
    from lion_multimodal.conversion.from_official import OfficialConversion, OfficialFiles
    from lion_multimodal.conversion.layout import read_tag_files
    from lion_multimodal.conversion.plan import ConversionError

    logging.disable_progress_bar()
    if args.push_to_hub:
        from trainers.publishing.hub import check_name

        check_name(args.push_to_hub)
    max_shard_size, output = parse_size(args.max_shard_size), Path(args.output)
    only_verify = args.verify and (output / "config.json").is_file()
    if not only_verify and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists already and is not empty")
    names = read_tag_files(args.ram_tags, args.ram_tags_zh, args.ram_thresholds) if args.ram else {}
    files = OfficialFiles(
        checkpoint=Path(args.checkpoint),
        text_model=Path(args.text_model),
        qformer_tokenizer=Path(args.qformer_tokenizer),
        vision=Path(args.vision) if args.vision else None,
        config=Path(args.config) if args.config else None,
        ram=Path(args.ram) if args.ram else None,
        ram_names=names,
    )
    try:
        conversion = OfficialConversion(files)
    except ConversionError as error:
        return _fail("the files don't make up a model, and nothing was written", error.problems)
    _report(conversion)
    if not only_verify:
        conversion.write(output, getattr(torch, args.dtype), max_shard_size)
        print(f"written   {output}")
    if args.verify:
        problems = conversion.verify(output)
        if problems:
            return _fail(f"{output} is not what its sources say", problems)
        print(f"verified  {len(conversion.plan.chosen)} parameters have the checksums of their sources")
    if args.push_to_hub:
        from trainers.publishing.push import push_directory

        print(f"pushed    {push_directory(output, args.push_to_hub).url}")
    return 0


def run_to_official(args: argparse.Namespace) -> int:
    """
    Write the file; 1 with a list where the directory holds no whole checkpoint.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    from lion_multimodal.conversion.plan import ConversionError
    from lion_multimodal.conversion.to_official import to_official

    try:
        tensors = to_official(args.model, args.output)
    except ConversionError as error:
        return _fail(f"{args.model} holds no whole checkpoint", error.problems)
    print(f"written   {args.output}: {len(tensors)} tensors")
    return 0


def _report(conversion: OfficialConversion) -> None:
    config = conversion.config
    name = conversion.released_name or "of no released size"
    adapters = ", ".join(config.adapter_config.adapters) or "none"
    print(f"layout    {name}; branches: {', '.join(config.visual_branches)}; adapters: {adapters}")
    for source, count in conversion.plan.counts().items():
        print(
            f"source    {source}: {count['taken']} parameters taken ({count['elements']:,} numbers), "
            f"{count['repeated']} the same as elsewhere, {count['left_out']} left out"
        )
    if conversion.tagger is not None:
        tagger = conversion.tagger
        print(f"tagger    {tagger.file.path.name}: {tagger.num_parameters:,} numbers, {tagger.config.num_tags} tags")


def _fail(what: str, problems: list[str]) -> int:
    print(f"lion: error: {what}:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return 1
