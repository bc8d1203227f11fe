import pytest
from transformers import InstructBlipVisionConfig

from configuration_lion import LionConfig
from lion_multimodal import checkpoints


SMALL = {
    "vision_config": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "image_size": 28,
        "patch_size": 7,
    },
    "aggregator_config": {"num_attention_heads": 4},
}


def small(**changes) -> LionConfig:
    return LionConfig(**{**SMALL, **changes})


def test_defaults_are_the_released_xl():
    config = LionConfig()
    assert config.vision_config.num_hidden_layers == 39
    assert (config.aggregator_config.query_layer, config.aggregator_config.context_layers) == (38, [28, 18])
    assert config.text_config.d_model == 2048
    assert config.text_config.dense_act_fn == "gelu"
    assert config.num_image_tokens == 32 + 257


def test_xxl_differs_from_xl_in_the_llm_alone():
    xl, xxl = LionConfig.from_preset("flan-t5-xl"), LionConfig.from_preset("flan-t5-xxl")
    assert (xxl.text_config.d_model, xxl.text_config.d_ff, xxl.text_config.num_heads) == (4096, 10240, 64)
    assert xxl.vision_config.to_dict() == xl.vision_config.to_dict()
    assert xxl.text_config.dense_act_fn == "gelu"


def test_layers_of_the_aggregator_scale_with_the_tower():
    config = small()
    assert (config.aggregator_config.query_layer, config.aggregator_config.context_layers) == (5, [4, 2])


@pytest.mark.parametrize(("branches", "adapters"), [(["qformer"], ["image_level"]), (["aggregator"], ["region_level"])])
def test_one_branch_has_its_own_adapter_by_default(branches, adapters):
    assert small(visual_branches=branches).adapter_config.adapters == adapters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual_branches": ["qformer", "retina"]}, "visual_branches"),
        ({"visual_branches": []}, "visual_branches"),
        ({"visual_branches": ["aggregator", "qformer"]}, "visual_branches"),
        ({"aggregator_config": {"num_attention_heads": 4, "query_layer": 6}}, "query_layer.*blocks 0 to 5"),
        ({"aggregator_config": {"num_attention_heads": 4, "context_layers": [3, -1]}}, "context_layers.*-1"),
        ({"aggregator_config": {"num_attention_heads": 4, "context_layers": []}}, "context_layers"),
        ({"aggregator_config": {"num_attention_heads": 5}}, "aggregator_config.num_attention_heads"),
        ({"vision_config": {**SMALL["vision_config"], "num_attention_heads": 5}}, "vision_config.num_attention_heads"),
        ({"vision_config": {**SMALL["vision_config"], "patch_size": 8}}, "patch_size"),
        ({"qformer_config": {"num_attention_heads": 7}}, "qformer_config.num_attention_heads"),
        ({"num_query_tokens": 0}, "num_query_tokens"),
        ({"adapter_config": {"bottleneck_size": 0}}, "bottleneck_size"),
        ({"adapter_config": {"adapters": ["image_level", "region_level"]}}, "adapters"),
        ({"adapter_config": {"adapters": ["pixel_level"]}}, "adapters"),
        ({"visual_branches": ["qformer"], "adapter_config": {"adapters": ["region_level"]}}, "needs the visual branch"),
        ({"vision_config": 3}, "vision_config"),
        ({"text_config": InstructBlipVisionConfig()}, "text_config"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_the_nano_preset_is_the_shipped_checkpoint():
    preset, shipped = LionConfig.from_preset("nano"), LionConfig.from_pretrained(checkpoints.path("nano"))
    for name in LionConfig.sub_configs:
        expected = getattr(preset, name).to_dict()
        for field in expected.keys() - {
            "dtype",
            "torch_dtype",
            "architectures",
            "_name_or_path",
            "transformers_version",
        }:
            assert getattr(getattr(shipped, name), field) == expected[field], (name, field)
    assert preset.num_image_tokens == shipped.num_image_tokens == 8 + 37


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match="flan-t5-xl.*'vicuna'"):
        LionConfig.from_preset("vicuna")


@pytest.mark.parametrize("changes", [{}, {"visual_branches": ["qformer"]}, {"adapter_config": {"adapters": []}}])
def test_round_trips(tmp_path, changes):
    config = small(**changes)
    config.save_pretrained(tmp_path)
    for reloaded in (LionConfig.from_dict(config.to_dict()), LionConfig.from_pretrained(tmp_path)):
        assert reloaded.text_config.dense_act_fn == "gelu"
        assert reloaded.to_dict()["text_config"]["tie_word_embeddings"] is False
        for name in LionConfig.sub_configs:
            assert getattr(reloaded, name).to_dict() == getattr(config, name).to_dict()
        assert reloaded.visual_branches == config.visual_branches


def test_another_activation_is_kept():
    config = small(text_config={"dense_act_fn": "gelu_new"})
    assert LionConfig.from_dict(config.to_dict()).text_config.dense_act_fn == "gelu_new"
