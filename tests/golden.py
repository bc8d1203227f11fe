"""The golden examples of the official code (`tests/fixtures/golden/README.md`) as configs, inputs and expectations."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from configuration_lion.configuration_lion import LEVELS, LionConfig


FIXTURES = Path(__file__).parent / "fixtures"
LAYOUTS = ("all", "qformer", "aggregator")
SOFT_PROMPT_TOKEN = 799

_BRANCHES = {"all": ["qformer", "aggregator"], "qformer": ["qformer"], "aggregator": ["aggregator"]}
_ADAPTERS = {"all": list(LEVELS), "qformer": ["image_level"], "aggregator": ["region_level"]}


@dataclass(frozen=True)
class Golden:
    """One golden folder."""

    layout: str
    facts: dict
    tensors: dict[str, torch.Tensor]
    official_state_dict: dict[str, torch.Tensor]

    def config(self, **kwargs) -> LionConfig:
        sizes = self.facts["config"]
        vit = sizes["vit"]
        fields = {
            "vision_config": {
                "hidden_size": vit["dim"],
                "num_attention_heads": vit["heads"],
                "num_hidden_layers": vit["depth"],
                "intermediate_size": int(vit["dim"] * vit["mlp_ratio"]),
                "image_size": vit["image_size"],
                "patch_size": vit["patch"],
            },
            "qformer_config": {**sizes["bert"], "vocab_size": sizes["bert_vocab"] + 1},
            "text_config": {**sizes["t5"], "vocab_size": sizes["t5_vocab"], "dense_act_fn": "gelu"},
            "aggregator_config": {"query_layer": vit["intermediate"][0], "context_layers": vit["intermediate"][1:]},
            "adapter_config": {"bottleneck_size": sizes["adapter_bottleneck"], "adapters": _ADAPTERS[self.layout]},
            "visual_branches": _BRANCHES[self.layout],
        }
        return LionConfig(**{**fields, **kwargs})

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model takes, without the level."""
        names = ("pixel_values", "input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask")
        inputs = {name: self.tensors[name] for name in names if name in self.tensors}
        inputs["soft_prompt_mask"] = (inputs["input_ids"] == SOFT_PROMPT_TOKEN).long()
        return inputs

    @property
    def labels(self) -> torch.Tensor:
        return self.tensors["labels"]


@cache
def load_golden(layout: str) -> Golden:
    folder = FIXTURES / "golden" / layout
    state_dict = load_file(folder / "official_state_dict.safetensors")
    return Golden(
        layout=layout,
        facts=json.loads((folder / "expected.json").read_text()),
        tensors=load_file(folder / "expected.safetensors"),
        official_state_dict={k: v.float() if v.is_floating_point() else v for k, v in state_dict.items()},
    )


def load_golden_model(layout: str, attn_implementation: str = "sdpa"):
    """The official weights in our model, in eval mode and float32."""
    from lion_multimodal.conversion.checkpoint import convert_lion_checkpoint
    from modeling_lion.modeling_lion import LionForConditionalGeneration

    golden = load_golden(layout)
    config = golden.config()
    model = LionForConditionalGeneration._from_config(config, attn_implementation=attn_implementation)
    model.load_state_dict(convert_lion_checkpoint(golden.official_state_dict, config))
    return model.eval()
