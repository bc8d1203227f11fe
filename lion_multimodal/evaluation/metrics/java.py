"""The Java programs inside the package pycocoevalcap: whether they can be run, and running them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO


# Java before 18 reads and writes text in the encoding of the locale otherwise.
_OPTIONS = ("-Dfile.encoding=UTF-8",)


class JavaUnavailableError(RuntimeError):
    """Java, or a file that a Java program needs, is missing or does not work."""


def find_file(path: str) -> Path:
    """
    A file of the installed package pycocoevalcap.

    Args:
        path: its path within the package.

    Raises:
        JavaUnavailableError: the package, or the file in it, is not there.
    """
    specification = importlib.util.find_spec("pycocoevalcap")
    folders = [] if specification is None else list(specification.submodule_search_locations or ())
    if not folders:
        raise JavaUnavailableError("the package pycocoevalcap is not installed (pip install pycocoevalcap)")
    for folder in folders:
        if (file := Path(folder) / path).is_file():
            return file
    raise JavaUnavailableError(f"the package pycocoevalcap lacks the file {path}")


def java_command(*arguments: str) -> list[str]:
    """
    A command line that runs Java.

    Raises:
        JavaUnavailableError: there is no Java.
    """
    program = shutil.which("java")
    if program is None:
        raise JavaUnavailableError("there is no program java on the PATH")
    return [program, *_OPTIONS, *arguments]


def run_java(arguments: Sequence[str], text: str = "", folder: Path | None = None) -> str:
    """
    What a Java program answers.

    Args:
        arguments: of `java`.
        text: its standard input.
        folder: where it runs.

    Returns:
        Its standard output.

    Raises:
        JavaUnavailableError: there is no Java, or the program fails; says what Java says.
    """
    # Not as text, which would turn "\r" into "\n".
    finished = subprocess.run(
        java_command(*arguments), input=text.encode("utf-8", "replace"), capture_output=True, cwd=folder, check=False
    )
    if finished.returncode != 0:
        raise JavaUnavailableError(f"java fails: {_last_lines(finished.stderr)}")
    return finished.stdout.decode("utf-8", "replace")


class JavaDialogue:
    """A running Java program that answers each line with a line. Made by [`java_dialogue`]."""

    def __init__(self, process: subprocess.Popen, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    def ask(self, line: str) -> str:
        """
        Send a line, which must hold no line break, and read the answer.

        Raises:
            JavaUnavailableError: the program has ended; says what Java says.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("utf-8", "replace") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer is empty then
        return self.read()

    def read(self) -> str:
        """Read a further line of an answer. Raises as [`ask`]."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            raise JavaUnavailableError(f"java fails: {_last_lines(self._errors.read())}")
        return answer.decode("utf-8", "replace").strip()


@contextmanager
def java_dialogue(arguments: Sequence[str], folder: Path | None = None) -> Iterator[JavaDialogue]:
    """
    Start a Java program that answers line by line, and end it.

    Args:
        arguments: of `java`.
        folder: where it runs.

    Raises:
        JavaUnavailableError: there is no Java.
    """
    command = java_command(*arguments)
    # Into a file, as nobody reads it meanwhile and a pipe can be full.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=folder)
        try:
            yield JavaDialogue(process, errors)
        finally:
            process.kill()
            process.communicate()


def _last_lines(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return " ".join(lines[-5:]) or "it says nothing"


__all__ = ["JavaDialogue", "JavaUnavailableError", "find_file", "java_command", "java_dialogue", "run_java"]
