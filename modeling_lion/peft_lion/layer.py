"""The modules that stand in for parts of LION while PEFT adapters are attached."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import recursively_apply
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import gather_params_ctx
from torch import nn

from configuration_lion.configuration_lion import LEVELS
from modeling_lion.mixture_of_adapters_lion import LevelRouting, MixtureOfAdapters
from modeling_lion.peft_lion.config import LionAdapterConfig


if TYPE_CHECKING:
    from modeling_lion.modeling_lion import LionForConditionalGeneration


class LionTunerLayer(nn.Module, BaseTunerLayer):
    """
    What [`LionAdapterLayer`] and [`LionTrainedModuleLayer`] share. To everything around it, it looks like the module
    it stands in for.

    Args:
        base_layer (`nn.Module`): The module of the base model.
        lion ([`LionForConditionalGeneration`]): The model it belongs to.
    """

    def __init__(self, base_layer: nn.Module, lion: "LionForConditionalGeneration"):
        super().__init__()
        self.base_layer = base_layer
        # Inside a tuple: the model must not become a submodule of its own part.
        self._lion = (lion,)

    @property
    def lion(self) -> "LionForConditionalGeneration":
        return self._lion[0]

    @property
    def additions(self) -> nn.ModuleDict:
        """What the PEFT adapters bring, by their names."""
        return getattr(self, self.adapter_layer_names[0])

    def wrapped_module(self) -> nn.Module:
        return self.base_layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "base_layer":
                raise
            return getattr(self.wrapped_module(), name)

    def delete_adapter(self, adapter_name: str) -> None:
        if adapter_name in self.additions:
            del self.additions[adapter_name]
        if adapter_name in self.active_adapters:
            # PEFT would choose the next among this layer's own, but not every layer has something from every adapter.
            active = [name for name in self.active_adapters if name != adapter_name]
            others = sorted(name for name in self.lion.peft_config if name != adapter_name)
            self.set_adapter(active or others[:1])

    @property
    def adapter_dtype(self) -> torch.dtype:
        """The dtype of additions that are not kept in float32 for training."""
        # Quantised weights are integers; norms and biases beside them are not.
        return next(p.dtype for p in self.base_layer.parameters() if p.is_floating_point())

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's own looks for a `weight`, which the modules here need not have.
        if adapter_name not in self.additions:
            return
        module = self.additions[adapter_name]
        if not any(parameter.is_meta for parameter in module.parameters()):
            device = next(self.base_layer.parameters()).device if device is None else device
            module.to(device, self.adapter_dtype)

    def __repr__(self) -> str:
        return f"lion_adapter.{super().__repr__()}"


class LionAdapterLayer(LionTunerLayer):
    """
    A feed-forward sub-layer of T5 with one [`MixtureOfAdapters`] per PEFT adapter beside it.

    A single active PEFT adapter adds to every sample. If several are active, each adds to the samples of its own level
    alone (its router at the start values, so to speak); one with both levels has a router, and a shared one no level.
    """

    adapter_layer_names = ("lion_adapter_mixtures",)

    def __init__(self, base_layer: nn.Module, lion: "LionForConditionalGeneration"):
        super().__init__(base_layer, lion)
        self.lion_adapter_mixtures = nn.ModuleDict()
        self.adapters: dict[str, list[str]] = {}
        self.visual_branches: dict[str, list[str]] = {}

    def update_layer(self, adapter_name: str, config: LionAdapterConfig) -> None:
        """Add the (zero) adapters of `config` under the name `adapter_name`."""
        self.adapters[adapter_name] = config.adapters
        self.visual_branches[adapter_name] = list(config.visual_branches or ())
        self.lion_adapter_mixtures[adapter_name] = MixtureOfAdapters(
            self.lion.config.text_config.d_model, config.bottleneck_size, len(config.adapters)
        )
        self._move_adapter_to_device_of_base_layer(adapter_name)

    @property
    def adapter_dtype(self) -> torch.dtype:
        # T5's residual stream may leave float16's range (as in LION itself).
        dtype = super().adapter_dtype
        return torch.float32 if dtype == torch.float16 else dtype

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self._set_active_branches()

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        self._set_active_branches()

    def _set_active_branches(self) -> None:
        """Let the LLM see what its active adapters were trained to see."""
        # Here, because this is what every way to switch adapters (PEFT's and transformers') comes through.
        branches = {branch for name in self._active() for branch in self.visual_branches[name]}
        config = self.lion.config
        # The base, saved by itself, stays what it was.
        self.lion.set_active_branches(
            sorted(branches) or config.active_branches or config.visual_branches, in_config=False
        )

    def _active(self) -> list[str]:
        """Names of the PEFT adapters that add something."""
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in self.additions]

    @property
    def needs_routing(self) -> bool:
        """Whether what is added depends on the level."""
        active = self._active()
        return len(active) > 1 or any(len(self.adapters[name]) > 1 for name in active)

    def forward(self, hidden_states: torch.Tensor, routing: LevelRouting | None = None) -> torch.Tensor:
        adapted = self._adapted(hidden_states, routing)
        hidden_states = self.base_layer(hidden_states, routing)
        return hidden_states if adapted is None else hidden_states + adapted.to(hidden_states.dtype)

    def _adapted(self, hidden_states: torch.Tensor, routing: LevelRouting | None) -> torch.Tensor | None:
        active = self._active()
        if len(active) == 1:
            return self.additions[active[0]](hidden_states, routing)
        total = None
        for name in active:
            added = self._on_own_level(name, hidden_states, routing)
            if added is not None:
                total = added if total is None else total + added
        return total

    def _on_own_level(
        self, adapter_name: str, hidden_states: torch.Tensor, routing: LevelRouting | None
    ) -> torch.Tensor | None:
        mixture, adapters = self.additions[adapter_name], self.adapters[adapter_name]
        if len(adapters) > 1 or adapters[0] not in LEVELS:
            return mixture(hidden_states, routing)
        level = LEVELS.index(adapters[0])
        if routing is None:
            raise RuntimeError(
                "Several active adapters need the level of every sample: call the LION model with `level_ids` instead "
                "of calling its `language_model`."
            )
        if routing.single_level is not None:
            return mixture(hidden_states, routing) if routing.single_level == level else None
        own = routing.expand(hidden_states.shape[0]).to(hidden_states.device) == level  # (rows,)
        return torch.where(own[:, None, None], mixture(hidden_states, routing), 0.0)


class LionTrainedModuleLayer(LionTunerLayer):
    """
    A module of LION with one trained copy per PEFT adapter. Of the active adapters that have a copy, the last one in
    the list of active adapters is used; without any, the module of the base.
    """

    adapter_layer_names = ("lion_adapter_modules",)

    def __init__(self, base_layer: nn.Module, lion: "LionForConditionalGeneration"):
        super().__init__(base_layer, lion)
        self.lion_adapter_modules = nn.ModuleDict()
        self.frozen_parts: dict[str, tuple[str, ...]] = {}

    def update_layer(self, adapter_name: str, config: LionAdapterConfig) -> None:
        """
        Add a copy of the base's module under the name `adapter_name`.

        Raises:
            ValueError: the module is quantised, so a copy of it could not be trained.
        """
        if not all(parameter.is_floating_point() for parameter in self.base_layer.parameters()):
            raise ValueError(
                f"`trained_modules` names a quantised {type(self.base_layer).__name__}, which cannot be trained: leave "
                "it out of the quantisation (without `llm_int8_skip_modules`, LION does so by itself)."
            )
        with gather_params_ctx(list(self.base_layer.parameters())):
            self.lion_adapter_modules[adapter_name] = copy.deepcopy(self.base_layer)
        is_mixture = isinstance(self.base_layer, MixtureOfAdapters)
        self.frozen_parts[adapter_name] = tuple(config.frozen_parts) if is_mixture else ()

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        for adapter_name, parts in self.frozen_parts.items():
            if adapter_name in self.additions:
                for name, parameter in self.additions[adapter_name].named_parameters():
                    if name.split(".")[0] in parts:
                        parameter.requires_grad_(False)

    def wrapped_module(self) -> nn.Module:
        active = [] if self.disable_adapters else self.active_adapters
        return next((self.additions[name] for name in reversed(active) if name in self.additions), self.base_layer)

    @property
    def weight(self) -> torch.Tensor:
        return self.wrapped_module().weight

    @property
    def bias(self) -> torch.Tensor:
        return self.wrapped_module().bias

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        module = self.wrapped_module()
        dtype = next(module.parameters()).dtype
        if dtype == self.adapter_dtype:
            return module(*args, **kwargs)
        # PEFT keeps what is trained in float32 beside a base in half precision.
        return _cast(module(*_cast(args, dtype), **_cast(kwargs, dtype)), self.adapter_dtype)


def _cast(data: Any, dtype: torch.dtype) -> Any:
    """Cast the floating-point tensors in nested lists, tuples and dicts."""
    return recursively_apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, data)
