"""`lion push`: a checkpoint or an adapter to the Hub."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand `push`."""
    parser = subparsers.add_parser(
        "push",
        help="push a checkpoint or an adapter to the Hub",
        description="Push a checkpoint's or a stage adapter's directory to the Hub, in one commit that holds all of "
        "it. What training left there stays behind, and nothing is pushed that tells of this machine: local paths "
        "are taken out of the fields where libraries note them; any other path, token, user or host name is an error.",
    )
    parser.add_argument("directory", metavar="DIR", help="directory of a checkpoint, or of a stage's adapter")
    parser.add_argument("--repo-id", required=True, metavar="NAME", help="repo, made if there is none")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repo a private one")
    parser.add_argument("--revision", metavar="BRANCH", help="branch, made if there is none (default: main)")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit")
    parser.add_argument(
        "--token", help="token that may write to the repo (default: the one that is logged in, or HF_TOKEN)"
    )
    parser.add_argument("--base-model", metavar="NAME", help="the base model's repo, for an adapter")
    parser.add_argument(
        "--evaluation", metavar="DIR", help="output folder of lion eval, whose figures to write into the card"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="TEXT", help="text that may be pushed whatever it looks like"
    )
    parser.add_argument(
        "--space", metavar="NAME", help="Space, made if there is none, that shows the repo with the page of lion app"
    )
    parser.add_argument(
        "--space-folder", metavar="FOLDER", help="write the files of the Space there, and push nothing at all"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Push, and say what was done.

    Raises:
        ValueError, OSError: with one line to show to the user.
    """
    from trainers.publishing import push_directory  # loads the Hub's client, which --help can do without

    if Path(args.directory, "config.json").is_file():
        from lion_multimodal.loading import check_files
        from trainers.publishing.selection import select

        select(args.directory)  # says best what is wrong with the directory as a whole
        check_files(args.directory)
    space = _space(args)
    if args.space_folder is not None:
        from lion_multimodal.hub.space import write_space

        for file in write_space(args.space_folder, space or {}):
            print(f"wrote     {file}")
        return 0
    edit_card = None if args.evaluation is None else _with_figures(Path(args.evaluation), args.repo_id)
    with _progress_for_people():
        push = push_directory(
            args.directory,
            args.repo_id,
            private=args.private,
            revision=args.revision,
            message=args.message,
            token=args.token,
            base_model=args.base_model,
            edit_card=edit_card,
            allowed=args.allow,
        )
    for name, reason in push.left_out.items():
        print(f"left out  {name} ({reason})")
    for name in push.cleaned:
        print(f"cleaned   {name} (a local path)")
    for name in push.deleted:
        print(f"deleted   {name} (weights of an earlier version)")
    state = "pushed   " if push.changed else "unchanged"
    print(f"{state} {push.url} ({len(push.files)} files)")
    if space is not None:
        from lion_multimodal.hub.space import push_space

        shown = push_space(args.space, space, private=args.private, token=args.token)
        print(f"{'pushed   ' if shown.changed else 'unchanged'} {shown.url}")
    return 0


def _space(args: argparse.Namespace) -> dict[str, bytes] | None:
    """The files of the Space, where one is asked for."""
    if args.space is None and args.space_folder is None:
        return None
    from lion_multimodal.hub.space import space_files
    from trainers.publishing.selection import ADAPTER, select

    kind = select(args.directory).kind
    base_model = args.base_model if kind == ADAPTER else None
    return space_files(args.space or f"{args.repo_id}-space", args.repo_id, kind, base_model)


@contextlib.contextmanager
def _progress_for_people() -> Iterator[None]:
    """Progress bars on a terminal alone, and none in the line of an error."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    except Exception:
        if sys.stderr.isatty():
            print(file=sys.stderr)
        raise
    finally:
        if hide:
            enable_progress_bars()


def _with_figures(directory: Path, repo_id: str) -> Callable[[str], str]:
    """A function that puts the figures of an evaluation into a card."""
    import tempfile

    from lion_multimodal.evaluation.model_card import CARD_FILE, update_card
    from lion_multimodal.evaluation.report import BenchmarkReport, Report
    from trainers.atomic import read_json

    try:
        values = read_json(directory / "report.json")
    except FileNotFoundError:
        raise ValueError(
            f"--evaluation must be an output folder of lion eval: {directory} has no report.json"
        ) from None
    benchmarks = [BenchmarkReport.from_dict(benchmark) for benchmark in values.pop("benchmarks")]
    report = Report(**{**values, "benchmarks": benchmarks})
    if not report.evaluated:
        raise ValueError(f"the report in {directory} holds no figures")

    def edit(card: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            # Figures are filed under the name of the directory.
            repo = Path(folder, repo_id.rpartition("/")[2])
            repo.mkdir()
            (repo / CARD_FILE).write_text(card, encoding="utf-8")
            return update_card(repo, report).read_text(encoding="utf-8")

    return edit
