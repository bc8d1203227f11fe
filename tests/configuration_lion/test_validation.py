"""Wrong values of every field of every configuration are errors that name the field, when it is made."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import InstructBlipVisionConfig, SwinConfig, T5Config

from configuration_lion import LionConfig, LionMixtureOfAdaptersConfig, LionVisionAggregatorConfig, RamConfig
from configuration_lion.validation_lion import QFORMER_FIELDS, SWIN_FIELDS, TEXT_FIELDS, VISION_FIELDS


WRONG = ["abc", -1, math.nan, math.inf, [], {}, -0.5, object()]
NO_NUMBERS = ["abc", [], {}, math.nan]
OPTIONAL = {"num_decoder_layers", "pad_token_id", "decoder_start_token_id", "eos_token_id"}
AGGREGATOR = (
    "num_attention_heads",
    "intermediate_size",
    "query_layer",
    "context_layers",
    "hidden_act",
    "dropout",
    "layer_norm_eps",
    "output_layer_norm_eps",
)
RAM = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
    "projection_dim",
    "num_tags",
    "loss_gamma_neg",
    "loss_gamma_pos",
    "loss_clip",
    "initializer_range",
    "thresholds",
)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (part, field)
        for part, fields in [
            ("vision_config", VISION_FIELDS),
            ("qformer_config", QFORMER_FIELDS),
            ("text_config", TEXT_FIELDS),
            ("aggregator_config", AGGREGATOR),
            ("adapter_config", ["bottleneck_size", "adapters"]),
        ]
        for field in fields
    ],
)
def test_wrong_values_of_parts(part, field):
    for value in WRONG:
        if value == [] and field == "adapters":
            continue  # the bare LLM
        with pytest.raises(ValueError, match=rf"`{part}\.{field}`") as caught:
            LionConfig.from_preset("nano", **{part: {field: value}})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["num_query_tokens", "visual_branches", "qformer_input_layer_norm_eps"])
def test_wrong_values_of_lion(field):
    for value in [*WRONG, None, True, "qformer", [None]]:
        with pytest.raises(ValueError, match=f"`{field}`"):
            LionConfig.from_preset("nano", **{field: value})


@pytest.mark.parametrize("field", RAM)
def test_wrong_values_of_ram(field):
    for value in [*WRONG, True]:
        with pytest.raises(ValueError, match=field) as caught:
            RamConfig.from_preset("nano", **{field: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", SWIN_FIELDS)
def test_wrong_values_of_swin(field):
    for value in WRONG:
        with pytest.raises(ValueError, match=rf"`vision_config\.{field}`") as caught:
            RamConfig.from_preset("nano", vision_config={field: value})
        assert "\n" not in str(caught.value)


def test_parts_may_be_configurations_and_are_checked_as_well():
    assert LionConfig(text_config=T5Config(d_model=64, num_heads=4)).text_config.d_model == 64
    vision = InstructBlipVisionConfig()
    vision.__dict__["layer_norm_eps"] = "abc"
    with pytest.raises(ValueError, match=r"`vision_config\.layer_norm_eps`"):
        LionConfig(vision_config=vision)
    swin = SwinConfig()
    swin.__dict__["hidden_act"] = "nope"
    with pytest.raises(ValueError, match=r"`vision_config\.hidden_act`"):
        RamConfig(vision_config=swin)


def test_parts_by_themselves():
    with pytest.raises(ValueError, match=r"`aggregator_config\.dropout` must be a number in \[0, 1\), got 1"):
        LionVisionAggregatorConfig(dropout=1)
    with pytest.raises(ValueError, match=r"`adapter_config\.adapters` must be a list of names"):
        LionMixtureOfAdaptersConfig(adapters=None)
    with pytest.raises(ValueError, match="tags must be a list of strings"):
        RamConfig(tags=5)


@settings(max_examples=60, deadline=None)
@given(
    field=st.sampled_from(["num_query_tokens", "visual_branches", "qformer_input_layer_norm_eps", "adapter_config"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=5,
    ),
)
def test_any_json_gives_a_configuration_or_a_value_error(field, value):
    try:
        config = LionConfig.from_preset("nano", **{field: value})
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert config.num_image_tokens > 0
