"""How LION's stages get attached to a LION without adapters."""

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from modeling_lion.mixture_of_adapters_lion import MixtureOfAdapters
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.peft_lion.config import LionAdapterConfig
from modeling_lion.peft_lion.layer import LionAdapterLayer, LionTrainedModuleLayer, LionTunerLayer


class LionAdapterModel(BaseTuner):
    """
    A LION whose training stages are PEFT adapters: each holds bottleneck adapters beside every feed-forward sub-layer
    of the LLM and copies of the other modules that the stage trains.

    With a stage-1 and a stage-2 adapter active at once (`peft_model.base_model.set_adapter([...])`), every sample goes
    to the adapter of its own level. The visual branches that the LLM sees are those of the active adapters.

    Args:
        model ([`LionForConditionalGeneration`]): The base, with `adapter_config.adapters == []`.
        peft_config ([`LionAdapterConfig`]): The stage.
        adapter_name (`str`): Its name.
        low_cpu_mem_usage (`bool`, *optional*, defaults to `False`): Create the bottleneck adapters on the meta device.

    Raises:
        ValueError: the base is no LION or has adapters built in, or the configuration does not fit it.

    Example:

    ```python
    >>> from modeling_lion import LionAdapterConfig, LionForConditionalGeneration
    >>> from peft import get_peft_model

    >>> base = LionForConditionalGeneration.from_pretrained(repo)
    >>> stage1 = LionAdapterConfig(adapters=["image_level"], trained_modules=["qformer", "query_tokens", "soft_prompt"])
    >>> model = get_peft_model(base, stage1, adapter_name="stage1")
    >>> model.print_trainable_parameters()
    ```
    """

    prefix = "lion_adapter_"
    tuner_layer_cls = LionTunerLayer

    def _check_new_adapter_config(self, config: LionAdapterConfig) -> None:
        super()._check_new_adapter_config(config)
        model = self.model
        if not isinstance(model, LionForConditionalGeneration):
            raise ValueError(
                f"LION_ADAPTER needs a model loaded with `modeling_lion.LionForConditionalGeneration`, got "
                f"{type(model).__module__}.{type(model).__name__}."
            )
        built_in = model.config.adapter_config.adapters
        if built_in and not config.is_built_in:
            raise ValueError(
                f"LION_ADAPTER needs a base without adapters, but this LION has {built_in} built in. Train these "
                'further with `adapters=["built_in"]`, fine-tune it with another PEFT method such as LoRA, or load it '
                'with `adapter_config={"adapters": []}`.'
            )
        if config.is_built_in and not built_in:
            raise ValueError('`adapters=["built_in"]` needs a base with adapters, but this LION has none.')
        branches = config.visual_branches or model.config.visual_branches
        if not set(branches) <= set(model.config.visual_branches):
            raise ValueError(
                f"`visual_branches` of the adapter is {branches}, but the base has {model.config.visual_branches}."
            )
        self._check_adapter_name(config)
        self._check_trained_modules(config)

    def _check_adapter_name(self, config: LionAdapterConfig) -> None:
        """PEFT tells adapters apart by `.name.` in a parameter's name: nothing else may be called so."""
        adapter_name = next(name for name, known in self.peft_config.items() if known is config)
        parameters = [*self.model.named_parameters(), *MixtureOfAdapters(1, 1, num_adapters=2).named_parameters()]
        parts = {part for parameter_name, _ in parameters for part in parameter_name.split(".")}
        if adapter_name in parts:
            raise ValueError(f"`adapter_name` must not be the name of a part of LION, got {adapter_name!r:.100}.")

    def _check_trained_modules(self, config: LionAdapterConfig) -> None:
        modules = dict(self.model.named_modules())
        others = {name for known in self.peft_config.values() for name in known.trained_modules}
        for name in config.trained_modules:
            overlapping = [o for o in others if o.startswith(f"{name}.") or name.startswith(f"{o}.")]
            if overlapping:
                raise ValueError(
                    f"`trained_modules` holds {name!r}, which overlaps with {overlapping} of another adapter."
                )
            module = modules.get(name)
            if module is None or next(module.parameters(), None) is None:
                trainable = [
                    n for n, m in self.model.named_children() if n != "language_model" and list(m.parameters())
                ]
                raise ValueError(
                    f"`trained_modules` holds {name!r}, which is no module of this LION that has parameters; there are "
                    f"{trainable} and their submodules."
                )

    def _prepare_adapter_config(self, peft_config: LionAdapterConfig, model_config: dict) -> LionAdapterConfig:
        if peft_config.visual_branches is None:
            peft_config.visual_branches = list(model_config["visual_branches"])
        return peft_config

    def _create_and_replace(
        self,
        peft_config: LionAdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        if not isinstance(target, LionTunerLayer):
            is_copied = peft_config.is_built_in or current_key in peft_config.trained_modules
            layer_cls = LionTrainedModuleLayer if is_copied else LionAdapterLayer
            base_layer, target = target, layer_cls(target, self.model)
            self._replace_module(parent, target_name, target, base_layer)
        target.update_layer(adapter_name, peft_config)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own expects that modules have a `weight`.
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            "LION's adapters stand beside the feed-forward layers and have a ReLU, so they cannot be merged into the "
            "weights. `modeling_lion.peft_lion.fold_adapters` makes a LION with built-in adapters of them."
        )

    def unload(self) -> LionForConditionalGeneration:
        model = super().unload()
        model.set_active_branches(model.config.active_branches or model.config.visual_branches)
        return model

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT's own expects the name right before the parameter's, but here whole modules follow.
        return re.sub(rf"(\.{cls.prefix}[a-z]+)\.{re.escape(adapter_name)}(?=\.)", r"\1", key, count=1)
