"""A directory to a repo on the Hub: the files that belong there, clean, in one commit."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.publishing.cards import finish_card, is_written, make_card
from trainers.publishing.hub import HubRepo, check_name
from trainers.publishing.selection import (
    ADAPTER,
    CARD,
    CONFIG,
    Selection,
    read_json,
    read_text,
    select,
    stale_files,
)
from trainers.publishing.traces import Machine, TracesError, is_local, without_origins


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Push:
    """
    What was pushed.

    Attributes:
        repo_id: the repo's full name.
        url: the commit's address.
        commit: its sha.
        changed: whether there is a new commit.
        files: the repo's files that are those of the directory.
        deleted: files of the repo that were deleted.
        left_out: why other files of the directory were not pushed.
        cleaned: files that were pushed without a local path that the directory's have.
    """

    repo_id: str
    url: str
    commit: str
    changed: bool
    files: Collection[str]
    deleted: Collection[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    cleaned: Collection[str] = ()


def push_directory(
    directory: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    base_model: str | None = None,
    edit_card: Callable[[str], str] | None = None,
    allowed: Iterable[str] = (),
) -> Push:
    """
    Push a checkpoint or an adapter. One commit brings all files; until it is there, the repo is as it was.

    Only what a repo needs is pushed (see [`select`]), local paths in fields that say where something came from are
    emptied, and where anything else tells of this machine or its user, nothing is pushed at all. Files of the repo that
    the directory does not have stay, but for weights that would be loaded in place of the new ones.

    Args:
        directory: a checkpoint's or an adapter's. It stays as it is.
        repo_id: the repo, made if there is none.
        private: whether a new repo is private; None leaves it to its owner's settings.
        revision: the branch, made if there is none. Default: the main one.
        message: the commit's.
        token: default: the one that is logged in.
        base_model: the base model's name on the Hub, for an adapter.
        edit_card: makes another card of the card.
        allowed: texts that don't count as traces of this machine.

    Raises:
        ValueError: the directory is incomplete, or the name is none for a repo.
        TracesError: something would tell of this machine (a `ValueError`, too).
        HubError: the Hub refuses, or cannot be reached.
    """
    check_name(repo_id)
    if base_model is not None:
        check_name(base_model)
        if is_local(base_model):
            raise ValueError(f"`base_model` must be the name of a repo on the Hub, and {base_model} is a local path")
    selection = select(directory)
    contents: dict[str, Path | bytes] = dict(selection.files)
    cleaned = _clean(contents, base_model)
    # What can be known without the Hub comes first: nothing is made there in vain.
    machine = Machine([directory], [token], names=repo_id.split("/"))
    allowed = list(allowed)
    _check(machine, {file: content for file, content in contents.items() if file != CARD}, allowed)
    own_card = _own_card(selection)
    if own_card is not None:
        _check(machine, {CARD: finish_card(own_card, repo_id, base_model).encode()}, allowed)

    repo = HubRepo(repo_id, private, revision, token)
    card = next(filter(is_written, (own_card, repo.read(CARD))), None)
    card = finish_card(card or make_card(selection, repo.repo_id, base_model), repo.repo_id, base_model)
    contents[CARD] = (card if edit_card is None else edit_card(card)).encode()
    _check(machine, {CARD: contents[CARD]}, allowed)

    deleted = stale_files(repo.files, selection)
    commit = repo.commit(contents, deleted, message or f"Push the {selection.kind}")
    return Push(
        repo_id=repo.repo_id,
        url=f"{repo.api.endpoint}/{repo.repo_id}/commit/{commit}",
        commit=commit,
        changed=commit != repo.head,
        files=sorted(contents),
        deleted=deleted,
        left_out=selection.left_out,
        cleaned=cleaned,
    )


def push_lion(repo_id: str, model: Any, processor: Any, tagger: Any = None, **kwargs: Any) -> Push:
    """
    Push a model, its processor and its tagger together, as [`save_lion`] writes them. (`model.push_to_hub` and
    `processor.push_to_hub` make two commits; between these, the repo is not complete.)

    Args:
        repo_id: the repo, made if there is none.
        model, processor, tagger: as in `save_lion`.
        kwargs: of [`push_directory`].
    """
    from modeling_lion import save_lion

    with tempfile.TemporaryDirectory() as folder:
        save_lion(folder, model, processor, tagger)
        return push_directory(folder, repo_id, **kwargs)


def _clean(contents: dict[str, Path | bytes], base_model: str | None) -> list[str]:
    """Put configurations without local paths in place of those that hold some, and name these files."""
    cleaned = []
    for file, content in contents.items():
        if not isinstance(content, Path) or content.suffix != ".json" or content.name.endswith(".index.json"):
            continue
        config = read_json(content)
        better = without_origins(config, base_model if content.name == CONFIG[ADAPTER] else None)
        if better != config:
            contents[file] = (json.dumps(better, indent=2, ensure_ascii=False) + "\n").encode()
            cleaned.append(file)
    return cleaned


def _own_card(selection: Selection) -> str | None:
    """The card in the directory, if somebody has written it."""
    text = read_text(selection.files[CARD]) if CARD in selection.files else None
    return text if is_written(text) else None


def _check(machine: Machine, contents: Mapping[str, Path | bytes], allowed: Collection[str]) -> None:
    traces = [trace for file, content in contents.items() for trace in machine.find(file, content)]
    traces = [trace for trace in traces if not any(text in trace.text for text in allowed)]
    if traces:
        raise TracesError(traces)
