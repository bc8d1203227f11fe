"""Files as the authors of LION released them, at the size of the golden examples."""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lion_multimodal.conversion.from_official import OfficialFiles
from tests.golden import FIXTURES, load_golden


GOLDEN_RAM = FIXTURES / "golden" / "ram"
VISION, TEXT = "visual_encoder.", "t5_model."


def is_frozen(name: str) -> bool:
    return name.startswith(VISION) or (
        name.startswith(TEXT) and ".adapter." not in name and not name.endswith("coder.embed_tokens.weight")
    )


def write_official(folder: Path, layout: str = "all", **kwargs) -> OfficialFiles:
    """
    The files of a golden layout: learnt parts in float32 with bfloat16 copies of the embeddings and an optimiser, the
    tower in float16 with one block more and a head, the T5 in two float32 shards. `kwargs` as of `OfficialFiles`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    golden = load_golden(layout)
    weights = golden.official_state_dict
    learnt = OrderedDict((name, tensor) for name, tensor in weights.items() if not is_frozen(name))
    for name in learnt:
        if name.endswith("embed_tokens.weight"):
            learnt[name] = learnt[name].bfloat16()
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(7)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"model": learnt, "optimizer": optimizer, "epoch": 3}, folder / "LION.pth")

    tower = OrderedDict((name.removeprefix(VISION), t.half()) for name, t in weights.items() if name.startswith(VISION))
    tower |= {name.replace("blocks.38.", "blocks.39."): t for name, t in tower.items() if name.startswith("blocks.38.")}
    tower |= {"norm.weight": torch.ones(32), "head.weight": torch.zeros(5, 32), "head.bias": torch.zeros(5)}
    torch.save(tower, folder / "eva_vit_g.pth")

    text_model = folder / "flan-t5"
    shutil.copytree(FIXTURES / "tokenizers" / "t5", text_model, dirs_exist_ok=True)
    text = {name.removeprefix(TEXT): t for name, t in weights.items() if name.startswith(TEXT) and is_frozen(name)}
    weight_map = {}
    for number, stack in enumerate(("decoder", ""), 1):
        shard = {name: t for name, t in text.items() if name.startswith("decoder") == bool(stack)}
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file(shard, text_model / file)
        weight_map |= dict.fromkeys(shard, file)
    (text_model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sizes = golden.facts["config"]
    config = {**sizes["t5"], "vocab_size": sizes["t5_vocab"], "model_type": "t5", "architectures": ["T5"]}
    (text_model / "config.json").write_text(json.dumps(config))

    golden.config().save_pretrained(folder / "lion")
    fields = {
        "checkpoint": folder / "LION.pth",
        "vision": folder / "eva_vit_g.pth",
        "text_model": text_model,
        "qformer_tokenizer": FIXTURES / "tokenizers" / "bert",
        "config": folder / "lion" / "config.json",
    }
    return OfficialFiles(**{**fields, **kwargs})


def write_official_ram(folder: Path) -> Path:
    """The golden tagger as a file of `torch.save`, and its lists under `ram/data`."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = load_file(GOLDEN_RAM / "expected.safetensors")
    model = load_file(GOLDEN_RAM / "official_state_dict.safetensors")
    model["text_decoder.cls.bias"] = torch.zeros(3)
    torch.save({"model": model, "epoch": 1}, folder / "ram.pth")
    lists = folder / "ram" / "data"
    lists.mkdir(parents=True)
    shutil.copyfile(GOLDEN_RAM / "tags.txt", lists / "ram_tag_list.txt")
    shutil.copyfile(GOLDEN_RAM / "tags_zh.txt", lists / "ram_tag_list_chinese.txt")
    thresholds = "\n".join(str(value) for value in expected["class_threshold"].tolist())
    (lists / "ram_tag_list_threshold.txt").write_text(thresholds)
    return folder / "ram.pth"


def change(path: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) take out tensors of a file of `torch.save`; a dot is written `__`."""
    content = torch.load(path, weights_only=True)
    tensors = content.get("model", content)
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    torch.save(content, path)
