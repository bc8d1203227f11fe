"""Layouts read from the names and shapes of weights."""

import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file

from configuration_lion import LionConfig, RamConfig
from lion_multimodal.conversion.checkpoint import expected_shapes
from lion_multimodal.conversion.layout import infer_lion_config, infer_ram_config, read_tag_files, released_name
from lion_multimodal.conversion.names import split
from lion_multimodal.conversion.ram import to_official_ram
from modeling_lion.modeling_ram import RamForImageTagging
from tests.golden import load_golden
from tests.lion_multimodal.conversion.test_ram import golden_config
from tests.official_files import GOLDEN_RAM, write_official_ram


# `config.json` of the released T5s, as far as it matters.
FLAN_T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "d_kv": 64,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "n_positions": 512,
    "num_decoder_layers": 24,
    "num_layers": 24,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}
FLAN_T5_SIZES = {
    "flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "flan-t5-xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
}


def official_shapes(config: LionConfig) -> dict[str, torch.Size]:
    tensors = {}
    for name, shape in expected_shapes(config).items():
        tensors |= split(name, torch.empty(shape, device="meta"))
    return {name: tensor.shape for name, tensor in tensors.items()}


def comparable(config) -> dict:
    fields = json.loads(config.to_json_string(use_diff=False))
    fields.get("text_config", {}).pop("n_positions", None)  # of no effect
    return fields


@pytest.mark.parametrize("name", FLAN_T5_SIZES)
def test_released_sizes(name):
    preset = LionConfig.from_preset(name)
    shapes = official_shapes(preset)
    # The public tower has a block more than LION uses.
    shapes |= {n.replace("blocks.38.", "blocks.39."): s for n, s in shapes.items() if ".blocks.38." in n}
    config = infer_lion_config(shapes, {**FLAN_T5, **FLAN_T5_SIZES[name]})
    assert comparable(config) == comparable(preset)
    assert config.text_config.dense_act_fn == "gelu"
    assert released_name(config) == name


@pytest.mark.parametrize(
    ("branches", "adapters"),
    [
        (["qformer"], ["image_level"]),
        (["aggregator"], ["region_level"]),
        (["qformer", "aggregator"], ["shared"]),
        (["qformer"], []),
    ],
)
def test_branches_and_adapters(branches, adapters):
    text = {"num_layers": 1, "num_decoder_layers": 1}
    expected = LionConfig(
        visual_branches=branches,
        adapter_config={"adapters": adapters, "bottleneck_size": 24},
        vision_config={"num_hidden_layers": 39},
        text_config=text,
    )
    config = infer_lion_config(official_shapes(expected), {**FLAN_T5, **FLAN_T5_SIZES["flan-t5-xl"], **text})
    assert config.visual_branches == branches
    assert config.adapter_config.adapters == adapters
    assert not adapters or config.adapter_config.bottleneck_size == 24
    assert expected_shapes(config) == expected_shapes(expected)
    assert released_name(config) is None


def test_what_weights_do_not_show_must_be_told():
    golden = load_golden("all")
    shapes = {name: tensor.shape for name, tensor in golden.official_state_dict.items()}
    with pytest.raises(ValueError, match=r"`vision_config\.num_attention_heads` can't be told .* width 32"):
        infer_lion_config(shapes, golden.facts["config"]["t5"])


def test_what_is_no_lion():
    with pytest.raises(ValueError, match="neither a Q-Former"):
        infer_lion_config({"t5_model.shared.weight": torch.Size([3, 2])}, FLAN_T5)
    shapes = official_shapes(LionConfig.from_preset("flan-t5-xl"))
    deeper = {n.replace("blocks.1.", "blocks.2."): s for n, s in shapes.items() if n.startswith("fusion_adapter.")}
    with pytest.raises(ValueError, match="vision aggregator has 3 layers"):
        infer_lion_config({**shapes, **deeper}, FLAN_T5)
    del shapes["visual_encoder.pos_embed"]
    with pytest.raises(ValueError, match=r"visual_encoder\.pos_embed is in none of the files"):
        infer_lion_config(shapes, FLAN_T5)


@pytest.mark.parametrize("prefix", ["tagging_head.", "vision_multi."])
def test_ram_of_another_size(tmp_path, prefix):
    official = load_file(GOLDEN_RAM / "official_state_dict.safetensors")
    shapes = {name.replace("tagging_head.", prefix): tensor.shape for name, tensor in official.items()}
    write_official_ram(tmp_path)
    config = infer_ram_config(shapes, **read_tag_files(tmp_path / "ram" / "data"))
    assert comparable(config) == comparable(golden_config())


def test_released_ram():
    with torch.device("meta"):
        model = RamForImageTagging(RamConfig())
    shapes = {name: tensor.shape for name, tensor in to_official_ram(model).items()}
    assert comparable(infer_ram_config(shapes)) == comparable(RamConfig())


def test_tag_files(tmp_path):
    write_official_ram(tmp_path)
    folder = tmp_path / "ram" / "data"
    everything = read_tag_files(folder)
    assert set(everything) == {"tags", "tags_zh", "thresholds"}
    assert len(everything["tags"]) == len(everything["tags_zh"]) == len(everything["thresholds"]) == 40
    assert read_tag_files(folder / "ram_tag_list.txt") == {"tags": everything["tags"]}
    one_by_one = [folder / name for name in ("ram_tag_list.txt", "ram_tag_list_chinese.txt")]
    assert read_tag_files(*one_by_one)["tags_zh"] == everything["tags_zh"]
    assert any(tag != tag.rstrip() for tag in everything["tags_zh"])  # as the official lists have it

    (folder / "other.txt").write_text("0.5\n" * 39 + "half\n")
    with pytest.raises(ValueError, match=r"other\.txt must hold one number a line"):
        read_tag_files(folder, thresholds=folder / "other.txt")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        read_tag_files(folder / "nowhere.txt")
    for file in ("ram_tag_list_chinese.txt", "ram_tag_list_threshold.txt"):
        (folder / file).unlink()
    assert read_tag_files(folder) == OrderedDict(tags=everything["tags"])
