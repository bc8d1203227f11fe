"""What the tokenizers library does about damaged files, as errors that name them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named_tokenizer_errors(where: str | os.PathLike) -> Iterator[None]:
    """
    The library raises plain exceptions, or panics, which Python sees as a `BaseException` that `except Exception` lets
    through, as if somebody had pressed Ctrl-C.

    Raises:
        OSError: in their place, with the tokenizer's folder.
    """
    try:
        yield
    except (MemoryError, ImportError):
        raise
    except BaseException as error:
        # (Of `pyo3_runtime`, which cannot be imported.)
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise OSError(f"the tokenizer in {where} cannot be loaded: {type(error).__name__}: {error}") from error
