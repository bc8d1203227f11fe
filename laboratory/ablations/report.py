"""What came out: a table for each claim, and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from laboratory.ablations.claims import CLAIMS, Claim
from trainers.publishing.markdown import markdown_table


# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

Scores = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]]
"""claim -> variant -> share of wrong tags -> seed -> scores"""


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t (not a number for a single value)."""
    if len(values) < 2:
        return float(values[0]), math.nan
    return float(np.mean(values)), _T[min(len(values) - 1, 9)] * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def to_markdown(scores: Scores, settings: Mapping[str, Any]) -> str:
    """The tables."""
    lines = [
        "# The paper's claims, run again at nano size",
        "",
        f"Legs of {settings['steps']} steps of 64 samples, {settings['samples']} test samples a task, seeds "
        f"{', '.join(map(str, settings['seeds']))}. Image level: mean over caption (object F1) and "
        "all other tasks (accuracy); region level: mean over REC (accuracy at IoU 0.5) and REG. Means over "
        "seeds ± half the 95 % interval; differences are taken seed by seed, in points of 0.01, and marked where their "
        "interval leaves out 0.",
    ]
    for claim in CLAIMS:
        if claim.name in scores:
            lines += _claim(claim, scores[claim.name])
    return "\n".join(lines) + "\n"


def _claim(claim: Claim, found: Mapping[str, Any]) -> list[str]:
    columns = [*claim.levels, *(["rec, mean IoU"] if "region_level" in claim.levels else [])]
    with_errors = len(claim.wrong_tags) > 1
    head = ["variant", *(["wrong tags"] if with_errors else [])]
    for column in columns:
        head += [column.replace("_", " "), "difference"]
    rows = []
    reference = claim.variants[0].name
    for variant in claim.variants:
        for share, by_seed in sorted(found.get(variant.name, {}).items()):
            cells = [variant.name, *([_share(share)] if with_errors else [])]
            for column in columns:
                cells.append(_cell(*mean_and_interval([by_seed[seed][column] for seed in sorted(by_seed)])))
                other = found.get(reference, {}).get(share) or found.get(reference, {}).get("0.0", {})
                seeds = sorted(set(by_seed) & set(other))
                if variant.name == reference or not seeds:
                    cells.append("")
                    continue
                mean, half = mean_and_interval([100 * (by_seed[s][column] - other[s][column]) for s in seeds])
                cells.append(f"{mean:+.1f} ± {half:.1f}{' *' if abs(mean) > half else ''}")
            rows.append(cells)
    return ["", f"## {claim.name.capitalize()}", "", claim.text, "", markdown_table(head, rows).rstrip("\n")]


def _share(share: str) -> str:
    return "no tags" if share == "none" else f"{float(share):.0%}"


def _cell(mean: float, half: float) -> str:
    return f"{mean:.3f}" if math.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def draw(scores: Scores, path: Path) -> None:
    """A panel for each claim: variants beside each other, a dot for each seed; tags over the share of wrong ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    claims = [claim for claim in CLAIMS if claim.name in scores]
    figure = Figure(figsize=(4.6 * len(claims), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, claim in zip(np.atleast_1d(figure.subplots(1, len(claims))), claims):
        found = scores[claim.name]
        axes.set_title(claim.name)
        axes.grid(alpha=0.3)
        if len(claim.wrong_tags) > 1:
            _draw_over_shares(axes, claim, found)
        else:
            _draw_side_by_side(axes, claim, found)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def _draw_over_shares(axes: Any, claim: Claim, found: Mapping[str, Any]) -> None:
    for variant in claim.variants:
        by_share = found.get(variant.name, {})
        shares = [float(share) for share in by_share if share != "none"]
        points = [[scores[claim.levels[0]] for scores in by_share[str(share)].values()] for share in sorted(shares)]
        if points:
            means, halves = zip(*map(mean_and_interval, points))
            axes.errorbar(sorted(shares), means, np.nan_to_num(halves), marker="o", capsize=3, label=variant.name)
        elif "none" in by_share:
            mean, _ = mean_and_interval([scores[claim.levels[0]] for scores in by_share["none"].values()])
            axes.axhline(mean, color="grey", linestyle="--", label=variant.name)
    axes.set(xlabel="share of wrong tags", ylabel=f"{claim.levels[0].replace('_', ' ')} score")


def _draw_side_by_side(axes: Any, claim: Claim, found: Mapping[str, Any]) -> None:
    for number, level in enumerate(claim.levels):
        for place, variant in enumerate(claim.variants):
            values = [s[level] for s in found.get(variant.name, {}).get("0.0", {}).values()]
            if not values:
                continue
            where = place + 0.3 * (number - (len(claim.levels) - 1) / 2)
            label = level.replace("_", " ") if place == 0 else None
            axes.bar(where, np.mean(values), 0.26, color=f"C{number}", alpha=0.6, label=label)
            axes.scatter([where] * len(values), values, s=12, color="black", zorder=3)
    axes.set_xticks(range(len(claim.variants)), [variant.name for variant in claim.variants], fontsize=7)
    every = [s[level] for v in found.values() for by in v.values() for s in by.values() for level in claim.levels]
    axes.set_ylim(max(0.0, min(every) - 0.1), 1.0)
    axes.set_ylabel("score")
