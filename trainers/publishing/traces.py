"""Traces of this machine and its user in files that are about to become public: found, or removed where they stand."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from trainers.publishing.selection import read_safetensors_header


# Fields in which the libraries note where something was loaded from.
_ORIGINS = frozenset(
    {"_name_or_path", "name_or_path", "base_model_name_or_path", "tokenizer_file", "vocab_file", "merges_file"}
)

_TOKENIZERS = frozenset({"merges.txt", "tokenizer.json", "vocab.json", "vocab.txt"})
_PROSE = frozenset({".md", ".txt"})
_IMAGES = frozenset({".gif", ".jpeg", ".jpg", ".png", ".webp"})

_SECRETS = {
    "Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "GitHub token": r"\b(?:gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "API key": r"\b(?:sk-[\w-]{20,}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16})",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s:@/\"']+:[^\s@/\"']+@",
}
_PATHS = {
    "home directory": r"(?<![\w.:/-])/(?:home|Users)/[^\s/\"'`<>:;,)\\{}\[\]$*]+",
    "home directory of Windows": r"\b[A-Za-z]:(?:\\+|/)Users(?:\\+|/)[^\s\\/\"'`<>{}]+",
    "address of a local file": r"\bfile://[^\s\"'`<>)]+",
    # Where machines keep data; whether it is this one that has the path, nobody needs to know.
    "path of a machine": (
        r"(?<![\w.:/~-])/(?:content/drive|data|gpfs|kaggle|lustre|media|mnt|nfs|private/var|scratch|tmp|var/folders"
        r"|workspace)/[\w.@+-]+(?:/[\w.@+-]+)*"
    ),
}
_PATH = re.compile(r"(?<![\w.:/~-])(?:/[\w.@+-]+){2,}")
# Paths that are there on every machine.
_EVERYWHERE = frozenset({"bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr"})
# Names that say nothing about anybody.
_ANYBODY = frozenset(
    {"admin", "app", "jovyan", "lion", "localhost", "nobody", "root", "runner", "test", "ubuntu", "user", "work"}
)


@dataclass(frozen=True)
class Trace:
    """One find: the file, its line (0 where it has none), what it is, and its text, of a secret only the start."""

    file: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.kind} {self.text!r}"


class TracesError(ValueError):
    """What was about to be pushed holds traces of this machine."""

    def __init__(self, traces: Collection[Trace]):
        self.traces = list(traces)
        shown = "; ".join(map(str, self.traces[:5]))
        more = f"; and {len(self.traces) - 5} more" if len(self.traces) > 5 else ""
        super().__init__(f"nothing was pushed, for it would tell of this machine: {shown}{more}")


class Machine:
    """
    What tells of this machine.

    Args:
        directories: whose paths tell of it, too.
        tokens: secrets in use.
        names: names that are public anyway, as that of the repo's owner.
    """

    def __init__(
        self,
        directories: Iterable[str | os.PathLike] = (),
        tokens: Iterable[str | None] = (),
        names: Iterable[str] = (),
    ):
        self.directories = [Path(directory) for directory in directories]
        self.tokens = [token for token in tokens if token]
        self.public = {name.lower() for name in names}

    @cached_property
    def _exact(self) -> list[tuple[str, re.Pattern[str]]]:
        """Texts that must not occur anywhere."""
        secrets = {*self.tokens, get_token() or ""}
        secrets |= {
            value for name, value in os.environ.items() if re.search(r"TOKEN|SECRET|PASSWORD|API_?KEY", name, re.I)
        }
        paths = {Path.home(), Path.cwd(), *self.directories}
        paths |= {path.resolve() for path in paths}
        ends = {path.as_posix() for path in paths if path.is_absolute() and len(path.parts) > 1}
        return [
            *(("secret of this machine", re.compile(re.escape(secret))) for secret in secrets if len(secret) >= 12),
            *(
                ("path of this machine", re.compile(rf"(?<![\w.:/-]){re.escape(path)}(?![\w.-])"))
                for path in sorted(ends, key=len, reverse=True)
            ),
        ]

    @cached_property
    def _names(self) -> dict[str, str]:
        """Kinds of the names of user and host."""
        try:
            found = {getpass.getuser(): "user name"}
        except (KeyError, OSError):  # an account without a name
            found = {}
        host = socket.gethostname()
        found |= {host: "host name", host.partition(".")[0]: "host name"}
        unwanted = _ANYBODY | self.public
        return {name: kind for name, kind in found.items() if len(name) > 3 and name.lower() not in unwanted}

    @cached_property
    def _patterns(self) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
        """What is looked for in each kind of file."""
        # A tokenizer is often somebody else's, whose paths are public.
        least = [*((kind, re.compile(pattern)) for kind, pattern in _SECRETS.items()), *self._exact]
        paths = [(kind, re.compile(pattern)) for kind, pattern in _PATHS.items()]
        words = [
            (kind, re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.I)) for name, kind in self._names.items()
        ]
        # In data, a word may mean anything; as a part of a path or an address it means what it says.
        parts = [
            (kind, re.compile(rf"(?<=[/\\@]){re.escape(name)}(?![\w-])|(?<![\w-]){re.escape(name)}(?=[/\\@])", re.I))
            for name, kind in self._names.items()
        ]
        return {"tokenizer": least, "prose": [*least, *paths, *words], "data": [*least, *paths, *parts]}

    def find(self, file: str, content: bytes | Path) -> list[Trace]:
        """
        The traces in one file.

        Args:
            file: its path in the repo.
            content: what it holds, or where. Of a safetensors file, only the header is read.
        """
        if file.endswith(".safetensors"):
            if isinstance(content, bytes):
                raise TypeError(f"`content` must be the path of {file}, which may be large, got bytes")
            text = json.dumps(read_safetensors_header(content).get("__metadata__", {}), ensure_ascii=False)
        else:
            text = (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8", "replace")
        name = PurePosixPath(file)
        text_file = name.suffix not in _IMAGES and name.suffix not in (".model", ".safetensors")
        found = list(self._find(_kind_of(name), text))
        lines = [text.count("\n", 0, start) + 1 if text_file else 0 for start, _, _ in found]
        return [Trace(file, line, kind, shown) for line, (_, kind, shown) in zip(lines, found, strict=True)]

    def _find(self, kind_of_file: str, text: str) -> Iterator[tuple[int, str, str]]:
        taken: list[tuple[int, int]] = []
        for kind, pattern in self._patterns[kind_of_file]:
            for match in pattern.finditer(text):
                if not any(start < match.end() and match.start() < end for start, end in taken):
                    taken.append(match.span())
                    secret = kind in _SECRETS or kind.startswith("secret")
                    yield match.start(), kind, f"{match[0][:6]}..." if secret else match[0]
        for match in _PATH.finditer(text):
            if match[0].split("/")[1] in _EVERYWHERE or any(start <= match.start() < end for start, end in taken):
                continue
            if os.path.exists(match[0]):
                yield match.start(), "path of this machine", match[0]


def _kind_of(name: PurePosixPath) -> str:
    if name.name in _TOKENIZERS or name.suffix == ".model":
        return "tokenizer"
    return "prose" if name.suffix in _PROSE else "data"


def is_local(name: Any) -> bool:
    """Whether a name, as the libraries note them, is of a place on this machine rather than of a repo on the Hub."""
    if not isinstance(name, str) or not name:
        return False
    if os.path.exists(name):
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return False


def without_origins(config: Any, base_model: str | None = None) -> Any:
    """
    A configuration without the local paths in fields that say where something was loaded from.

    Args:
        config: of JSON.
        base_model: a repo's name to put in place of the base model's path; without it, `None` takes its place.
    """
    if isinstance(config, list):
        return [without_origins(entry, base_model) for entry in config]
    if not isinstance(config, Mapping):
        return config
    cleaned = {}
    for key, value in config.items():
        if key == "base_model_name_or_path":
            cleaned[key] = base_model or (None if is_local(value) else value)
        elif key not in _ORIGINS or not is_local(value):
            cleaned[key] = without_origins(value, base_model)
    return cleaned
