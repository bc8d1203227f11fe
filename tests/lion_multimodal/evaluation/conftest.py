"""The benchmarks' counterparts in the synthetic world, a few rows each."""

from __future__ import annotations

from pathlib import Path

import pytest

from laboratory.counterparts.synthetic import write_synthetic


ROWS = 3


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    """A folder for `--data-dir`, with every benchmark."""
    directory = tmp_path_factory.mktemp("synthetic")
    write_synthetic(directory, ROWS)
    return directory
