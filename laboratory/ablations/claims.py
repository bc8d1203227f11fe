"""The claims of the paper, each with the variants that are trained and compared, as data."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from trainers.stages import SOFT_PROMPT, STAGES, Stage


WRONG_TAGS = (0.0, 0.25, 0.5, 0.75)
"""Shares of wrong tags that models with tags are asked with."""

BOTH_ADAPTERS = ("region_level", "image_level")


@dataclass(frozen=True)
class Leg:
    """
    A stretch of training.

    Attributes:
        stage: what is trained, through which visual branches, on which levels.
        length: in units of the script's `--steps`.
        routing: `"routed"` (the stage's own way), or `"shared"`: every router is fixed at one for both adapters and
            both tasks, which makes them one adapter with the parameters of two.
        tags: whether image-level rows have tags.
    """

    stage: Stage
    length: int = 1
    routing: str = "routed"
    tags: bool = True

    @property
    def name(self) -> str:
        """Names the leg in files."""
        trained = "+".join((*self.stage.trained_modules, *self.stage.adapters, *["routers"] * self.stage.routers))
        return f"{self.stage.name}x{self.length}-{self.routing}-{zlib.crc32(f'{trained} {self.tags}'.encode()):08x}"


@dataclass(frozen=True)
class Variant:
    """
    One way of training.

    Attributes:
        name: in tables.
        legs: stretches of training, each starting where the one before ended.
        depths: tower blocks that the aggregator reads: `"three"` (as in LION) or `"last"` (the last one, three times).
            With a value, the connectors are pretrained anew; without, the base's are taken.
    """

    name: str
    legs: tuple[Leg, ...]
    depths: str | None = None


@dataclass(frozen=True)
class Claim:
    """
    A claim and what tests it. The first variant is the paper's way; others are compared with it, seed by seed.

    Attributes:
        name: of files and headings.
        text: what the paper says, and where.
        variants: what is compared.
        levels: which scores it is about.
        wrong_tags: shares of wrong tags to ask with.
    """

    name: str
    text: str
    variants: tuple[Variant, ...]
    levels: tuple[str, ...] = ("image_level", "region_level")
    wrong_tags: tuple[float, ...] = (0.0,)


_ONE, _TWO, _THREE = (STAGES[name] for name in ("stage1", "stage2", "stage3"))
_LION = Variant("three stages, router", (Leg(_ONE), Leg(_TWO), Leg(_THREE)))
FIXED_ROUTERS = replace(_THREE, routers=False)
_FIXED_PROMPT = replace(_ONE, trained_modules=tuple(part for part in _ONE.trained_modules if part != SOFT_PROMPT))


def _shared(stage: Stage) -> Leg:
    return Leg(replace(stage, adapters=BOTH_ADAPTERS, routers=False), routing="shared")


CLAIMS = (
    Claim(
        "stages",
        "Training image-level and region-level tasks at once makes them conflict; training them one after the "
        "other, then together, does not (section 3.4 and the ablation of training strategies). Equal numbers of "
        "samples of each level.",
        (_LION, Variant("one stage on the union", (Leg(_THREE, length=3),))),
    ),
    Claim(
        "router",
        "Adapters of their own for both kinds of task, mixed by learned ratios, beat one shared adapter and a hard "
        "switch (section 3.3 and its ablation). The shared adapter has as many parameters as the two.",
        (
            _LION,
            Variant("hard switch", (Leg(_ONE), Leg(_TWO), Leg(FIXED_ROUTERS))),
            Variant("one shared adapter", (_shared(_ONE), _shared(_TWO), _shared(_THREE))),
        ),
    ),
    Claim(
        "tags",
        "Tags help, wrong ones hurt, and a learned soft prompt in front of them repairs that (section 3.2 and its "
        "ablation). Stage 1 only; a quarter of the tags is wrong in training. Plain tags have the base's prompt "
        "vector as a fixed word.",
        (
            Variant("soft-prompted tags", (Leg(_ONE),)),
            Variant("plain tags", (Leg(_FIXED_PROMPT),)),
            Variant("no tags", (Leg(_FIXED_PROMPT, tags=False),)),
        ),
        levels=("image_level",),
        wrong_tags=WRONG_TAGS,
    ),
    Claim(
        "depths",
        "Gathering features from three depths of the tower beats those of its last layer (section 3.1 and its "
        "ablation). The connectors are pretrained anew for either, then stage 2.",
        (
            Variant("three depths", (Leg(_TWO),), depths="three"),
            Variant("last layer", (Leg(_TWO),), depths="last"),
        ),
        levels=("region_level",),
    ),
)
