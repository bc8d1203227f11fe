"""Types of arguments: what does not fit is a usage error that names the option."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar


N = TypeVar("N", int, float)


def _number(kind: Callable[[str], N], allows: Callable[[N], bool], expected: str) -> Callable[[str], N]:
    """The type of a number that `allows` lets pass; others are told what was expected."""

    def convert(text: str) -> N:
        try:
            value = kind(text)
            if allows(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r:.100}")

    return convert


positive_int = _number(int, lambda value: value >= 1, "an integer of at least 1")
natural_int = _number(int, lambda value: value >= 0, "an integer of at least 0")
port_number = _number(int, lambda value: 1 <= value <= 65535, "a port from 1 to 65535")
positive_number = _number(float, lambda value: 0 < value < float("inf"), "a number above 0")
non_negative_number = _number(float, lambda value: 0 <= value < float("inf"), "a number of at least 0")
fraction = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def not_empty(text: str) -> str:
    """A text that is more than blanks."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text
