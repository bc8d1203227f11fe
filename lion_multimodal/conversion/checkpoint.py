"""
State dicts of the released LION checkpoints in the names of this package.

Official names are those of `LION-FlanT5-*.pth`; ours are transformers' own for every part that transformers has.
"""

from collections.abc import Mapping

import torch

from configuration_lion.configuration_lion import LionConfig
from lion_multimodal.conversion.names import is_not_needed, is_tied_copy, join, to_our_name
from lion_multimodal.conversion.ram import convert_ram_checkpoint
from modeling_lion.modeling_lion import LionForConditionalGeneration


__all__ = ["convert_lion_checkpoint", "convert_ram_checkpoint"]


# What `state_dict` names besides `language_model.shared.weight` for the same embeddings; files hold them once.
_TIED_COPIES = ("language_model.encoder.embed_tokens.weight", "language_model.decoder.embed_tokens.weight")


def expected_shapes(config: LionConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter that a checkpoint of `config` holds (tied copies left out)."""
    with torch.device("meta"):
        model = LionForConditionalGeneration(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if name not in _TIED_COPIES}


def convert_lion_checkpoint(
    state_dict: Mapping[str, torch.Tensor], config: LionConfig, strict: bool = True
) -> dict[str, torch.Tensor]:
    """
    Rename an official LION state dict for [`LionForConditionalGeneration`]. Vision blocks beyond `config`'s depth (the
    public tower file holds 40, LION uses 39) and heads that LION has no use for are left out.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Official names, with every part that `config` has.
        config ([`LionConfig`]): The layout to convert for.
        strict (`bool`, *optional*, defaults to `True`):
            Whether every parameter must be there. If not, parameters may be missing, but still none may be unexpected.

    Returns:
        `dict[str, torch.Tensor]` for `load_state_dict`, which names the embeddings three times; dtypes are kept.

    Raises:
        ValueError: parameters that are missing, unexpected or of the wrong shape, all listed.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for official_name, tensor in state_dict.items():
        if not is_tied_copy(official_name) and not is_not_needed(official_name, config.vision_config.num_hidden_layers):
            name, part = to_our_name(official_name)
            parts.setdefault(name, {})[part] = tensor
    problems = []
    converted: dict[str, torch.Tensor] = {}
    for name, tensors in parts.items():
        try:
            converted[name] = join(name, tensors)
        except ValueError as error:
            problems.append(str(error))

    expected = expected_shapes(config)
    if strict:
        problems += [f"missing: {name}" for name in expected if name not in converted]
    problems += [f"unexpected: {name}" for name in converted if name not in expected]
    problems += [
        f"wrong shape: {name} is {tuple(tensor.shape)}, expected {tuple(expected[name])}"
        for name, tensor in converted.items()
        if name in expected and tensor.shape != expected[name]
    ]
    if problems:
        raise ValueError(
            f"`state_dict` does not fit `config` in {len(problems)} places:\n  " + "\n  ".join(sorted(problems))
        )
    if (embeddings := converted.get("language_model.shared.weight")) is not None:
        converted |= dict.fromkeys(_TIED_COPIES, embeddings)
    return converted
