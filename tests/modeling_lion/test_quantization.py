"""Quantised loading of the shipped checkpoint: what is spared, and how close the outputs stay."""

import importlib
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

from laboratory.world.evaluate_world import held_out
from laboratory.world.scene import render
from lion_multimodal import checkpoints
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.vision_aggregator_lion import LionZeroInitLinear
from processing_lion import LionProcessor


pytest.importorskip("bitsandbytes")

NANO = checkpoints.path("nano")
LEARNT = ("qformer.", "language_projection", "vision_aggregator.", "aggregator_projection.", "lm_head", ".adapter.")


def eight_bit() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True)


def four_bit() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def weight_only() -> TorchAoConfig:
    return TorchAoConfig(importlib.import_module("torchao.quantization").Int8WeightOnlyConfig())


def load(quantization_config, path=NANO) -> LionForConditionalGeneration:
    return LionForConditionalGeneration.from_pretrained(
        path, quantization_config=quantization_config, dtype=torch.float32, device_map={"": "cpu"}
    )


def is_quantized(layer: nn.Module) -> bool:
    return type(layer) not in (nn.Linear, LionZeroInitLinear) or type(layer.weight.data) is not torch.Tensor


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """Questions of all kinds about held-out pictures, with the true answers."""
    cases = [case for task in ("caption", "color", "count", "existence", "rec", "reg") for case in held_out(task, 4)]
    return LionProcessor.from_pretrained(NANO)(
        images=[render(scene) for scene, _ in cases],
        text=[sample.prompt for _, sample in cases],
        level=[sample.level for _, sample in cases],
        answers=[sample.completion for _, sample in cases],
        return_tensors="pt",
    )


@pytest.fixture(scope="module")
def expected(batch) -> torch.Tensor:
    with torch.no_grad():
        return LionForConditionalGeneration.from_pretrained(NANO)(**batch).logits


@pytest.mark.parametrize(
    ("quantization_config", "agreement"),
    [
        pytest.param(eight_bit, 0.97, id="8 bit"),
        pytest.param(four_bit, 0.9, id="4 bit"),
        pytest.param(
            weight_only,
            0.97,
            id="torchao",
            marks=pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed"),
        ),
    ],
)
def test_outputs_stay_close_and_learnt_parts_as_they_are(batch, expected, quantization_config, agreement):
    model = load(quantization_config())
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    quantized = {name for name, layer in linear.items() if is_quantized(layer)}
    assert not [name for name in quantized if any(part in name for part in LEARNT)]
    assert "vision_model.encoder.layers.0.self_attn.qkv" in quantized
    assert "language_model.encoder.block.0.layer.0.SelfAttention.q" in quantized
    with torch.no_grad():
        logits = model(**batch).logits
    assert not torch.equal(logits, expected)
    seen = batch["labels"] != -100
    assert (logits.argmax(-1) == expected.argmax(-1))[seen].float().mean() >= agreement
    answers = model.generate(**{k: v for k, v in batch.items() if k != "labels"}, max_new_tokens=4)
    assert answers.shape[0] == len(batch["labels"])


def test_whoever_names_modules_decides():
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["vision_model"])
    model = load(config)
    assert is_quantized(model.language_projection)
    assert not is_quantized(model.vision_model.encoder.layers[0].mlp.fc1)
    assert config.llm_int8_skip_modules == ["vision_model"]


def test_a_configuration_as_a_dict_is_taken_too():
    model = load({"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert is_quantized(model.vision_model.encoder.layers[0].mlp.fc1)
    assert not is_quantized(model.language_projection)


def test_four_bits_are_saved_and_loaded(batch, tmp_path):
    model = load(four_bit())
    model.save_pretrained(tmp_path)
    reloaded = LionForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32, device_map={"": "cpu"})
    assert is_quantized(reloaded.vision_model.encoder.layers[0].mlp.fc1)
    assert not is_quantized(reloaded.language_projection)
    with torch.no_grad():
        assert torch.allclose(reloaded(**batch).logits, model(**batch).logits, atol=1e-4)
