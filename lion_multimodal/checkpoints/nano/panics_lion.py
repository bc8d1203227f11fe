"""Panics of libraries that are written in Rust (tokenizers, safetensors)."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """
    A damaged file can make such a library panic, which Python sees as a `BaseException` that `except Exception` lets
    through, as if somebody had pressed Ctrl-C.

    Raises:
        RuntimeError: in a panic's place, with its message.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of `pyo3_runtime`, which cannot be imported
            raise
        raise RuntimeError(str(error)) from error
