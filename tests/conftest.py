import os
import sys


# Nothing in the tests may ask the Hub; models are tiny, more threads only get in each other's way.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from pathlib import Path

import pytest
import torch

from tests.golden import Golden, load_golden, load_golden_model


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory):
    """What `datasets` makes of the tests' files goes where these go, not into the cache of the user."""
    directory = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(directory))
        if "datasets" in sys.modules:
            patch.setattr(sys.modules["datasets"].config, "HF_DATASETS_CACHE", directory)
        yield


@pytest.fixture(scope="session")
def golden_all() -> Golden:
    return load_golden("all")


@pytest.fixture(scope="module")
def lion():
    """A tiny LION with both branches, two adapters and the router, with the official golden weights."""
    return load_golden_model("all")


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `--data-dir`, with every benchmark's counterpart in the synthetic world, a few rows each."""
    from laboratory.counterparts.synthetic import write_synthetic

    directory = tmp_path_factory.mktemp("synthetic")
    write_synthetic(directory, 3)
    return directory
