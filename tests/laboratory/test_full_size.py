"""The files of full size, small: what is written is what conversion expects of released files."""

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from configuration_lion import LionConfig, RamConfig
from laboratory.full_size.make_files import write_bert, write_checkpoint, write_ram, write_text_model, write_vision
from lion_multimodal.conversion.files import open_weights
from lion_multimodal.conversion.from_official import OfficialConversion, OfficialFiles
from lion_multimodal.conversion.layout import read_tag_files
from modeling_lion import LionTagger


def small() -> LionConfig:
    return LionConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
        },
        qformer_config={
            "vocab_size": 30523,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 160,
        },
        text_config={"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4},
        aggregator_config={"num_attention_heads": 4, "intermediate_size": 40},
        adapter_config={"bottleneck_size": 4},
    )


def test_the_files_convert(tmp_path):
    config = small()
    config.save_pretrained(tmp_path / "lion")
    vision = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
    sizes = {"hidden_size": 32, "intermediate_size": 24, "projection_dim": 12, "num_tags": 5}
    write_checkpoint(tmp_path / "LION.pth", config, seed=0)
    write_vision(tmp_path / "eva_vit_g.pth", config, seed=1)
    write_text_model(tmp_path / "flan-t5", config, seed=2)
    write_bert(tmp_path / "bert", config)
    write_ram(tmp_path, RamConfig(vision_config=vision, **sizes), seed=3)
    files = OfficialFiles(
        checkpoint=tmp_path / "LION.pth",
        vision=tmp_path / "eva_vit_g.pth",
        text_model=tmp_path / "flan-t5",
        qformer_tokenizer=tmp_path / "bert",
        config=tmp_path / "lion" / "config.json",
        ram=tmp_path / "ram_swin_large_14m.pth",
        ram_names=read_tag_files(tmp_path / "ram" / "data"),
    )
    conversion = OfficialConversion(files)
    counts = conversion.plan.counts()
    assert [counts[name]["repeated"] for name in ("LION.pth", "eva_vit_g.pth", "flan-t5")] == [2, 0, 0]
    assert counts["LION.pth"]["left_out"] == 1  # position ids
    assert counts["eva_vit_g.pth"]["left_out"] == 13 + 4  # a block, a norm and a head
    conversion.write(tmp_path / "out", torch.float32, 10**9)
    assert conversion.verify(tmp_path / "out") == []
    assert LionTagger.from_pretrained(tmp_path / "out").model.config.tags == [f"tag {k}" for k in range(5)]
    norm = load_file(tmp_path / "out" / "model.safetensors")["vision_model.encoder.layers.0.layer_norm1.weight"]
    assert (norm - 1).abs().max() < 0.2

    kinds = {info.dtype for info in open_weights(files.checkpoint).tensors.values()}
    assert kinds == {torch.float32, torch.bfloat16, torch.int64}
    before = files.checkpoint.read_bytes()
    write_checkpoint(files.checkpoint, config, seed=0)
    assert files.checkpoint.read_bytes() == before


def test_tokenizers_have_the_released_sizes(tmp_path):
    write_text_model(tmp_path / "flan-t5", small(), seed=0)
    write_bert(tmp_path / "bert", small())
    t5 = AutoTokenizer.from_pretrained(tmp_path / "flan-t5")
    assert len(t5) == 32100
    assert t5.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [32099, 32000]
    assert t5.decode(t5("the dog").input_ids, skip_special_tokens=True) == "the dog"
    assert len(AutoTokenizer.from_pretrained(tmp_path / "bert")) == 30522
