"""A repo on the Hub to write to: requests repeated where that helps, and errors in one line where it doesn't."""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile, RepoUrl
from huggingface_hub.utils import validate_repo_id


logger = logging.getLogger(__name__)

MAIN = "main"

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each repetition of a request."""
PATIENCE = 30.0
"""Seconds after a first failure, from which on there is no other try. Some versions of the client try again, too."""

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({409, 412})
# What huggingface_hub has spoken HTTP with, by version.
_HTTP_LIBRARIES = frozenset({"http", "httpcore", "httpx", "httpx2", "requests", "urllib3"})

T = TypeVar("T")


class HubError(OSError):
    """The Hub did not do what it was asked to; one line says what and why."""


class HubRepo:
    """
    A repo on the Hub, made if there is none.

    Args:
        repo_id: its name, with or without the owner.
        private: whether a new one is private; None leaves it to the owner's settings.
        revision: the branch to write to, made if there is none. Default: the main one.
        token: default: the one that is logged in.
        repo_type: None for a model's, `"space"` for a Space with Gradio.

    Raises:
        ValueError: the name is none that a repo can have.
        HubError: the Hub refuses, or cannot be reached; or the repo is public, and `private` is asked for.
    """

    def __init__(
        self,
        repo_id: str,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        repo_type: str | None = None,
    ):
        check_name(repo_id)
        self.api = HfApi(token=token)
        self.repo_id = repo_id
        self.repo_type = repo_type
        self.revision = revision or MAIN
        self.repo_id = self.ask("make the repo", lambda: self._make(private)).repo_id
        info = self.ask("describe the repo", lambda: self._info(MAIN))
        if private and not info.private:
            raise HubError(f"{self.repo_id} is there already, and public: make it private first, on its settings page")
        if self.revision != MAIN:
            self.ask("make the branch of", self._make_branch)
            info = self.ask("describe the repo", lambda: self._info(self.revision))
        self.head: str = info.sha or ""
        self.files = [sibling.rfilename for sibling in info.siblings or ()]

    def _make(self, private: bool | None) -> RepoUrl:
        sdk = "gradio" if self.repo_type == "space" else None
        return self.api.create_repo(
            self.repo_id, private=private, exist_ok=True, repo_type=self.repo_type, space_sdk=sdk
        )

    def _info(self, revision: str) -> Any:
        return self.api.repo_info(self.repo_id, revision=revision, repo_type=self.repo_type)

    def _make_branch(self) -> None:
        if not self.revision.startswith("refs/"):  # as those of pull requests, which are there
            self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True, repo_type=self.repo_type)

    def read(self, path: str) -> str | None:
        """The text of a file in the repo; None if it has none of that name."""
        if path not in self.files:
            return None

        def download() -> str | None:
            try:
                return Path(self._download(path)).read_text("utf-8")
            except EntryNotFoundError:
                return None

        return self.ask(f"send {path}", download)

    def _download(self, path: str) -> str:
        return self.api.hf_hub_download(self.repo_id, path, revision=self.head, repo_type=self.repo_type)

    def commit(self, files: Mapping[str, Path | bytes], deleted: Iterable[str], message: str) -> str:
        """
        Write files and delete others in one commit. Large ones are sent before it, so that it is there as a whole or
        not at all. What the repo holds already is not sent again.

        Returns:
            The commit's sha; where nothing has changed, that of the last one.

        Raises:
            HubError: the Hub refuses, cannot be reached, or the branch has got another commit meanwhile.
        """
        held = self.ask("list its files", lambda: self.list_files(self.head))
        additions = [
            CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
            for path, content in files.items()
        ]
        # Some versions of the client send all files again once one has changed.
        additions = [addition for addition in additions if not _is_same(addition, held.get(addition.path_in_repo))]
        deletions = [CommitOperationDelete(path) for path in deleted if path in held]
        if not additions and not deletions:
            return self.head
        tries = itertools.count()

        def attempt() -> str:
            if next(tries):
                # The answer may have got lost, and not the commit.
                found = self.find_commit(additions, deletions)
                if found is not None:
                    return found
            return self.api.create_commit(
                self.repo_id,
                [*additions, *deletions],
                commit_message=message,
                revision=self.revision,
                parent_commit=self.head,
                repo_type=self.repo_type,
            ).oid

        try:
            return self.ask("take the files", attempt)
        except HubError as error:
            try:
                found = self.find_commit(additions, deletions)
            except HubError:
                raise  # another commit: says more than that this one is refused
            except Exception:
                raise error from error.__cause__
            if found is None:
                raise HubError(f"{error}; {self.revision} is as it was") from error.__cause__
            return found

    def find_commit(
        self, additions: Sequence[CommitOperationAdd], deletions: Sequence[CommitOperationDelete]
    ) -> str | None:
        """
        The newest commit, if it is one on top of [`HubRepo.head`] that holds these files; None while there is no other.

        Raises:
            HubError: there is one, with something else in it.
        """
        newest = self._info(self.revision).sha
        if newest == self.head:
            return None
        held = self.list_files(newest)
        if all(_is_same(addition, held.get(addition.path_in_repo)) for addition in additions):
            if not any(deletion.path_in_repo in held for deletion in deletions):
                return newest
        raise HubError(f"{self.revision} of {self.repo_id} got another commit meanwhile, and this one was not made")

    def list_files(self, revision: str | None) -> dict[str, RepoFile]:
        """The files of the repo by their paths, without their content."""
        tree = self.api.list_repo_tree(self.repo_id, revision=revision, recursive=True, repo_type=self.repo_type)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def ask(self, what: str, request: Callable[[], T]) -> T:
        """
        Do what a function asks the Hub for, again after a while where it answers that it cannot now, or not at all.

        Args:
            what: what the Hub is to do, for error messages.
            request: asks; it may be called several times.

        Raises:
            HubError: with one line that says what could not be done, and why.
        """
        first_failure: float | None = None
        for wait in (*WAITS, None):
            try:
                return request()
            except HubError:
                raise
            except Exception as error:
                cause = _cause(error)
                if cause is None:
                    raise
                now = time.monotonic()
                first_failure = now if first_failure is None else first_failure
                if not _is_transient(cause) or wait is None or now - first_failure + wait > PATIENCE:
                    raise HubError(self._explain(what, cause)) from cause
                logger.warning("The Hub did not %s (%s); once more in %g s.", what, _brief(cause), wait)
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _explain(self, what: str, error: BaseException) -> str:
        """One line about an error, with what to do."""
        if isinstance(error, OfflineModeIsEnabled):
            return "the Hub cannot be asked while HF_HUB_OFFLINE is set"
        status = status_of(error)
        start = f"{self.api.endpoint} did not {what} {self.repo_id}"
        if what.startswith(("take", "send")):
            start = f"{self.api.endpoint} did not {what}, for {self.repo_id}"
        if status == 401:
            return f"{start} ({_brief(error)}): log in with `hf auth login`, or give a token that is valid"
        if status == 403:
            return f"{start} ({_brief(error)}): the token may not write there"
        if status == 404:
            return f"{start} ({_brief(error)}): there is no such repo or branch, or the token may not see it"
        if status in _MOVED:
            return f"{start} ({_brief(error)}): somebody has changed the repo meanwhile; push again"
        return f"{start} ({_brief(error)})"


def check_name(repo_id: str) -> None:
    """Raise a `ValueError` in one line if a repo can't have this name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} can't be the NAME or OWNER/NAME of a repo on the Hub: {error}") from None


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error is about, if it is about one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException) -> BaseException | None:
    """The error of Hub or network in which another one has its cause."""
    for cause in _chain(error):
        if isinstance(cause, HfHubHTTPError | OfflineModeIsEnabled | ConnectionError | TimeoutError):
            return cause
        if type(cause).__module__.partition(".")[0] in _HTTP_LIBRARIES:
            return cause
    return None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    return status is None or status in _TRANSIENT


def _brief(error: BaseException) -> str:
    """The status and what the server says, or the kind of the network's error."""
    status = status_of(error)
    if status is None:
        return f"no connection: {type(error).__name__}"
    said = " ".join((getattr(error, "server_message", None) or "").split())
    return f"{status}: {said}" if said else str(status)


def _is_same(addition: CommitOperationAdd, held: RepoFile | None) -> bool:
    """Whether the repo has a file already. It knows large ones by SHA-256, others by Git's SHA-1."""
    if held is None or held.size != addition.upload_info.size:
        return False
    if held.lfs is not None:
        return addition.upload_info.sha256.hex() == held.lfs.sha256
    with addition.as_file() as file:
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == held.blob_id
