"""Configuration of the RAM image tagger ("Recognize Anything", arXiv 2306.03514) that supplies LION's tags."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import PretrainedConfig, SwinConfig

from .validation_lion import (
    ACTIVATION,
    DROPOUT,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_INTEGER,
    PROBABILITY,
    SWIN_FIELDS,
    check_fields,
    make_config,
)


DEFAULT_THRESHOLD = 0.68

# Swin-L/4 at 384 pixels, the image encoder of `ram_swin_large_14m.pth`.
_SWIN_LARGE: dict[str, Any] = {
    "image_size": 384,
    "patch_size": 4,
    "embed_dim": 192,
    "depths": [2, 2, 18, 2],
    "num_heads": [6, 12, 24, 48],
    "window_size": 12,
}

_PRESETS: dict[str, dict[str, Any]] = {
    "swin-large": {"vision_config": _SWIN_LARGE},
    "nano": {
        "vision_config": {
            "image_size": 96,
            "patch_size": 4,
            "embed_dim": 32,
            "depths": [2, 2, 2],
            "num_heads": [1, 2, 4],
            "window_size": 6,
        },
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "projection_dim": 64,
        "num_tags": 32,
    },
}


_MOST_TAGS = 1_000_000

_FIELDS = {
    **dict.fromkeys(
        [
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "projection_dim",
        ],
        POSITIVE_INTEGER,
    ),
    # A list of thresholds is made of this size: without a bound, a typing error would take all memory.
    "num_tags": (
        lambda value: POSITIVE_INTEGER[0](value) and value <= _MOST_TAGS,
        f"an integer from 1 to {_MOST_TAGS:,}",
    ),
    "hidden_act": ACTIVATION,
    "hidden_dropout_prob": DROPOUT,
    "attention_probs_dropout_prob": DROPOUT,
    "layer_norm_eps": POSITIVE,
    "loss_gamma_neg": NOT_NEGATIVE,
    "loss_gamma_pos": NOT_NEGATIVE,
    "loss_clip": DROPOUT,
    "initializer_range": NOT_NEGATIVE,
}


class RamConfig(PretrainedConfig):
    """
    Sizes, tag lists and loss settings of [`RamForImageTagging`]. The defaults are those of the released RAM Swin-L.

    Args:
        vision_config (`SwinConfig` or `dict`, *optional*): the image encoder; by default the released Swin-L/4.
        hidden_size (`int`): width of the tagging head; divisible by `num_attention_heads`.
        num_hidden_layers (`int`): layers (cross-attention and FFN, no self-attention) of the tagging head.
        num_attention_heads (`int`): attention heads of the tagging head.
        intermediate_size (`int`): FFN width of the tagging head.
        hidden_act (`str`): FFN activation of the tagging head.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`): dropout in the tagging head.
        layer_norm_eps (`float`): epsilon of the tagging head's layer norms.
        projection_dim (`int`): width shared by projected image features and label embeddings.
        num_tags (`int`, *optional*): number of tags; taken from `tags` when these are given, else 4585 as released.
        tags (`list[str]`, *optional*): English tags in the order of the label embeddings.
        tags_zh (`list[str]`, *optional*): Chinese tags in the same order. Lines of the official list are kept as they
            are, trailing spaces included, so that tags equal the official ones; `str.strip` them to display.
        thresholds (`list[float]` or `float`, *optional*): per tag, the probability above which it is reported. One
            number serves all tags; the default is the official 0.68.
        loss_gamma_neg, loss_gamma_pos, loss_clip (`float`): focusing exponents and probability margin of the asymmetric
            loss (arXiv 2009.14119).
        initializer_range (`float`): standard deviation of newly initialised linear layers.

    Raises:
        ValueError: an argument does not fit the others; the message names it.
    """

    model_type = "lion_ram"
    sub_configs: ClassVar[dict[str, type[PretrainedConfig]]] = {"vision_config": SwinConfig}

    def __init__(
        self,
        vision_config: SwinConfig | dict[str, Any] | None = None,
        hidden_size: int = 768,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        layer_norm_eps: float = 1e-12,
        projection_dim: int = 512,
        num_tags: int | None = None,
        tags: list[str] | None = None,
        tags_zh: list[str] | None = None,
        thresholds: list[float] | float | None = None,
        loss_gamma_neg: float = 7.0,
        loss_gamma_pos: float = 0.0,
        loss_clip: float = 0.05,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _as_swin_config(vision_config)
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.layer_norm_eps = layer_norm_eps
        self.projection_dim = projection_dim
        self.tags = _as_tag_list("tags", tags)
        self.tags_zh = _as_tag_list("tags_zh", tags_zh)
        if num_tags is not None:
            check_fields("", {"num_tags": num_tags}, _FIELDS)
        else:
            num_tags = 4585 if self.tags is None else len(self.tags)
        self.num_tags = num_tags
        self.thresholds = _as_thresholds(thresholds, num_tags)
        self.loss_gamma_neg = loss_gamma_neg
        self.loss_gamma_pos = loss_gamma_pos
        self.loss_clip = loss_clip
        self.initializer_range = initializer_range
        self._validate()
        super().__init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> RamConfig:
        """
        A configuration of known sizes: `"swin-large"` (as released) or `"nano"`.

        `overrides` replace fields of the preset; a `vision_config` dictionary replaces only the fields it names. Tag
        lists are no part of a preset: pass `tags` (and `tags_zh`, `thresholds`), or `num_tags` alone for a model
        without names.

        Raises:
            ValueError: unknown preset, or an override that does not fit.
        """
        if name not in _PRESETS:
            raise ValueError(f"unknown RAM preset {name!r}; expected one of {sorted(_PRESETS)}")
        fields = copy.deepcopy(_PRESETS[name])
        if overrides.get("tags") is not None:
            fields.pop("num_tags", None)
        if isinstance(overrides.get("vision_config"), dict):
            overrides = {**overrides, "vision_config": {**fields["vision_config"], **overrides["vision_config"]}}
        return cls(**{**fields, **overrides})

    def _validate(self) -> None:
        check_fields("", self, _FIELDS)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size})"
            )
        for name in ("tags", "tags_zh", "thresholds"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_tags:
                raise ValueError(f"{name} must have one entry per tag: got {len(values)} for num_tags={self.num_tags}")
        _validate_swin(self.vision_config)


def _as_swin_config(value: SwinConfig | dict[str, Any] | None) -> SwinConfig:
    if value is None:
        return SwinConfig(**copy.deepcopy(_SWIN_LARGE))
    if isinstance(value, SwinConfig):
        check_fields("vision_config", value, SWIN_FIELDS)
        return value
    if isinstance(value, dict):
        model_type = value.get("model_type", "swin")
        if model_type != "swin":
            raise ValueError(f"vision_config must be of model_type 'swin', got {model_type!r:.100}")
        return make_config("vision_config", SwinConfig, value, SWIN_FIELDS)
    raise ValueError(f"vision_config must be a SwinConfig, a dict or None, got {type(value).__name__}")


def _as_tag_list(name: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(tag, str) for tag in value):
        raise ValueError(f"{name} must be a list of strings, one per tag")
    return list(value)


def _as_thresholds(value: Any, num_tags: int) -> list[float]:
    if value is None:
        value = DEFAULT_THRESHOLD
    accepts, words = PROBABILITY
    if accepts(value):
        return [float(value)] * num_tags
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError(f"thresholds must be {words}, or one for each tag, got {value!r:.100}")
    thresholds = list(value)
    outside = [item for item in thresholds if not accepts(item)]
    if outside:
        raise ValueError(f"thresholds must be probabilities in [0, 1], got {outside[0]!r:.100}")
    return [float(item) for item in thresholds]


def _validate_swin(config: SwinConfig) -> None:
    if len(config.depths) != len(config.num_heads):
        raise ValueError(
            f"vision_config.num_heads must have one entry per stage, got {config.num_heads} for depths {config.depths}"
        )
    for stage, heads in enumerate(config.num_heads):
        width = config.embed_dim * 2**stage
        if width % heads:
            raise ValueError(
                f"vision_config.num_heads[{stage}] ({heads}) must divide the width of that stage ({width})"
            )
    sides = config.image_size if isinstance(config.image_size, (list, tuple)) else [config.image_size]
    patches = config.patch_size if isinstance(config.patch_size, (list, tuple)) else [config.patch_size]
    # SwinModel shrinks a window that exceeds the last stage's grid, but not that window's position bias.
    grid = min(sides) // max(patches)
    for _ in config.depths[1:]:
        grid = (grid + 1) // 2
    if grid < config.window_size:
        raise ValueError(
            f"vision_config.window_size ({config.window_size}) exceeds the last stage's grid of {grid} patches a side "
            f"at image_size {config.image_size}"
        )


__all__ = ["RamConfig"]


# Made by write_code, of all code in this folder: 9cdf55a297071b16ab2008c13ecc0769
