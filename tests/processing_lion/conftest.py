import json
import os
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from processing_lion import LionImageProcessor, LionProcessor, add_qformer_bos_token


FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def golden_inputs():
    """Questions, tags, answers and prompts of the official implementation, and the ids it made of them."""
    folder = FIXTURES / "golden" / "all"
    return json.loads((folder / "expected.json").read_text()) | {
        "tensors": load_file(folder / "expected.safetensors"),
    }


@pytest.fixture(scope="session")
def make_processor():
    def make(**kwargs):
        return LionProcessor(
            kwargs.pop("image_processor", None) or LionImageProcessor(size=28),
            AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "t5"),
            add_qformer_bos_token(AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / "bert")),
            **kwargs,
        )

    return make


@pytest.fixture(scope="session")
def processor(make_processor):
    return make_processor()
