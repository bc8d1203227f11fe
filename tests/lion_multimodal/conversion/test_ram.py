import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configuration_lion.configuration_ram import RamConfig
from lion_multimodal.conversion.ram import convert_ram_checkpoint
from modeling_lion.modeling_ram import RamForImageTagging


GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "ram"


def golden_config() -> RamConfig:
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    swin, head = expected["swin"], expected["q2l"]
    return RamConfig(
        vision_config={
            "image_size": swin["image_res"],
            "window_size": swin["window_size"],
            "embed_dim": swin["embed_dim"],
            "depths": swin["depths"],
            "num_heads": swin["num_heads"],
        },
        hidden_size=head["hidden_size"],
        intermediate_size=head["intermediate_size"],
        num_attention_heads=head["num_attention_heads"],
        num_hidden_layers=head["num_hidden_layers"],
        layer_norm_eps=head["layer_norm_eps"],
        projection_dim=head["encoder_width"],
        tags=(GOLDEN / "tags.txt").read_text(encoding="utf-8").split("\n"),
        tags_zh=(GOLDEN / "tags_zh.txt").read_text(encoding="utf-8").split("\n"),
        thresholds=load_file(GOLDEN / "expected.safetensors")["class_threshold"].tolist(),
    )


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "official_state_dict.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_parity_with_the_official_implementation(official, expected, attention):
    config = golden_config()
    model = RamForImageTagging._from_config(config, attn_implementation=attention).eval()
    assert model.config._attn_implementation == attention
    model.load_state_dict(convert_ram_checkpoint(official, config))
    pixel_values = expected["pixel_values"].float()
    labels = (torch.arange(config.num_tags) % 3 == 0).expand(len(pixel_values), -1)
    with torch.no_grad():
        features = model.get_image_features(pixel_values).last_hidden_state
        output = model(pixel_values, labels=labels)
    texts = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))

    for name, value in {
        "features": features,
        "image_embeds": output.image_embeds,
        "logits": output.logits,
        "asl_loss": output.loss.reshape(1),
    }.items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert [" | ".join(tags) for tags in model.generate_tags(pixel_values)] == texts["tags_en"]
    assert [" | ".join(tags) for tags in model.generate_tags(pixel_values, language="zh")] == texts["tags_zh"]


def test_what_the_tagger_does_not_need_is_left_out_by_name(official):
    converted = convert_ram_checkpoint(official, golden_config())
    extra = {
        "text_decoder.bert.embeddings.word_embeddings.weight": torch.zeros(3, 2),
        "text_decoder.cls.predictions.bias": torch.zeros(3),
        "tag_encoder.encoder.layer.0.crossattention.self.query.weight": torch.zeros(2, 2),
        "tagging_head.embeddings.word_embeddings.weight": torch.zeros(3, 2),
        "tagging_head.encoder.layer.0.attention.self.query.weight": torch.zeros(2, 2),
    }
    constants = ("attn_mask", "relative_position_index")
    without_constants = {name: tensor for name, tensor in official.items() if not name.endswith(constants)}
    for state_dict in ({**official, **extra}, without_constants):
        again = convert_ram_checkpoint(state_dict, golden_config())
        assert again.keys() == converted.keys()
        assert all(torch.equal(again[name], converted[name]) for name in converted)


def test_swins_own_constants_are_the_models(official):
    model = RamForImageTagging(golden_config())
    constants = {
        name: tensor for name, tensor in model.state_dict().items() if name.endswith("relative_position_index")
    }
    converted = convert_ram_checkpoint(official, golden_config())
    assert all(torch.equal(converted[name], tensor) for name, tensor in constants.items())


def test_layout_of_the_released_file(official):
    old = {name.replace("tagging_head.", "vision_multi."): tensor for name, tensor in official.items()}
    converted = convert_ram_checkpoint({"model": old, "epoch": 3}, golden_config())
    RamForImageTagging(golden_config()).load_state_dict(converted)


def test_conversion_completes_from_pretrained(official, expected):
    config = golden_config()
    converted = convert_ram_checkpoint(official, config)
    model, report = RamForImageTagging.from_pretrained(
        None, config=config, state_dict=converted, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    logits = model(expected["pixel_values"].float()).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("label_embed"), "missing: label_embeddings.weight"),
        (
            lambda weights: weights.pop("visual_encoder.layers.1.blocks.0.attn.qkv.bias"),
            r"missing: .*layers\.1\.blocks\.0",
        ),
        (lambda weights: weights.update(mystery=torch.zeros(2)), "unexpected: mystery"),
        (
            lambda weights: weights.update({"visual_encoder.layers.2.blocks.7.norm1.weight": torch.zeros(2)}),
            r"unexpected: visual_encoder\.layers\.2\.blocks\.7\.norm1\.weight",
        ),
        (
            lambda weights: weights.update(label_embed=torch.zeros(233835, 512)),
            r"wrong shape: label_embed \(233835, 512\)",
        ),
        (
            lambda weights: weights.update({"vision_multi.encoder.layer.0.output.dense.bias": torch.zeros(32)}),
            r"given twice: vision_multi\.encoder\.layer\.0\.output\.dense\.bias",
        ),
        (lambda weights: weights.update(class_threshold=torch.full((40,), 0.123)), "class_threshold"),
    ],
)
def test_every_parameter_is_accounted_for(official, change, message):
    change(official)
    with pytest.raises(ValueError, match=message):
        convert_ram_checkpoint(official, golden_config())


def test_all_problems_are_listed_together(official):
    del official["fc.bias"]
    official["mystery"] = torch.zeros(1)
    official["image_proj.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"classifier\.bias.*mystery.*image_proj\.bias \(3,\), expected \(512,\)"):
        convert_ram_checkpoint(official, golden_config())


def test_thresholds_that_agree_are_accepted(official, expected):
    official["class_threshold"] = expected["class_threshold"]
    convert_ram_checkpoint(official, golden_config())
