"""What the documents tell people to run: their Python blocks and their command lines."""

import re
import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pytest_examples import CodeExample, find_examples


ROOT = Path(__file__).parents[2]
# The cards of the metrics are run by `doctest` (tests/lion_multimodal/evaluation/metrics).
DOCUMENTS = [path for path in (ROOT / "README.md", ROOT / "model_card.md", ROOT / "CONTRIBUTING.md") if path.is_file()]
# The guide to training is run as a whole, each step on what the one before left (test_training_guide.py).
DOCUMENTS += sorted(
    path for path in (ROOT / "docs").rglob("*.md") if path.name != "training.md" or "reference" in path.parts
)

# A line that begins so, indented by four or in a shell's block, is a command. Before it may stand variables.
_PROGRAMS = ("accelerate", "cd", "curl", "docker", "export", "git", "hf", "lion", "make", "pip", "python", "uv")
_COMMAND = re.compile(rf"(?:\w+=\S* )*(?:{'|'.join(_PROGRAMS)}) ")
_FENCE = re.compile(r"^ *```+ *(\S*)")
_SHELLS = ("bash", "console", "sh", "shell")


@dataclass(frozen=True)
class Command:
    """A command line, with the lines that its backslashes join."""

    document: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """As a shell splits it; what stands in brackets is optional and left out."""
        words = shlex.split(re.sub(r"\[[^\]]*\]", "", self.text) if self.text.startswith("lion") else self.text, True)
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words.pop(0)
        return words

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def python_blocks() -> dict[str, list[CodeExample]]:
    """The blocks of every document that has some, in order."""
    blocks = defaultdict(list)
    for block in find_examples(*DOCUMENTS):
        blocks[block.path.relative_to(ROOT).as_posix()].append(block)
    return dict(blocks)


def command_lines(*documents: Path) -> list[Command]:
    """The command lines of documents (all of them by default)."""
    commands = []
    for document in documents or DOCUMENTS:
        language, lines = None, iter(enumerate(document.read_text(encoding="utf-8").splitlines(), start=1))
        for number, line in lines:
            fence = _FENCE.match(line)
            if fence:
                language = (fence[1] or "text") if language is None else None
                continue
            in_shell = language in _SHELLS
            if not (in_shell or (language is None and line.startswith("    "))):
                continue
            text = line.strip().removeprefix("$ ")
            if not (in_shell and text and not text.startswith("#")) and not _COMMAND.match(text):
                continue
            while text.endswith("\\"):
                text = text[:-1] + next(lines)[1].strip()
            name = document.relative_to(ROOT).as_posix() if document.is_relative_to(ROOT) else document.name
            commands.append(Command(name, number, text))
    return commands
