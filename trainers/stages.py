"""The training stages of LION as data: what each trains, through which visual branch, on what (paper section 3.4)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn


if TYPE_CHECKING:
    from modeling_lion.peft_lion import LionAdapterConfig


logger = logging.getLogger(__name__)

Q_FORMER_PARTS = ("qformer", "query_tokens", "vision_model.post_layernorm", "language_projection")
AGGREGATOR_PARTS = ("vision_aggregator", "aggregator_norm", "aggregator_projection")
SOFT_PROMPT = "soft_prompt"


@dataclass(frozen=True)
class Stage:
    """
    One training stage. Whatever it does not name stays frozen.

    Args:
        name (`str`): How recipes and the command line call it.
        visual_branches (`tuple[str, ...]`): Visual tokens that stand before the text while it trains.
        trained_modules (`tuple[str, ...]`): Attribute paths in `LionForConditionalGeneration`.
        adapters (`tuple[str, ...]`): Adapters of the LLM that are trained, in their official order.
        routers (`bool`): Whether the routers are trained.
        levels (`tuple[str, ...]`): Task levels of its data.
        starts_from (`tuple[str, ...]`):
            Stages whose results it takes over; where two of them trained the same part, the later one's is used.
        training (`Mapping[str, Any]`): Fields of `LionSFTConfig` that a recipe may override.
    """

    name: str
    visual_branches: tuple[str, ...]
    trained_modules: tuple[str, ...]
    adapters: tuple[str, ...]
    routers: bool
    levels: tuple[str, ...]
    starts_from: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    def peft_config(self, **kwargs: Any) -> "LionAdapterConfig":
        """
        The `LionAdapterConfig` that trains this stage on a base model without adapters.

        Args:
            kwargs: Further fields of `LionAdapterConfig`, for example `bottleneck_size=64`.
        """
        from modeling_lion.peft_lion import LionAdapterConfig  # PEFT takes seconds to load, a plain model needs none

        return LionAdapterConfig(
            adapters=list(self.adapters),
            trained_modules=list(self.trained_modules),
            visual_branches=list(self.visual_branches),
            **kwargs,
        )

    def freeze(self, model: nn.Module) -> list[str]:
        """
        Leave exactly this stage's parameters of a `LionForConditionalGeneration` trainable, and its branches active.

        Returns:
            `list[str]`: names of the trainable parameters.

        Raises:
            ValueError: the model lacks a module, adapter or router that this stage trains.
        """
        trained = {id(p) for p in self._parameters(model)}
        names = []
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(id(parameter) in trained)
            if parameter.requires_grad:
                names.append(name)
        model.set_active_branches(list(self.visual_branches))
        logger.info("%s trains %d parameter tensors of %s.", self.name, len(names), type(model).__name__)
        return names

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        found = []
        for path in self.trained_modules:
            try:
                part = list(model.get_submodule(path).parameters())
            except AttributeError:
                part = []
            if not part:
                raise ValueError(
                    f"Stage {self.name!r} trains `{path}`, but {type(model).__name__} has no parameters of that name. "
                    f"Its parts are {[name for name, _ in model.named_children()]}."
                )
            found += part

        present = list(model.config.adapter_config.adapters)
        for adapter in self.adapters:
            if adapter not in present:
                raise ValueError(
                    f"Stage {self.name!r} trains the adapter {adapter!r}, but the model has {present or 'none'} "
                    f"(`config.adapter_config.adapters`)."
                )
            prefix = f".adapter.adapters.{present.index(adapter)}."
            found += [p for name, p in model.named_parameters() if prefix in name]
        if self.routers:
            routers = [p for name, p in model.named_parameters() if name.endswith(".adapter.router_ratios")]
            if not routers:
                raise ValueError(f"Stage {self.name!r} trains the routers, but the model has none: adapters {present}.")
            found += routers
        return found


# The released recipe is not published. These follow InstructBLIP (arXiv 2305.06500, section 3.4: AdamW, weight decay
# 0.05, linear warm-up, cosine decay) with a higher rate, since adapters and aggregator start from scratch.
_TRAINING = {
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
    "adam_beta2": 0.999,
    "warmup_steps": 0.03,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 1,
}

STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        stage.name: stage
        for stage in (
            Stage(
                name="stage1",
                visual_branches=("qformer",),
                trained_modules=(*Q_FORMER_PARTS, SOFT_PROMPT),
                adapters=("image_level",),
                routers=False,
                levels=("image_level",),
                training=_TRAINING,
            ),
            Stage(
                name="stage2",
                visual_branches=("aggregator",),
                trained_modules=(*AGGREGATOR_PARTS, SOFT_PROMPT),
                adapters=("region_level",),
                routers=False,
                levels=("region_level",),
                starts_from=("stage1",),
                training=_TRAINING,
            ),
            Stage(
                name="stage3",
                visual_branches=("qformer", "aggregator"),
                trained_modules=(*Q_FORMER_PARTS, *AGGREGATOR_PARTS, SOFT_PROMPT),
                adapters=("region_level", "image_level"),
                routers=True,
                levels=("image_level", "region_level"),
                starts_from=("stage1", "stage2"),
                training={**_TRAINING, "learning_rate": 5e-5},
            ),
        )
    }
)


def get_stage(name: str) -> Stage:
    """The stage of that name; `ValueError` names the ones there are."""
    if name not in STAGES:
        raise ValueError(f"`stage` must be one of {list(STAGES)}, got {name!r:.100}.")
    return STAGES[name]
