"""`lion tag`: tags for every image of a folder or a dataset."""

from __future__ import annotations

import argparse

from lion_multimodal.cli.arguments import fraction, natural_int, not_empty, positive_int


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `tag`."""
    parser = subparsers.add_parser(
        "tag",
        help="tag every image of a folder or a dataset",
        description="Tag every image of a folder or a dataset. A run that was interrupted goes on where it stopped "
        "when the command is repeated. Images that cannot be read are named, skipped and counted. By several "
        "processes, on one machine or on many that share a file system: "
        "accelerate launch -m lion_multimodal.cli.main tag ...",
    )
    parser.add_argument(
        "source",
        type=not_empty,
        metavar="FOLDER|DATASET",
        help="folder of images (searched with its subfolders), local dataset or data file, or Hub dataset",
    )
    parser.add_argument(
        "--model",
        metavar="REPO_OR_DIR",
        help="tagger, or LION checkpoint with a tagger/ subfolder (default: the tagger that ships with this package)",
    )
    parser.add_argument("--split", help="split of the dataset, if it has several")
    parser.add_argument("--subset", help="configuration of the dataset, if it has several")
    parser.add_argument("--image-column", help="column of the images, if the dataset has several")
    parser.add_argument("--language", choices=["en", "zh"], default="en", help="language of the tags (default: en)")
    parser.add_argument("--batch-size", type=positive_int, default=16, help="images per forward pass (default: 16)")
    parser.add_argument(
        "--num-workers", type=natural_int, default=0, help="processes that read images (default: none extra)"
    )
    parser.add_argument(
        "--threshold", type=fraction, metavar="P", help="probability that a tag must exceed (default: each tag's own)"
    )
    parser.add_argument(
        "--scores", action="store_true", help="write the tags' probabilities, too, in the field or column TAGS_scores"
    )
    parser.add_argument("--device", help="for example cuda:0 or cpu (default: an accelerator where there is one)")
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument(
        "--output",
        metavar="FILE.jsonl",
        help="write JSON Lines; FOLDER/metadata.jsonl makes a folder of images loadable with its tags by `datasets`",
    )
    output.add_argument("--output-dataset", metavar="DIR", help="write the dataset with a column of tags")
    parser.add_argument("--tags-column", default="tags", help="field or column for the tags (default: tags)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Tag, and say what was done.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    # Loading torch takes seconds, which --help need not wait for.
    from lion_multimodal.loading import check_device, loading
    from modeling_lion.extras_lion import needs_extra

    with needs_extra("train", "lion tag", "accelerate", "datasets"):
        from accelerate import PartialState

        from trainers.tagging import Tagger, open_images, tag_images, tag_to_dataset

    check_device(args.device, "--device")
    images = open_images(args.source, split=args.split, image_column=args.image_column, subset=args.subset)
    source = args.model or _shipped_checkpoint()
    with loading(source):
        tagger = Tagger.from_pretrained(source, device=args.device)
    write, target = (tag_images, args.output) if args.output else (tag_to_dataset, args.output_dataset)
    report = write(
        tagger,
        images,
        target,
        language=args.language,
        tags_column=args.tags_column,
        thresholds=args.threshold,
        scores_column=f"{args.tags_column}_scores" if args.scores else None,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    if PartialState().is_main_process:
        print(f"{target}: {report.tagged} tagged, {report.present} already there, {len(report.broken)} unreadable")
    return 0


def _shipped_checkpoint() -> str:
    from lion_multimodal import checkpoints

    return str(checkpoints.path("nano"))
