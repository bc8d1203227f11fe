"""The claims of the paper, each with the variants that are trained and compared, as data."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from trainers.stages import SOFT_PROMPT, STAGES, Stage


BOTH_ADAPTERS = ("region_level", "image_level")


@dataclass(frozen=True)
class Leg:
    """
    A stretch of training.

    Attributes:
        stage: What is trained, through which visual branches.
        parts: Which parts of the data (keys of [`~laboratory.claims.rows.PARTS`]), shuffled together.
        learning_rate: The highest.
        shared: Every router is fixed at one for both adapters and both levels, which makes them one adapter with the
            parameters of two.
        tags: What stands in front of image-level questions: `"soft"` (tags behind the trained soft prompt), `"fixed"`
            (behind the soft prompt as it is before training), `"plain"` (behind a word) or `"none"`.
        router_rate: Learning rate of the routers, as a multiple of the other parameters'.
    """

    stage: Stage
    parts: tuple[str, ...]
    learning_rate: float
    shared: bool = False
    tags: str = "soft"
    router_rate: float = field(default=1.0, repr=False)

    @property
    def name(self) -> str:
        """Names the leg in files; differs where legs differ."""
        described = repr(self) + (f" {self.router_rate}" if self.router_rate != 1 else "")
        return f"{self.stage.name}-{zlib.crc32(described.encode()):08x}"


@dataclass(frozen=True)
class Variant:
    """
    One way of training.

    Attributes:
        name: In tables.
        legs: Stretches of training, each starting where the one before ended.
        bottleneck_size: Of an adapter.
        budget: Share of the samples of each part of the data.
        start: How training begins, a key of [`~laboratory.claims.training.STARTS`].
    """

    name: str
    legs: tuple[Leg, ...]
    bottleneck_size: int = 16
    budget: float = 1.0
    start: str = "sharp"


@dataclass(frozen=True)
class Claim:
    """
    A claim and what tests it.

    Attributes:
        name: Of files and headings.
        text: What the paper says, and where.
        settings: Variants by the circumstances in which they are compared. The first variant of each is the paper's
            way; the others are compared with it, seed by seed.
        exam: What is asked, a key of [`~laboratory.claims.scoring.EXAMS`].
        columns: Scores of the exam that the table shows.
        drawn: Those that the figure shows.
        tags: With what tags is asked: a share of wrong ones, or `"tagger"` for the tagger's own.
        after_each_leg: Whether the image level is asked after each leg but the last, too, through the Q-Former alone.
    """

    name: str
    text: str
    settings: dict[str, tuple[Variant, ...]]
    exam: str
    columns: tuple[str, ...]
    drawn: tuple[str, ...]
    tags: tuple[float | str, ...] = (0.0,)
    after_each_leg: bool = False


_ONE, _TWO, _THREE = (STAGES[name] for name in ("stage1", "stage2", "stage3"))
_FIXED_ROUTERS = replace(_THREE, routers=False)
_FIXED_PROMPT = replace(_ONE, trained_modules=tuple(part for part in _ONE.trained_modules if part != SOFT_PROMPT))
# The union's is the best of 5e-4, 1e-3 and 2e-3 by the mean of both levels on validation images, with another seed.
_LEARNING_RATES = {"stage1": 1e-3, "stage2": 2e-3, "stage3": 5e-4, "union": 5e-4}


def _shared(stage: Stage) -> Stage:
    return replace(stage, adapters=BOTH_ADAPTERS, routers=False)


def _stages(
    name: str,
    third: Stage = _THREE,
    shared: bool = False,
    router_rate: float = 1.0,
    first_rate: float = _LEARNING_RATES["stage1"],
    **options: Any,
) -> Variant:
    stages = (_ONE, _TWO, third)
    rates = {**_LEARNING_RATES, "stage1": first_rate}
    legs = tuple(
        Leg(
            _shared(stage) if shared else stage,
            (part,),
            rates[stage.name],
            shared,
            router_rate=router_rate if stage is third else 1.0,
        )
        for stage, part in zip(stages, ("image", "region", "both"))
    )
    return Variant(name, legs, **options)


def _union(name: str, shared: bool = False, **options: Any) -> Variant:
    stage = _shared(_THREE) if shared else _THREE
    return Variant(name, (Leg(stage, ("image", "region", "both"), _LEARNING_RATES["union"], shared),), **options)


def _training_ways(**options: Any) -> tuple[Variant, ...]:
    return _stages("three stages", **options), _union("one stage on the union", **options)


def _tags(name: str, tags: str) -> Variant:
    stage = _ONE if tags == "soft" else _FIXED_PROMPT
    return Variant(name, (Leg(stage, ("tagged",), _LEARNING_RATES["stage1"], tags=tags),), start="blurred")


def _depths(name: str, start: str) -> Variant:
    return Variant(name, (Leg(_TWO, ("region",), _LEARNING_RATES["stage2"]),), start=start)


_ROUTED = _stages("two routed adapters")
_FAST = _stages("routers that learn 30 times as fast", router_rate=30.0)

ROUTERS = {"routers.png": _ROUTED, "routers_fast.png": _FAST}
"""Variants whose learned ratios are drawn, by the file of the figure."""

CLAIMS = (
    Claim(
        "stages",
        "Training image-level and region-level tasks at once makes them conflict; training them one after the other, "
        "then together, does not (section 3.4 and the ablation of training strategies). Both ways see the same "
        "samples once, in steps of the same size.",
        {
            "adapters of 16": (
                *_training_ways(),
                # The union's rate was tuned, the stages' are those of earlier runs.
                _stages("three stages, the first at the union's rate", first_rate=_LEARNING_RATES["union"]),
            ),
            "adapters of 16, half of the samples": _training_ways(budget=0.5),
            "adapters of 16, a quarter of the samples": _training_ways(budget=0.25),
            "adapters of 4, a quarter of the samples": (
                *_training_ways(bottleneck_size=4, budget=0.25),
                _union("the union, one shared adapter of 4", shared=True, bottleneck_size=2, budget=0.25),
            ),
            "adapters of 64, a quarter of the samples": _training_ways(bottleneck_size=64, budget=0.25),
        },
        "all",
        ("image level", "region level", "both", "rec, mean IoU"),
        ("image level", "region level", "both"),
    ),
    Claim(
        "router",
        "Adapters of their own for both levels, mixed by learned ratios, beat one shared adapter and a hard switch "
        "(section 3.3 and its ablation).",
        {
            "adapters of 16": (
                _ROUTED,
                _stages("hard switch", third=_FIXED_ROUTERS),
                _FAST,
                _stages("one shared adapter of 16", shared=True, bottleneck_size=8),
                _stages("one shared adapter of 32", shared=True, bottleneck_size=16),
            )
        },
        "all",
        ("image level", "region level", "both", "rec, mean IoU"),
        ("image level", "region level", "both"),
        after_each_leg=True,
    ),
    Claim(
        "tags",
        "Tags help, wrong ones hurt, and a learned soft prompt in front of them repairs that (section 3.2 and its "
        "ablation). Stage 1 alone; the tower's images are blurred until kinds look alike, the tagger's are less so, "
        "and its mistakes are those that training sees.",
        {
            "stage 1": (
                _tags("soft-prompted tags", "soft"),
                _tags("plain tags", "plain"),
                _tags("no tags", "none"),
                _tags("soft prompt, not trained", "fixed"),
            )
        },
        "tags",
        ("caption", "object", "existence", "existence, adversarial"),
        ("existence",),
        ("tagger", 0.0, 0.25, 0.5, 0.75),
    ),
    Claim(
        "depths",
        "Gathering features from three depths of the tower beats those of its last layer (section 3.1 and its "
        "ablation). Stage 2 alone, on a tower of which all blocks, or the last two, were trained on image-level "
        "targets only.",
        {
            f"{what} trained on tags": (
                _depths("three depths", f"{start}: last, middle, early"),
                _depths("last block only", f"{start}: last"),
                _depths("middle block only", f"{start}: middle"),
            )
            for what, start in {"tower": "depths", "last two blocks": "late-depths"}.items()
        },
        "regions",
        ("region level", "rec, mean IoU"),
        ("region level", "rec, mean IoU"),
    ),
)
