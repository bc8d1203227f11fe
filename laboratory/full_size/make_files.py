"""
Write files of the released LION with random weights, by one seed.

They have the official names, shapes, types and layout, and are for trying whether full size works, not for answers:

- `LION-FlanT5-XL.pth`: the learnt parts in float32 under `"model"`, with the copies of T5's embeddings in bfloat16 and
  the position ids in int64 that the official training leaves there, beside the optimiser's state. The released file has
  these three types and this size; that the optimiser is what fills it is a guess (learnt parts and AdamW's two moments
  of them come to 3.5 GB).
- `eva_vit_g.pth`: 40 blocks and a head in float16, where LION uses 39 blocks.
- `flan-t5-xl/`: float32 in two shards, configuration and tokenizer.
- `bert-base-uncased/`: configuration and tokenizer.
- `ram_swin_large_14m.pth`: RAM in float32 under `"model"`, with parts for captions that LION does not use, and
  `ram/data` with its lists.

The tokenizers are the small ones of the tests, filled up to the released number of tokens.
"""

import argparse
import hashlib
import json
import logging
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from sentencepiece import sentencepiece_model_pb2

from configuration_lion import LionConfig, RamConfig
from lion_multimodal.conversion.checkpoint import expected_shapes
from lion_multimodal.conversion.files import TensorInfo, write_safetensors
from lion_multimodal.conversion.layout import TAG_FILES
from lion_multimodal.conversion.names import to_official_names
from lion_multimodal.conversion.ram import to_official_ram
from modeling_lion.modeling_ram import RamForImageTagging


logger = logging.getLogger(__name__)

TOKENIZERS = Path(__file__).parents[2] / "tests" / "fixtures" / "tokenizers"
LLMS = {"flan-t5-xl": "LION-FlanT5-XL.pth", "flan-t5-xxl": "LION-FlanT5-XXL.pth"}

_T5_PIECES, _T5_SENTINELS = 32000, 100
_BERT_TOKENS = 30522
_SHARD_SIZE = 9_450_000_000
_NUM_CLASSES = 1000


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument("--llm", choices=sorted(LLMS), default="flan-t5-xl", help="which of the released ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", choices=["checkpoint", "vision", "text", "bert", "ram"], help="write only these"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = LionConfig.from_preset(args.llm)
    writers: dict[str, Callable[[], None]] = {
        "checkpoint": lambda: write_checkpoint(args.output / LLMS[args.llm], config, args.seed),
        "vision": lambda: write_vision(args.output / "eva_vit_g.pth", config, args.seed + 1),
        "text": lambda: write_text_model(args.output / args.llm, config, args.seed + 2),
        "bert": lambda: write_bert(args.output / "bert-base-uncased", config),
        "ram": lambda: write_ram(args.output, RamConfig(), args.seed + 3),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for name, write in writers.items():
        if not args.only or name in args.only:
            write()
            logger.info("Wrote %s.", name)


def official_shapes(config: LionConfig) -> dict[str, torch.Size]:
    """All of LION, in official names, without tied copies and buffers."""
    shapes = {}
    for name, shape in expected_shapes(config).items():
        for part, official_name in to_official_names(name, shape).items():
            # Three of equal size are joined in ours, or as many as there are adapters.
            whole = part == ""
            shapes[official_name] = (
                shape if whole else torch.Size([shape[0] // 3]) if part in "qv" else torch.Size(shape[1:])
            )
    return shapes


def random_tensor(name: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Weights that keep activations at their usual size: norms and scales near 1, everything else near 0."""
    parts = name.lower().split(".")
    owner = ".".join(parts[:-1])
    is_norm = owner.endswith(("norm", "norm1", "norm2")) or parts[0].startswith("ln_") or "_norm" in owner
    tensor = torch.empty(shape).normal_(std=0.02, generator=generator)
    if (is_norm and parts[-1] == "weight") or parts[-1] in ("scale", "router_ratio1", "router_ratio2"):
        tensor += 1
    return tensor.to(dtype)


def write_checkpoint(path: Path, config: LionConfig, seed: int) -> None:
    """The learnt parts, with what the official training leaves beside them."""
    generator = torch.Generator().manual_seed(seed)
    learnt = {
        name: shape
        for name, shape in official_shapes(config).items()
        if not name.startswith("visual_encoder.") and (not name.startswith("t5_model.") or ".adapter." in name)
    }
    model = OrderedDict((name, random_tensor(name, shape, torch.float32, generator)) for name, shape in learnt.items())
    model["Qformer.bert.embeddings.position_ids"] = torch.arange(
        config.qformer_config.max_position_embeddings
    ).unsqueeze(0)
    text_embeddings = torch.Size([config.text_config.vocab_size, config.text_config.d_model])
    embeddings = _text_tensor("shared.weight", text_embeddings, seed + 2).bfloat16()
    model["t5_model.encoder.embed_tokens.weight"] = model["t5_model.decoder.embed_tokens.weight"] = embeddings
    moments = {
        index: {
            "step": torch.tensor(100.0),
            "exp_avg": torch.empty(shape).normal_(std=1e-4, generator=generator),
            "exp_avg_sq": torch.empty(shape).normal_(std=1e-8, generator=generator).abs_(),
        }
        for index, shape in enumerate(learnt.values())
    }
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-5, "params": list(moments)}]}
    torch.save({"model": model, "optimizer": optimizer, "epoch": 0}, path)


def write_vision(path: Path, config: LionConfig, seed: int) -> None:
    """The public tower: one block more than LION uses, and a head."""
    generator = torch.Generator().manual_seed(seed)
    prefix = "visual_encoder."
    shapes = {name.removeprefix(prefix): s for name, s in official_shapes(config).items() if name.startswith(prefix)}
    depth = config.vision_config.num_hidden_layers
    last = f"blocks.{depth - 1}."
    shapes |= {name.replace(last, f"blocks.{depth}."): s for name, s in shapes.items() if name.startswith(last)}
    width = config.vision_config.hidden_size
    shapes |= {"norm.weight": torch.Size([width]), "norm.bias": torch.Size([width])}
    shapes |= {"head.weight": torch.Size([_NUM_CLASSES, width]), "head.bias": torch.Size([_NUM_CLASSES])}
    tower = OrderedDict((name, random_tensor(name, s, torch.float16, generator)) for name, s in shapes.items())
    torch.save(tower, path)


def _text_tensor(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """A tensor of the T5, the same for every file that holds it: each has a seed of its own."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    return random_tensor(name, shape, torch.float32, generator)


def write_text_model(directory: Path, config: LionConfig, seed: int) -> None:
    """T5 in float32, in shards, with configuration and tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    prefix = "t5_model."
    infos = {
        name.removeprefix(prefix): TensorInfo(shape, torch.float32)
        for name, shape in official_shapes(config).items()
        if name.startswith(prefix) and ".adapter." not in name
    }
    # The released index has shards of up to 9.45 GB.
    shards: list[dict[str, TensorInfo]] = [{}]
    for name, info in infos.items():
        if sum(other.num_bytes for other in shards[-1].values()) + info.num_bytes > _SHARD_SIZE:
            shards.append({})
        shards[-1][name] = info
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(directory / file, shard, lambda name: _text_tensor(name, infos[name].shape, seed))
        weight_map |= dict.fromkeys(shard, file)
    total = sum(info.num_bytes for info in infos.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    text = config.text_config
    fields = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")
    released = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-06,
        "dropout_rate": 0.1,
        "n_positions": 512,
        **{field: getattr(text, field) for field in fields},
    }
    (directory / "config.json").write_text(json.dumps(released, indent=2))
    write_t5_tokenizer(directory)


def write_t5_tokenizer(directory: Path) -> None:
    """32,000 pieces and 100 sentinels, as T5 has them; the pieces that the tests' one lacks are never used."""
    source = TOKENIZERS / "t5"
    proto = sentencepiece_model_pb2.ModelProto.FromString((source / "spiece.model").read_bytes())
    known = len(proto.pieces)
    for number in range(known, _T5_PIECES):
        proto.pieces.add(piece=f"\ue000{number}", score=-100.0, type=1)
    (directory / "spiece.model").write_bytes(proto.SerializeToString())

    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = tokenizer["model"]["vocab"][:known]
    assert all(piece == p.piece for (piece, _), p in zip(pieces, proto.pieces))
    filled = [[f"\ue000{number}", -100.0] for number in range(known, _T5_PIECES)]
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(_T5_SENTINELS))]
    tokenizer["model"]["vocab"] = [*pieces, *filled, *([name, 0.0] for name in sentinels)]
    ids = {name: _T5_PIECES + position for position, name in enumerate(sentinels)}
    for token in tokenizer["added_tokens"]:
        token["id"] = ids.get(token["content"], token["id"])
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")

    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["added_tokens_decoder"] = {
        str(ids.get(token["content"], number)): token for number, token in settings["added_tokens_decoder"].items()
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    shutil.copyfile(source / "special_tokens_map.json", directory / "special_tokens_map.json")


def write_bert(directory: Path, config: LionConfig) -> None:
    """Tokenizer and configuration of BERT; the Q-Former's weights are in the checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    source = TOKENIZERS / "bert"
    tokens = (source / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokens += [f"[unused{number}]" for number in range(len(tokens), _BERT_TOKENS)]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(source / file, directory / file)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    fields = {size: getattr(config.qformer_config, size) for size in sizes}
    fields |= {"model_type": "bert", "vocab_size": _BERT_TOKENS}
    (directory / "config.json").write_text(json.dumps(fields, indent=2))


def write_ram(folder: Path, config: RamConfig, seed: int) -> None:
    """RAM with its constants, the caption model that is trained with it, and its lists."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = RamForImageTagging(config)
    shapes = {name: tensor.shape for name, tensor in to_official_ram(model).items()}
    width = config.hidden_size
    for layer in range(2):
        shapes |= _bert_layer(f"tag_encoder.encoder.layer.{layer}", width, config.projection_dim)
        shapes |= _bert_layer(f"tagging_head.encoder.layer.{layer}", width, None)
    for layer in range(12):
        shapes |= _bert_layer(f"text_decoder.bert.encoder.layer.{layer}", width, width)
    shapes["text_decoder.bert.embeddings.word_embeddings.weight"] = torch.Size([_BERT_TOKENS + 2, width])
    ram = OrderedDict((name, random_tensor(name, shape, torch.float32, generator)) for name, shape in shapes.items())
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    window = vision.window_size**2
    for stage, depth in enumerate(vision.depths):
        for block in range(depth):
            attention = f"visual_encoder.layers.{stage}.blocks.{block}"
            ram[f"{attention}.attn.relative_position_index"] = torch.zeros(window, window, dtype=torch.int64)
            if block % 2 and side > vision.window_size:
                ram[f"{attention}.attn_mask"] = torch.zeros((side // vision.window_size) ** 2, window, window)
        side //= 2
    torch.save({"model": ram, "epoch": 0}, folder / "ram_swin_large_14m.pth")
    lists = folder / "ram" / "data"
    lists.mkdir(parents=True, exist_ok=True)
    entries: Mapping[str, Callable[[int], str]] = {
        "tags": lambda number: f"tag {number}",
        "tags_zh": lambda number: f"标签{number} ",
        "thresholds": lambda number: str(0.65 if number % 5 else 0.8),
    }
    for field, entry in entries.items():
        text = "\n".join(entry(number) for number in range(config.num_tags)) + "\n"
        (lists / TAG_FILES[field]).write_text(text, encoding="utf-8")


def _bert_layer(prefix: str, width: int, context_width: int | None) -> dict[str, torch.Size]:
    """Self-attention of a BERT layer, and with `context_width` also its cross-attention and feed-forward layer."""
    linear = {"attention.self.query": (width, width), "attention.self.key": (width, width)}
    linear |= {"attention.self.value": (width, width), "attention.output.dense": (width, width)}
    norms = ["attention.output.LayerNorm"]
    if context_width is not None:
        linear |= {"crossattention.self.query": (width, width), "crossattention.output.dense": (width, width)}
        linear |= {f"crossattention.self.{part}": (width, context_width) for part in ("key", "value")}
        linear |= {"intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}
        norms += ["crossattention.output.LayerNorm", "output.LayerNorm"]
    shapes = {}
    for name, shape in linear.items():
        shapes |= {f"{prefix}.{name}.weight": torch.Size(shape), f"{prefix}.{name}.bias": torch.Size(shape[:1])}
    for name in norms:
        shapes |= {f"{prefix}.{name}.weight": torch.Size([width]), f"{prefix}.{name}.bias": torch.Size([width])}
    return shapes


if __name__ == "__main__":
    main()
