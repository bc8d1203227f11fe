"""From PEFT adapters to a self-contained LION, and from the adapters of stages 1 and 2 to the one of stage 3."""

import copy
import re
from collections.abc import Sequence

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from configuration_lion.configuration_lion import LEVELS, VISUAL_BRANCHES, LionConfig
from modeling_lion.mixture_of_adapters_lion import MixtureOfAdapters
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.peft_lion.config import LionAdapterConfig
from modeling_lion.peft_lion.layer import LionAdapterLayer, LionTrainedModuleLayer, LionTunerLayer


def _lion_of(peft_model: nn.Module) -> LionForConditionalGeneration:
    lion = peft_model.get_base_model() if isinstance(peft_model, PeftModel) else peft_model
    if not isinstance(lion, LionForConditionalGeneration) or not any(
        isinstance(module, LionTunerLayer) for module in lion.modules()
    ):
        raise ValueError(
            f"`peft_model` must be a LION with a LION_ADAPTER attached to it, got {type(peft_model).__name__}."
        )
    return lion


def _known(lion: LionForConditionalGeneration, argument: str, adapter_names: Sequence[str]) -> list[LionAdapterConfig]:
    unknown = [name for name in adapter_names if name not in lion.peft_config]
    if unknown:
        raise ValueError(f"`{argument}` holds {unknown}; the adapters are {sorted(lion.peft_config)}.")
    return [lion.peft_config[name] for name in adapter_names]


def fold_adapters(
    peft_model: nn.Module, adapter_names: str | Sequence[str] | None = None
) -> LionForConditionalGeneration:
    """
    Build adapters into the model: a LION that needs no PEFT and gives what `peft_model` gives while `adapter_names` are
    active.

    An image-level and a region-level adapter become the mixture of both, with the router at its start values. The
    configuration gets the layout: `adapter_config`, and as `visual_branches` those that the adapters see.

    No weight is copied, except what has to be brought back from float32 to the base's dtype: both models share their
    memory. `peft_model` may still be used for inference; training one of the two would change the other.

    Args:
        peft_model (`PeftModel` or [`LionForConditionalGeneration`]): A LION with attached LION_ADAPTERs.
        adapter_names (`str` or `Sequence[str]`, *optional*):
            One adapter, or one per level; later ones win where several train the same module. Defaults to the active
            adapters.

    Raises:
        ValueError: no such adapter, adapters that do not go together, or weights that are offloaded.
    """
    lion = _lion_of(peft_model)
    if adapter_names is None:
        adapter_names = next(m for m in lion.modules() if isinstance(m, LionTunerLayer)).active_adapters
    names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
    configs = _known(lion, "adapter_names", names)
    adapters = [adapter for config in configs for adapter in config.adapters]
    if not names or (len(names) > 1 and (len(adapters) != len(LEVELS) or set(adapters) != set(LEVELS))):
        raise ValueError(
            f"`adapter_names` must be one adapter, or an image-level and a region-level one, got {names} with "
            f"{[config.adapters for config in configs]}."
        )
    sizes = {config.bottleneck_size for config in configs}
    if len(sizes) > 1:
        raise ValueError(f"Adapters can only be folded together with equal `bottleneck_size`, got {sorted(sizes)}.")

    config = copy.deepcopy(lion.config)
    if configs[0].is_built_in:
        return _load_folded(lion, config, names)
    config.adapter_config.adapters = adapters if len(names) == 1 else list(LEVELS)
    config.adapter_config.bottleneck_size = sizes.pop()
    seen = {branch for adapter_config in configs for branch in adapter_config.visual_branches or ()}
    config.visual_branches = [branch for branch in VISUAL_BRANCHES if branch in seen]
    config.active_branches = None
    config.adapter_config.fit_to_branches(config.visual_branches)
    return _load_folded(lion, config, names)


def _load_folded(
    lion: LionForConditionalGeneration, config: LionConfig, names: list[str]
) -> LionForConditionalGeneration:
    """A LION of this configuration, with the weights that `lion` has while the adapters `names` are active."""
    with torch.device("meta"):
        folded = LionForConditionalGeneration(config)
    state_dict = _folded_state_dict(lion, names)
    offloaded = sorted(name for name, tensor in state_dict.items() if tensor.is_meta)
    if offloaded:
        raise ValueError(
            f"All weights must be in memory to be folded, but {len(offloaded)} are offloaded: {offloaded}."
        )
    # What is left over belongs to a visual branch that the adapters do not see.
    missing, _ = folded.load_state_dict(state_dict, strict=False, assign=True)
    if missing:
        raise RuntimeError(f"Folding left parameters without a value: {missing}.")
    _copy_buffers(lion, folded)
    folded.tie_weights()
    folded.generation_config = copy.deepcopy(lion.generation_config)
    return folded.train(lion.training)


def _folded_state_dict(lion: LionForConditionalGeneration, names: list[str]) -> dict[str, torch.Tensor]:
    """The state dict of the folded model (and perhaps more), from the parts that `names` use."""
    layers = {
        name: module
        for name, module in lion.named_modules()
        if isinstance(module, LionTunerLayer | ModulesToSaveWrapper)
    }
    inside = tuple(f"{name}." for name in layers)
    folded = {name: tensor for name, tensor in lion.state_dict().items() if not name.startswith(inside)}
    for name, layer in layers.items():
        if isinstance(layer, LionAdapterLayer):
            parts = {**layer.base_layer.state_dict(), **_mixture_state_dict(layer, names)}
        elif isinstance(layer, LionTrainedModuleLayer):
            parts = _winner_state_dict(layer.base_layer, layer.lion_adapter_modules, names)
        else:
            parts = _winner_state_dict(layer.original_module, layer.modules_to_save, names)
        folded.update({f"{name}.{part}": tensor for part, tensor in parts.items()})
    return folded


def _winner_state_dict(base: nn.Module, copies: nn.ModuleDict, names: list[str]) -> dict[str, torch.Tensor]:
    winner = next((copies[name] for name in reversed(names) if name in copies), base)
    dtypes = {name: tensor.dtype for name, tensor in base.state_dict().items()}
    return {name: tensor.to(dtypes[name]) for name, tensor in winner.state_dict().items()}


def _mixture_state_dict(layer: LionAdapterLayer, names: list[str]) -> dict[str, torch.Tensor]:
    mixtures = [layer.lion_adapter_mixtures[name] for name in names]
    if len(names) == 1:
        parts = mixtures[0].state_dict()
    else:
        # Two adapters of one level each: the mixture as it is initialised, with their bottlenecks.
        bottleneck = mixtures[0].adapters[0].down_proj
        device = bottleneck.weight.device
        with torch.device("meta"):
            mixture = MixtureOfAdapters(bottleneck.in_features, bottleneck.out_features, len(LEVELS))
        mixture.to_empty(device=device).reset_parameters()
        parts = {"router_ratios": mixture.router_ratios.detach()}
        for name, source in zip(names, mixtures):
            index = LEVELS.index(layer.adapters[name][0])
            parts |= {f"adapters.{index}.{part}": tensor for part, tensor in source.adapters[0].state_dict().items()}
    return {f"adapter.{name}": tensor.to(layer.adapter_dtype) for name, tensor in parts.items()}


def _copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Fill in what no state dict holds."""
    buffers = {re.sub(r"\.(base_layer|original_module)\.", ".", name): b for name, b in source.named_buffers()}
    for name, buffer in target.named_buffers():
        if buffer.is_meta:
            owner, _, attribute = name.rpartition(".")
            setattr(target.get_submodule(owner), attribute, buffers[name])


@torch.no_grad()
def initialize_adapter(peft_model: PeftModel, adapter_name: str, sources: str | Sequence[str]) -> None:
    """
    Start an adapter from the weights of others: it gets every bottleneck adapter of a level and every trained module
    that a source has as well, and the router of a source with both levels. The weights are copied.

    Args:
        peft_model (`PeftModel`): A LION with attached LION_ADAPTERs.
        adapter_name (`str`): The adapter to change.
        sources (`str` or `Sequence[str]`): The adapters to start from; where several have the same part, the last wins.

    Raises:
        ValueError: no such adapter, or different bottleneck sizes.
    """
    lion = _lion_of(peft_model)
    sources = [sources] if isinstance(sources, str) else list(sources)
    (config,) = _known(lion, "adapter_name", [adapter_name])
    for source, source_config in zip(sources, _known(lion, "sources", sources)):
        if source_config.bottleneck_size != config.bottleneck_size:
            raise ValueError(
                f"{adapter_name!r} has `bottleneck_size` {config.bottleneck_size}, but {source!r} has "
                f"{source_config.bottleneck_size}."
            )
    for layer in lion.modules():
        if not isinstance(layer, LionTunerLayer) or adapter_name not in layer.additions:
            continue
        target = layer.additions[adapter_name]
        for name in sources:
            if name not in layer.additions:
                continue
            source = layer.additions[name]
            if isinstance(layer, LionTrainedModuleLayer) or layer.adapters[name] == layer.adapters[adapter_name]:
                target.load_state_dict(source.state_dict())
                continue
            bottlenecks = dict(zip(layer.adapters[name], source.adapters))
            for level, bottleneck in zip(layer.adapters[adapter_name], target.adapters):
                if level in bottlenecks:
                    bottleneck.load_state_dict(bottlenecks[level].state_dict())


def combine_adapters(peft_model: PeftModel, image_level: str, region_level: str, name: str) -> LionAdapterConfig:
    """
    Add the adapter of stage 3: both bottleneck adapters, routers at their start values, and everything else that either
    stage trained. It starts from copies of the two; where both trained a module (the soft prompt), from the
    region-level one's. It gives exactly what both give while active together, until it is trained.

    Like PEFT's `add_adapter`, this does not activate the new adapter.

    Args:
        peft_model (`PeftModel`): A LION with both adapters.
        image_level (`str`): Name of the adapter of stage 1.
        region_level (`str`): Name of the adapter of stage 2.
        name (`str`): Name of the new adapter.

    Returns:
        [`LionAdapterConfig`]: The configuration of the new adapter.

    Raises:
        ValueError: an adapter that does not exist, has other levels, another bottleneck size, or `modules_to_save`.
    """
    lion = _lion_of(peft_model)
    parts = {"image_level": image_level, "region_level": region_level}
    configs = {}
    for level, adapter_name in parts.items():
        (configs[level],) = _known(lion, level, [adapter_name])
        if configs[level].adapters != [level]:
            raise ValueError(
                f"`{level}` must name an adapter with `adapters=[{level!r}]`, but {adapter_name!r} has "
                f"{configs[level].adapters}."
            )
        if configs[level].modules_to_save:
            raise ValueError(f"{adapter_name!r} has `modules_to_save`; only `trained_modules` can be combined.")
    first, second = configs["image_level"], configs["region_level"]
    if first.bottleneck_size != second.bottleneck_size:
        raise ValueError(
            f"Only adapters of one `bottleneck_size` can be combined, got {first.bottleneck_size} and "
            f"{second.bottleneck_size}."
        )
    seen = {*(first.visual_branches or ()), *(second.visual_branches or ())}
    config = LionAdapterConfig(
        adapters=list(LEVELS),
        bottleneck_size=first.bottleneck_size,
        trained_modules=list(dict.fromkeys([*first.trained_modules, *second.trained_modules])),
        visual_branches=[branch for branch in VISUAL_BRANCHES if branch in seen],
        task_type=first.task_type,
        base_model_name_or_path=first.base_model_name_or_path,
    )
    peft_model.add_adapter(name, config)
    initialize_adapter(peft_model, name, [image_level, region_level])
    return config
