"""A tiny LION without adapters, its processor, and images to train on."""

from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoTokenizer

from configuration_lion.configuration_lion import LionConfig
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion.image_processing_lion import LionImageProcessor
from processing_lion.processing_lion import LionProcessor, add_qformer_bos_token


TOKENIZERS = Path(__file__).parents[1] / "fixtures" / "tokenizers"


def tiny_config(adapters=(), dropout: float = 0.1) -> LionConfig:
    return LionConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        qformer_config={
            "vocab_size": 607,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 128,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        },
        text_config={
            "vocab_size": 804,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 2,
            "dropout_rate": dropout,
        },
        aggregator_config={"num_attention_heads": 2, "intermediate_size": 32, "dropout": dropout},
        adapter_config={"adapters": list(adapters), "bottleneck_size": 4},
        num_query_tokens=4,
    )


def tiny_model(adapters=(), dropout: float = 0.1) -> LionForConditionalGeneration:
    torch.manual_seed(0)
    return LionForConditionalGeneration(tiny_config(adapters, dropout))


def make_processor() -> LionProcessor:
    return LionProcessor(
        LionImageProcessor(size={"height": 28, "width": 28}),
        AutoTokenizer.from_pretrained(TOKENIZERS / "t5"),
        add_qformer_bos_token(AutoTokenizer.from_pretrained(TOKENIZERS / "bert")),
    )


@pytest.fixture(scope="session")
def processor() -> LionProcessor:
    return make_processor()


@pytest.fixture(scope="session")
def base_checkpoint(processor, tmp_path_factory) -> Path:
    """A directory with a LION that has no adapters yet, and its processor."""
    path = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(path)
    processor.save_pretrained(path)
    return path


def make_image(seed: int, size: tuple[int, int] = (40, 32)) -> PIL.Image.Image:
    rng = np.random.default_rng(seed)
    return PIL.Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def make_rows(count: int = 12) -> datasets.Dataset:
    """Rows of both levels, in turns; answers differ in length, so that a mean over batches isn't one over tokens."""
    rows = []
    for i in range(count):
        region = i % 2 == 1
        rows.append(
            {
                "image": make_image(i),
                "prompt": "where is the cat?" if region else "question: what is this? short answer:",
                "completion": f"[0.{100 + i},0.200,0.500,0.900]" if region else " ".join(["a cat"] * (1 + i % 5)),
                "tags": "cat, dog" if i % 3 else "",
                "level": "region_level" if region else "image_level",
            }
        )
    features = datasets.Features(
        {
            "image": datasets.Image(),
            **{n: datasets.Value("string") for n in ("prompt", "completion", "tags", "level")},
        }
    )
    return datasets.Dataset.from_list(rows, features=features)
