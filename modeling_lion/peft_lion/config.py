"""What one stage of LION adds to a bare LION."""

import os
import re
from dataclasses import dataclass, field, replace
from typing import Any

from peft import PeftConfig

from configuration_lion.configuration_lion import BRANCH_OF_ADAPTER, LEVELS, SHARED_ADAPTER, VISUAL_BRANCHES


class LionPeftType(str):
    """A PEFT type outside of PEFT's enum: a string that, like the enum's members, has a `value`."""

    @property
    def value(self) -> str:
        return str(self)


LION_ADAPTER = LionPeftType("LION_ADAPTER")

# Those that a finished LION has: they are trained further, and none is added.
BUILT_IN = "built_in"
_POSSIBLE_ADAPTERS = [[SHARED_ADAPTER], *([level] for level in LEVELS), list(LEVELS), [BUILT_IN]]
# What of a mixture of adapters can stay as it is.
_PARTS_OF_MIXTURE = ("adapters", "router_ratios")
_REPO_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
# The last sub-layer of every T5 block, where the adapters stand.
_FEED_FORWARD_LAYERS = r"language_model\.(encoder\.block\.\d+\.layer\.1|decoder\.block\.\d+\.layer\.2)"
_BUILT_IN_MIXTURES = rf"{_FEED_FORWARD_LAYERS}\.adapter"


@dataclass
class LionAdapterConfig(PeftConfig):
    """
    Configuration of a [`LionAdapterModel`]: the bottleneck adapters of one training stage (paper section 3.3), and the
    modules of LION that the stage trains as a whole.

    Args:
        adapters (`list[str]`, *optional*, defaults to `["image_level"]`):
            `["image_level"]` (stage 1), `["region_level"]` (stage 2), `["region_level", "image_level"]` (stage 3, with
            the router), `["shared"]` (one adapter that belongs to no level), or `["built_in"]`: the base is a finished
            LION, whose own adapters and routers are trained further, as stage 3 continued.
        frozen_parts (`list[str]`, *optional*, defaults to `[]`):
            With `["built_in"]`: `"adapters"`, `"router_ratios"`, or both, which then stay as they are in the base.
        bottleneck_size (`int`, *optional*, defaults to 64): Width of each adapter's hidden layer.
        trained_modules (`list[str]`, *optional*, defaults to `[]`):
            Modules outside of the LLM that this stage trains, by their names in LION, for example `"qformer"`,
            `"query_tokens"`, `"vision_model.post_layernorm"`, `"soft_prompt"`, `"vision_aggregator"`. The adapter
            trains and saves a copy of its own. Where several active adapters bring the same module, the last wins.
        visual_branches (`list[str]`, *optional*):
            The branches that the LLM sees while this adapter is active. Defaults to those that belong to `adapters`,
            and to all branches of the base for `["shared"]`.
        modules_to_save (`list[str]`, *optional*):
            As everywhere in PEFT. `trained_modules` does the same, except that it allows several active adapters.

    Raises:
        ValueError: a value that does not fit; it names the field.
    """

    adapters: list[str] = field(
        default_factory=lambda: ["image_level"], metadata={"help": f"One of {_POSSIBLE_ADAPTERS}."}
    )
    frozen_parts: list[str] = field(
        default_factory=list, metadata={"help": f"Parts of built-in adapters that stay frozen: {_PARTS_OF_MIXTURE}."}
    )
    bottleneck_size: int = field(default=64, metadata={"help": "Width of each adapter's hidden layer."})
    trained_modules: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules of LION outside of the LLM that are trained and saved as well."},
    )
    visual_branches: list[str] | None = field(
        default=None,
        metadata={
            "help": "Visual branches that the LLM sees while this adapter is active; those of `adapters` if None."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train and save in PEFT's way: by the last part of their name."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = LION_ADAPTER
        for name in ("adapters", "trained_modules", "frozen_parts"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"`{name}` must be a list of names, got {value!r:.100}.")
            setattr(self, name, list(value))
        if self.adapters not in _POSSIBLE_ADAPTERS:
            raise ValueError(f"`adapters` must be one of {_POSSIBLE_ADAPTERS}, got {self.adapters!r:.100}.")
        unknown = sorted(set(self.frozen_parts) - set(_PARTS_OF_MIXTURE))
        if unknown or (self.frozen_parts and not self.is_built_in):
            raise ValueError(
                f"`frozen_parts` must hold some of {list(_PARTS_OF_MIXTURE)}, and needs `adapters=['{BUILT_IN}']`, got "
                f"{self.frozen_parts} with {self.adapters}."
            )
        size = self.bottleneck_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"`bottleneck_size` must be a positive integer, got {size!r:.100}.")
        self._check_trained_modules()
        if self.visual_branches is None:
            if self.adapters not in ([SHARED_ADAPTER], [BUILT_IN]):
                own = {BRANCH_OF_ADAPTER[adapter] for adapter in self.adapters}
                self.visual_branches = [branch for branch in VISUAL_BRANCHES if branch in own]
        else:
            self._check_visual_branches()

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """
        As in PEFT, except that the base model is only named if its name means something elsewhere: what is saved may be
        pushed to the Hub, and the path of a local directory is nobody else's business.
        """
        name = self.base_model_name_or_path
        local = name is not None and (os.path.exists(name) or _REPO_NAME.fullmatch(name) is None)
        without: dict[str, Any] = {"base_model_name_or_path": None} if local else {}
        PeftConfig.save_pretrained(replace(self, **without), save_directory, **kwargs)

    def _check_trained_modules(self) -> None:
        names = self.trained_modules
        for name in names:
            if name == "language_model" or name.startswith("language_model."):
                raise ValueError(
                    f"`trained_modules` holds {name!r}, but the LLM stays frozen: its trained part are the adapters."
                )
            if names.count(name) > 1 or any(other.startswith(f"{name}.") for other in names):
                raise ValueError(f"`trained_modules` holds {name!r} more than once, or a part of it as well: {names}.")
        both = sorted(set(names) & set(self.modules_to_save or []))
        if both:
            raise ValueError(f"`trained_modules` and `modules_to_save` both hold {both}; one of them is enough.")
        if self.is_built_in and set(self.frozen_parts) == set(_PARTS_OF_MIXTURE) and not names:
            raise ValueError(
                "`trained_modules` is empty and `frozen_parts` holds all parts: there is nothing to train."
            )

    def _check_visual_branches(self) -> None:
        branches = list(self.visual_branches or ())
        if not branches or branches != [branch for branch in VISUAL_BRANCHES if branch in branches]:
            raise ValueError(
                f"`visual_branches` must hold one or both of {list(VISUAL_BRANCHES)}, in that order, got {branches}."
            )
        for adapter in self.adapters:
            branch = BRANCH_OF_ADAPTER.get(adapter)
            if branch is not None and branch not in branches:
                raise ValueError(
                    f"`adapters` holds {adapter!r}, which needs the visual branch {branch!r}, but `visual_branches` is "
                    f"{branches}."
                )
        self.visual_branches = branches

    @property
    def is_built_in(self) -> bool:
        """Whether the base's own adapters are trained."""
        return self.adapters == [BUILT_IN]

    @property
    def target_modules(self) -> str:
        """What PEFT replaces, as a regular expression over module names."""
        layers = _BUILT_IN_MIXTURES if self.is_built_in else _FEED_FORWARD_LAYERS
        if set(self.frozen_parts) == set(_PARTS_OF_MIXTURE):
            return "|".join(map(re.escape, self.trained_modules))
        return "|".join([layers, *map(re.escape, self.trained_modules)])
