"""What a LION is: the sizes of its parts and the switches between its layouts."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig, T5Config
from transformers.configuration_utils import PretrainedConfig

from .validation_lion import (
    ACTIVATION,
    DROPOUT,
    INDEX,
    POSITIVE,
    POSITIVE_INTEGER,
    QFORMER_FIELDS,
    TEXT_FIELDS,
    VISION_FIELDS,
    check_fields,
    check_names,
    list_of,
    make_config,
    optional,
)


# The order is the level's index and the adapter's index in the official code: 0 = region level, 1 = image level.
LEVELS = ("region_level", "image_level")
TASKS = LEVELS
"""The former name of `LEVELS`."""
VISUAL_BRANCHES = ("qformer", "aggregator")
BRANCH_OF_ADAPTER = {"image_level": "qformer", "region_level": "aggregator"}
SHARED_ADAPTER = "shared"

_RELEASED_DEPTH, _RELEASED_CONTEXT_LAYERS = 39, (28, 18)


def _check_heads(owner: str, hidden_size: int, num_attention_heads: int) -> None:
    if hidden_size % num_attention_heads:
        raise ValueError(
            f"`{owner}.num_attention_heads` ({num_attention_heads}) must divide the hidden size ({hidden_size})."
        )


class LionVisionAggregatorConfig(PretrainedConfig):
    r"""
    Sizes of the vision aggregator (paper section 3.2; its width is that of the vision tower).

    Args:
        num_attention_heads (`int`, *optional*, defaults to 16): Heads of each attention.
        intermediate_size (`int`, *optional*, defaults to 3072): Width of the feed-forward layers.
        query_layer (`int`, *optional*):
            0-based vision block whose output is refined. Defaults to the last block.
        context_layers (`list[int]`, *optional*):
            0-based vision blocks that aggregator layers 0, 1, ... cross-attend to; their number is the aggregator's
            depth. Defaults to the released `[28, 18]` of 39, scaled to the tower's depth.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of the feed-forward layers.
        dropout (`float`, *optional*, defaults to 0.1): Dropout after attention weights and dense outputs.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12): Epsilon inside the aggregator.
        output_layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the norm behind it (`ln_adapter`).
    """

    model_type = "lion_vision_aggregator"
    base_config_key = "aggregator_config"

    def __init__(
        self,
        num_attention_heads: int = 16,
        intermediate_size: int = 3072,
        query_layer: int | None = None,
        context_layers: Sequence[int] | None = None,
        hidden_act: str = "gelu",
        dropout: float = 0.1,
        layer_norm_eps: float = 1e-12,
        output_layer_norm_eps: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.query_layer = query_layer
        self.context_layers = list(context_layers) if isinstance(context_layers, (list, tuple)) else context_layers
        self.hidden_act = hidden_act
        self.dropout = dropout
        self.layer_norm_eps = layer_norm_eps
        self.output_layer_norm_eps = output_layer_norm_eps
        check_fields(self.base_config_key, self, _AGGREGATOR_FIELDS)

    def fit_to_tower(self, num_vision_layers: int, hidden_size: int) -> None:
        """Fill in the layer indices for a tower of `num_vision_layers` blocks; `ValueError` where they don't fit."""
        last = num_vision_layers - 1
        if self.query_layer is None:
            self.query_layer = last
        if self.context_layers is None:
            self.context_layers = [round(i * last / (_RELEASED_DEPTH - 1)) for i in _RELEASED_CONTEXT_LAYERS]
        check_fields(self.base_config_key, self, _AGGREGATOR_FIELDS)
        for name, index in [("query_layer", self.query_layer), *(("context_layers", i) for i in self.context_layers)]:
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= last:
                raise ValueError(
                    f"`aggregator_config.{name}` holds {index!r}, but the vision tower has blocks 0 to {last}."
                )
        _check_heads("aggregator_config", hidden_size, self.num_attention_heads)


_AGGREGATOR_FIELDS = {
    "num_attention_heads": POSITIVE_INTEGER,
    "intermediate_size": POSITIVE_INTEGER,
    "query_layer": optional(INDEX),
    "context_layers": optional(list_of(INDEX)),
    "hidden_act": ACTIVATION,
    "dropout": DROPOUT,
    "layer_norm_eps": POSITIVE,
    "output_layer_norm_eps": POSITIVE,
}


class LionMixtureOfAdaptersConfig(PretrainedConfig):
    r"""
    The adapters beside every feed-forward sub-layer of the LLM (paper section 3.3).

    Args:
        bottleneck_size (`int`, *optional*, defaults to 64): Width of each adapter's hidden layer.
        adapters (`list[str]`, *optional*, defaults to `["region_level", "image_level"]`):
            Adapters in their official order. `["region_level", "image_level"]` is the routed mixture; a single name is
            one adapter without a router, `"shared"` one that belongs to no level; `[]` is the bare LLM.
    """

    model_type = "lion_mixture_of_adapters"
    base_config_key = "adapter_config"

    def __init__(self, bottleneck_size: int = 64, adapters: Sequence[str] = LEVELS, **kwargs: Any):
        super().__init__(**kwargs)
        self.bottleneck_size = bottleneck_size
        self.adapters = check_names("adapter_config.adapters", adapters, [*LEVELS, SHARED_ADAPTER])
        check_fields(self.base_config_key, self, {"bottleneck_size": POSITIVE_INTEGER})

    def fit_to_branches(self, visual_branches: Sequence[str]) -> None:
        """Raise `ValueError` unless the adapters exist, stand in order and have their visual branch."""
        check_fields(self.base_config_key, self, {"bottleneck_size": POSITIVE_INTEGER})
        possible = [[], [SHARED_ADAPTER], *([level] for level in LEVELS), list(LEVELS)]
        if self.adapters not in possible:
            raise ValueError(f"`adapter_config.adapters` must be one of {possible}, got {self.adapters}.")
        for adapter in self.adapters:
            branch = BRANCH_OF_ADAPTER.get(adapter)
            if branch is not None and branch not in visual_branches:
                raise ValueError(
                    f"`adapter_config.adapters` holds {adapter!r}, which needs the visual branch {branch!r}, but "
                    f"`visual_branches` is {list(visual_branches)}."
                )


class LionConfig(PretrainedConfig):
    r"""
    Configuration of [`LionForConditionalGeneration`]. The defaults are the released LION-4B (FlanT5-XL).

    Args:
        vision_config (`dict` or `InstructBlipVisionConfig`, *optional*): The vision tower (EVA-CLIP ViT-g/14).
        qformer_config (`dict` or `InstructBlipQFormerConfig`, *optional*):
            The Q-Former. `encoder_hidden_size` is set to the tower's width.
        text_config (`dict` or `T5Config`, *optional*):
            The LLM. Unless it says otherwise, its feed-forward layers use the exact GELU (`dense_act_fn="gelu"`), as
            the official code does, whatever `feed_forward_proj="gated-gelu"` means elsewhere.
        aggregator_config (`dict` or [`LionVisionAggregatorConfig`], *optional*): The vision aggregator.
        adapter_config (`dict` or [`LionMixtureOfAdaptersConfig`], *optional*):
            The mixture of adapters. Defaults to one adapter per visual branch.
        num_query_tokens (`int`, *optional*, defaults to 32): Learned queries of the Q-Former.
        visual_branches (`list[str]`, *optional*, defaults to `["qformer", "aggregator"]`):
            Which visual tokens the model can make: those of both branches, or of one.
        active_branches (`list[str]`, *optional*):
            Those of them that stand before the text, where a model with both was trained to see one (as training stages
            1 and 2 do). Defaults to all of `visual_branches`.
        qformer_input_layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the norm between tower and Q-Former (`ln_vision`); the tower's own blocks use
            `vision_config.layer_norm_eps`.

    Raises:
        ValueError: a branch, layer index, adapter list or head count that does not fit; it names the field.

    Example:

    ```python
    >>> from configuration_lion import LionConfig

    >>> config = LionConfig.from_preset("nano")
    >>> config.visual_branches
    ['qformer', 'aggregator']
    ```
    """

    model_type = "lion"
    sub_configs = {
        "vision_config": InstructBlipVisionConfig,
        "qformer_config": InstructBlipQFormerConfig,
        "text_config": T5Config,
        "aggregator_config": LionVisionAggregatorConfig,
        "adapter_config": LionMixtureOfAdaptersConfig,
    }

    def __init__(
        self,
        vision_config: dict | InstructBlipVisionConfig | None = None,
        qformer_config: dict | InstructBlipQFormerConfig | None = None,
        text_config: dict | T5Config | None = None,
        aggregator_config: dict | LionVisionAggregatorConfig | None = None,
        adapter_config: dict | LionMixtureOfAdaptersConfig | None = None,
        num_query_tokens: int = 32,
        visual_branches: Sequence[str] = VISUAL_BRANCHES,
        qformer_input_layer_norm_eps: float = 1e-5,
        active_branches: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        self.active_branches = None if active_branches is None else list(active_branches)
        self.num_query_tokens = num_query_tokens
        self.visual_branches = check_names("visual_branches", visual_branches, VISUAL_BRANCHES)
        self.qformer_input_layer_norm_eps = qformer_input_layer_norm_eps
        if adapter_config is None:
            adapter_config = {
                "adapters": [level for level in LEVELS if BRANCH_OF_ADAPTER[level] in self.visual_branches]
            }

        # The tower's own default range of 1e-10 would leave a fresh model blind.
        self.vision_config = self._sub_config("vision_config", vision_config, {"initializer_range": 0.02})
        self.qformer_config = self._sub_config("qformer_config", qformer_config, {"vocab_size": 30523})
        self.text_config = self._text_config(text_config)
        self.aggregator_config = self._sub_config("aggregator_config", aggregator_config)
        self.adapter_config = self._sub_config("adapter_config", adapter_config)

        # The token ids of the answer are the LLM's.
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            kwargs[name] = getattr(self.text_config, name)
        kwargs["is_encoder_decoder"] = True
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)
        self._validate()

    def _sub_config(self, name: str, value: Any, defaults: dict | None = None) -> PretrainedConfig:
        sub_class = self.sub_configs[name]
        if value is None:
            value = {}
        if isinstance(value, dict):
            return make_config(name, sub_class, {**(defaults or {}), **value}, _FIELDS.get(name, {}))
        # By name: remote code may bring its own copy of LION's classes.
        if getattr(value, "model_type", None) != sub_class.model_type:
            raise ValueError(f"`{name}` must be a dict or a {sub_class.__name__}, got {type(value).__name__}.")
        check_fields(name, value, _FIELDS.get(name, {}))
        return value

    def _text_config(self, value: Any) -> T5Config:
        if isinstance(value, dict) or value is None:
            value = {**_FLAN_T5_XL, **(value or {})}
            config = make_config("text_config", T5Config, value, TEXT_FIELDS)
            # T5Config reads "gated-gelu" as the tanh approximation and forgets what the dict said.
            config.dense_act_fn = value["dense_act_fn"]
            # In transformers 5.0 it also forgets that embeddings are not tied, and the model would scale its outputs.
            untied = False in (value.get("tie_word_embeddings"), value.get("scale_decoder_outputs"))
            if untied and hasattr(config, "scale_decoder_outputs"):
                config.scale_decoder_outputs = False
        else:
            config = self._sub_config("text_config", value)
        if getattr(config, "decoder_start_token_id", None) is None:  # transformers 5's may lack it
            config.decoder_start_token_id = config.pad_token_id
        return config

    def _validate(self) -> None:
        check_fields("", self, {"num_query_tokens": POSITIVE_INTEGER, "qformer_input_layer_norm_eps": POSITIVE})
        branches = self.visual_branches
        if not branches or branches != [branch for branch in VISUAL_BRANCHES if branch in branches]:
            raise ValueError(
                f"`visual_branches` must hold one or both of {list(VISUAL_BRANCHES)}, in that order, got "
                f"{branches!r:.100}."
            )
        active = self.active_branches
        if active is not None and (not active or active != [branch for branch in branches if branch in active]):
            raise ValueError(
                f"`active_branches` must be None or hold some of `visual_branches` {branches}, in that order, got "
                f"{active!r:.100}."
            )
        vision, qformer = self.vision_config, self.qformer_config
        if vision.image_size % vision.patch_size:
            raise ValueError(
                f"`vision_config.patch_size` ({vision.patch_size}) must divide `image_size` ({vision.image_size})."
            )
        _check_heads("vision_config", vision.hidden_size, vision.num_attention_heads)
        if "qformer" in branches:
            _check_heads("qformer_config", qformer.hidden_size, qformer.num_attention_heads)
            qformer.encoder_hidden_size = vision.hidden_size
        if "aggregator" in branches:
            self.aggregator_config.fit_to_tower(vision.num_hidden_layers, vision.hidden_size)
        self.adapter_config.fit_to_branches(branches)

    @property
    def num_image_tokens(self) -> int:
        """Visual tokens that stand before the text in the LLM's encoder."""
        patches = (self.vision_config.image_size // self.vision_config.patch_size) ** 2 + 1
        lengths = {"qformer": self.num_query_tokens, "aggregator": patches}
        return sum(lengths[branch] for branch in self.active_branches or self.visual_branches)

    @classmethod
    def from_preset(cls, name: str, **kwargs: Any) -> "LionConfig":
        """
        A configuration by name: `"flan-t5-xl"` (LION-4B), `"flan-t5-xxl"` (LION-12B) or `"nano"` (the checkpoint in
        this package). `kwargs` replace top-level fields.
        """
        if name not in _PRESETS:
            raise ValueError(f"`name` must be one of {sorted(_PRESETS)}, got {name!r:.100}.")
        return cls(**{**copy.deepcopy(_PRESETS[name]), **kwargs})

    def to_dict(self) -> dict[str, Any]:
        """Serialise; the tying of the LLM's embeddings is written so that both transformers 4 and 5 read it right."""
        output = super().to_dict()
        # transformers 5 keeps "untied" only as `scale_decoder_outputs=False`; transformers 4 knows only the other name.
        if output["text_config"].get("scale_decoder_outputs") is False:
            output["text_config"]["tie_word_embeddings"] = False
        return output


_FLAN_T5_XL = {
    "vocab_size": 32128,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}

_FIELDS = {"vision_config": VISION_FIELDS, "qformer_config": QFORMER_FIELDS, "text_config": TEXT_FIELDS}

_PRESETS: dict[str, dict] = {
    "flan-t5-xl": {},
    "flan-t5-xxl": {"text_config": {"d_model": 4096, "d_ff": 10240, "num_heads": 64}},
    "nano": {
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 16,
        },
        "qformer_config": {
            "vocab_size": 627,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": 256,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "text_config": {
            "vocab_size": 697,
            "d_model": 128,
            "d_kv": 32,
            "d_ff": 256,
            "num_layers": 4,
            "num_decoder_layers": 3,
            "num_heads": 4,
            "dropout_rate": 0.0,
        },
        "aggregator_config": {
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "query_layer": 5,
            "context_layers": [3, 1],
            "dropout": 0.0,
        },
        "adapter_config": {"bottleneck_size": 16},
        "num_query_tokens": 8,
    },
}


# Made by write_code, of all code in this folder: 77c01f17e32be7205432abbca9c46085
