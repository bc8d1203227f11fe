"""Checks of what a configuration's fields hold, with errors that name the field."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers.activations import ACT2FN


# A check is what is asked of a value, and in which words. These are not written as fields of a strict dataclass of
# huggingface_hub, since transformers 4's configurations are no dataclasses, and its errors are of several lines.
Check = tuple[Callable[[Any], bool], str]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def optional(check: Check) -> Check:
    """None, or what `check` asks for."""
    accepts, words = check
    return lambda value: value is None or accepts(value), f"{words}, or None"


def list_of(check: Check) -> Check:
    """A list, not empty, each item of which is what `check` asks for."""
    accepts, words = check

    def accepts_all(values: Any) -> bool:
        return isinstance(values, (list, tuple)) and len(values) > 0 and all(map(accepts, values))

    return accepts_all, f"a list, each item {words}"


def either(first: Check, second: Check) -> Check:
    """What one of two checks asks for."""
    return lambda value: first[0](value) or second[0](value), f"{first[1]} or {second[1]}"


POSITIVE_INTEGER: Check = (lambda value: _is_integer(value) and value > 0, "a positive integer")
INDEX: Check = (lambda value: _is_integer(value) and value >= 0, "an integer that is not negative")
POSITIVE: Check = (lambda value: _is_number(value) and value > 0, "a positive number")
NOT_NEGATIVE: Check = (lambda value: _is_number(value) and value >= 0, "a number that is not negative")
PROBABILITY: Check = (lambda value: _is_number(value) and 0 <= value <= 1, "a number in [0, 1]")
DROPOUT: Check = (lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)")
ACTIVATION: Check = (lambda value: isinstance(value, str) and value in ACT2FN, "the name of an activation function")
SWITCH: Check = (lambda value: isinstance(value, bool), "True or False")


def check_fields(owner: str, config: Any, checks: Mapping[str, Check]) -> None:
    """
    Checks the fields of a configuration, or of a dict that one is made of, so far as it has them.

    Args:
        owner (`str`): What the configuration is called, such as `"text_config"`; empty for the outermost one.
        config (`PretrainedConfig` or `dict`): The configuration.
        checks (`dict`): What is asked of each field.

    Raises:
        ValueError: A field holds something else; names it.
    """
    for name, (accepts, words) in checks.items():
        fields = config if isinstance(config, Mapping) else vars(config)
        if name not in fields:
            continue
        value = fields[name]
        if not accepts(value):
            field = f"{owner}.{name}" if owner else name
            raise ValueError(f"`{field}` must be {words}, got {value!r:.100}.")


def check_names(field: str, values: Any, allowed: Sequence[str]) -> list[str]:
    """A list of names, such as branches or adapters; `ValueError` where it is none or one is unknown."""
    if isinstance(values, str) or not isinstance(values, (list, tuple)):
        raise ValueError(f"`{field}` must be a list of names out of {list(allowed)}, got {values!r:.100}.")
    for value in values:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"`{field}` must hold names out of {list(allowed)}, got {value!r:.100}.")
    return list(values)


def make_config(field: str, config_class: type, values: Mapping[str, Any], checks: Mapping[str, Check]) -> Any:
    """
    A configuration of transformers' from a dict.

    Raises:
        ValueError: A value does not fit; names the field. transformers 4 takes any, and 5 has errors of several lines.
    """
    check_fields(field, values, checks)
    try:
        config = config_class(**values)
    except Exception as error:  # huggingface_hub's validation errors are of no common type on all versions
        raise ValueError(f"`{field}` is no {config_class.__name__}: {' '.join(str(error).split())}") from error
    check_fields(field, config, checks)
    return config


VISION_FIELDS = {
    **dict.fromkeys(
        ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"],
        POSITIVE_INTEGER,
    ),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": POSITIVE,
    "attention_dropout": DROPOUT,
    "initializer_range": NOT_NEGATIVE,
    "qkv_bias": SWITCH,
}
QFORMER_FIELDS = {
    **dict.fromkeys(
        [
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "cross_attention_frequency",
        ],
        POSITIVE_INTEGER,
    ),
    "hidden_act": ACTIVATION,
    "hidden_dropout_prob": DROPOUT,
    "attention_probs_dropout_prob": DROPOUT,
    "initializer_range": NOT_NEGATIVE,
    "layer_norm_eps": POSITIVE,
}
TEXT_FIELDS = {
    **dict.fromkeys(
        [
            "vocab_size",
            "d_model",
            "d_kv",
            "d_ff",
            "num_layers",
            "num_heads",
            "relative_attention_num_buckets",
            "relative_attention_max_distance",
        ],
        POSITIVE_INTEGER,
    ),
    "num_decoder_layers": optional(POSITIVE_INTEGER),
    "dropout_rate": DROPOUT,
    "layer_norm_epsilon": POSITIVE,
    "initializer_factor": NOT_NEGATIVE,
    "dense_act_fn": ACTIVATION,
    "pad_token_id": optional(INDEX),
    "decoder_start_token_id": optional(INDEX),
    "eos_token_id": optional(either(INDEX, list_of(INDEX))),
}
_ONE_OR_TWO = either(POSITIVE_INTEGER, list_of(POSITIVE_INTEGER))
SWIN_FIELDS = {
    "image_size": _ONE_OR_TWO,
    "patch_size": _ONE_OR_TWO,
    "num_channels": POSITIVE_INTEGER,
    "embed_dim": POSITIVE_INTEGER,
    "depths": list_of(POSITIVE_INTEGER),
    "num_heads": list_of(POSITIVE_INTEGER),
    "window_size": POSITIVE_INTEGER,
    "mlp_ratio": POSITIVE,
    "hidden_dropout_prob": DROPOUT,
    "attention_probs_dropout_prob": DROPOUT,
    "drop_path_rate": DROPOUT,
    "hidden_act": ACTIVATION,
    "layer_norm_eps": POSITIVE,
    "initializer_range": NOT_NEGATIVE,
}
