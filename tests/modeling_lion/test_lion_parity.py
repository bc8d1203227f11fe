"""Every number of the official code, on the same weights and inputs."""

import pytest
import torch

from configuration_lion import LEVELS
from modeling_lion import LionImageFeatures
from tests.golden import LAYOUTS, load_golden, load_golden_model


TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=[(layout, attn) for layout in LAYOUTS for attn in ("eager", "sdpa")], ids=str)
def case(request):
    layout, attn_implementation = request.param
    return load_golden(layout), load_golden_model(layout, attn_implementation)


def assert_parity(ours: torch.Tensor, official: torch.Tensor, relative_to_largest: bool = False) -> None:
    """
    Within 1e-4, absolute and relative. Rounding that 39 blocks have piled up is measured against the tensor's largest
    value: element by element it differs by more than that from one processor to the next.
    """
    scale = official.abs().max() if relative_to_largest else official.abs()
    excess = (ours - official).abs() - (TOLERANCE + TOLERANCE * scale)
    assert (excess <= 0).all(), f"largest difference {(ours - official).abs().max():.2e}"


def official_features(golden, model) -> LionImageFeatures:
    """Image features made of the official tensors as far as they reach, so that no rounding of the tower is left."""
    features = {}
    if "qformer" in model.active_branches:
        features["image_embeds"] = model.vision_model.post_layernorm(golden.tensors["vit_last"])
    if "aggregator" in model.active_branches:
        num_patches = golden.tensors["vit_last"].shape[1]
        features["aggregator_embeds"] = golden.tensors["visual_embeds"][:, -num_patches:]
    return LionImageFeatures(**features)


@torch.no_grad()
def test_tower(case):
    golden, model = case
    blocks = {38: "vit_last", 28: "vit_i28", 18: "vit_i18"}
    _, kept = model.vision_model(golden.tensors["pixel_values"], kept_blocks=tuple(blocks))
    assert set(kept) == set(blocks)
    for block, name in blocks.items():
        assert_parity(kept[block], golden.tensors[name], relative_to_largest=True)


@torch.no_grad()
def test_aggregator(case):
    golden, model = case
    if "aggregator" not in model.active_branches:
        pytest.skip("layout without aggregator")
    last, *context = (golden.tensors[name] for name in ("vit_last", "vit_i28", "vit_i18"))
    tokens = model.aggregator_projection(model.aggregator_norm(model.vision_aggregator(last, context)))
    assert_parity(tokens, golden.tensors["visual_embeds"][:, -last.shape[1] :])


@torch.no_grad()
def test_qformer(case):
    golden, model = case
    if "qformer" not in model.active_branches:
        pytest.skip("layout without Q-Former")
    tokens = model.get_visual_embeds(
        official_features(golden, model),
        golden.tensors["qformer_input_ids"],
        golden.tensors["qformer_attention_mask"],
    )
    assert tokens.shape == golden.tensors["visual_embeds"].shape
    assert_parity(tokens, golden.tensors["visual_embeds"])


@pytest.mark.parametrize("level", LEVELS)
@torch.no_grad()
def test_logits_and_loss(case, level):
    golden, model = case
    inputs = {**golden.inputs, "labels": golden.labels, "level_ids": torch.full((3,), LEVELS.index(level))}
    expected_logits, expected_loss = golden.tensors[f"logits_{level}"], golden.tensors[f"loss_{level}"][0]
    outputs = model(**inputs)
    assert_parity(outputs.logits, expected_logits, relative_to_largest=True)
    assert_parity(outputs.loss, expected_loss)

    del inputs["pixel_values"]
    outputs = model(**inputs, image_features=official_features(golden, model))
    assert_parity(outputs.logits, expected_logits)
    assert_parity(outputs.loss, expected_loss)


@pytest.mark.parametrize("level", LEVELS)
def test_beam_ids(case, level):
    golden, model = case
    level_ids = torch.full((3,), LEVELS.index(level))
    ids = model.generate(**golden.inputs, level_ids=level_ids, max_new_tokens=12)
    assert torch.equal(ids, golden.tensors[f"generated_ids_{level}"])


@torch.no_grad()
def test_a_batch_of_mixed_levels_gives_each_row_its_own(case):
    golden, model = case
    levels = (0, 1, 0)
    level_ids = torch.tensor(levels)
    logits = model(**golden.inputs, labels=golden.labels, level_ids=level_ids).logits
    ids = model.generate(**golden.inputs, level_ids=level_ids, max_new_tokens=12)
    for row, level in enumerate(levels):
        alone = model(**golden.inputs, labels=golden.labels, level_ids=torch.full((3,), level)).logits
        assert torch.allclose(logits[row], alone[row], atol=1e-5)
        expected = golden.tensors[f"generated_ids_{LEVELS[level]}"][row]
        assert torch.equal(ids[row, : len(expected)], expected)
        assert (ids[row, len(expected) :] == 0).all()
