"""What came out: a table for each claim, and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from laboratory.claims.claims import CLAIMS, Claim, Variant
from trainers.publishing.markdown import markdown_table


# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

Scores = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]]]
"""claim -> setting -> variant -> tags -> seed -> scores"""


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t (not a number for a single value)."""
    if len(values) < 2:
        return float(values[0]), math.nan
    return float(np.mean(values)), _T[min(len(values) - 1, 9)] * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def to_markdown(
    scores: Scores, along: Mapping[str, Any], cosines: Mapping[str, Any], settings: Mapping[str, Any]
) -> str:
    """
    The tables.

    Args:
        scores: What was scored.
        along: Scores of the image level before the last leg, by variant, stage and seed.
        cosines: Cosines by name of a training, time, part and pair, a list of the seeds' values.
        settings: Samples and the like.
    """
    scores = of_all_variants(scores)
    lines = [
        f"{settings['samples']} test samples of a task that counts once. Image level: mean over "
        "captions (object F1) and all other tasks (accuracy); region level: mean over REC (accuracy at IoU 0.5) and "
        "REG; both: mean over the two questions that need both. Means over seeds ± half the 95 % interval; differences "
        "are taken seed by seed, in points of 0.01, and marked where their interval leaves out 0.",
    ]
    for claim in CLAIMS:
        if claim.name in scores:
            lines += ["", f"## {claim.name.capitalize()}", "", claim.text, "", *_table(claim, scores[claim.name])]
        if claim.name in scores and len(claim.tags) > 1:
            lines += ["", *_damage_table(claim, scores[claim.name])]
        if claim.name in scores and claim.after_each_leg and (common := _of_common_seeds(along)):
            lines += ["", *_along_table(claim, common)]
        if claim.name in scores and claim.name == "stages" and cosines:
            lines += ["", *_cosine_table(cosines)]
    return "\n".join(lines) + "\n"


def of_all_variants(scores: Scores) -> dict[str, Any]:
    """The scores of the seeds that all variants of a setting have so far."""
    return {
        claim: {setting: _of_common_seeds(variants) for setting, variants in found.items()}
        for claim, found in scores.items()
    }


def _of_common_seeds(variants: Mapping[str, Any]) -> dict[str, Any]:
    seeds = [set(by_seed) for by_tags in variants.values() for by_seed in by_tags.values()]
    common = set.intersection(*seeds) if seeds else set()
    if not common:
        return {}
    return {
        name: {
            tags: {seed: scores for seed, scores in by_seed.items() if seed in common}
            for tags, by_seed in by_tags.items()
        }
        for name, by_tags in variants.items()
    }


def differences(claim: Claim, found: Mapping[str, Any], column: str) -> Iterator[tuple[str, str, str, list[float]]]:
    """Setting, variant, tags and the seeds' differences from the paper's way, in points, of [`of_all_variants`]."""
    for setting, variants in claim.settings.items():
        by_variant = found.get(setting, {})
        reference = by_variant.get(variants[0].name, {})
        for variant in variants[1:]:
            for tags, by_seed in by_variant.get(variant.name, {}).items():
                other = _comparable(reference, tags)
                if other:
                    points = [100 * (by_seed[seed][column] - other[seed][column]) for seed in sorted(by_seed)]
                    yield setting, variant.name, tags, points


def _comparable(reference: Mapping[str, Any], tags: str) -> Mapping[str, Any]:
    """Who is asked without tags is compared with who has the tagger's own."""
    return reference.get("tagger" if tags == "none" else tags, {})


def _table(claim: Claim, found: Mapping[str, Any]) -> list[str]:
    with_tags, with_settings = len(claim.tags) > 1, len(claim.settings) > 1
    head = [*(["setting"] if with_settings else []), "variant", *(["tags"] if with_tags else []), "seeds"]
    for column in claim.columns:
        head += [column, "difference"]
    different = {
        (setting, variant, tags, column): values
        for column in claim.columns
        for setting, variant, tags, values in differences(claim, found, column)
    }
    rows = []
    for setting, variants in claim.settings.items():
        for variant in variants:
            for tags, by_seed in sorted(found.get(setting, {}).get(variant.name, {}).items(), key=_tag_order):
                row = [*([setting] if with_settings else []), variant.name, *([_tags(tags)] if with_tags else [])]
                row.append(str(len(by_seed)))
                for column in claim.columns:
                    row.append(_cell(*mean_and_interval([by_seed[seed][column] for seed in sorted(by_seed)])))
                    values = different.get((setting, variant.name, tags, column))
                    row.append("" if values is None else _difference(values))
                rows.append(row)
    return markdown_table(head, rows).rstrip("\n").split("\n")


def _damage_table(claim: Claim, found: Mapping[str, Any]) -> list[str]:
    """What wrong tags cost: the scores with the most of them less those with none, seed by seed."""
    shares = [tags for tags in claim.tags if isinstance(tags, float)]
    none, most = str(min(shares)), str(max(shares))
    rows = []
    for setting, variants in claim.settings.items():
        costs: dict[str, dict[str, dict[str, float]]] = {}
        for variant in variants:
            by_tags = found.get(setting, {}).get(variant.name, {})
            for seed in by_tags.get(none, {}) if most in by_tags else ():
                costs.setdefault(variant.name, {})[seed] = {
                    column: 100 * (by_tags[most][seed][column] - by_tags[none][seed][column])
                    for column in claim.columns
                }
        reference = costs.get(variants[0].name, {})
        for name, by_seed in costs.items():
            row = [name]
            for column in claim.columns:
                row.append(_difference([by_seed[seed][column] for seed in by_seed]))
                if name == variants[0].name or not reference:
                    row.append("")
                else:
                    row.append(_difference([by_seed[seed][column] - reference[seed][column] for seed in by_seed]))
            rows.append(row)
    head = [f"cost of {_tags(most)}", *(name for column in claim.columns for name in (column, "difference"))]
    return markdown_table(head, rows).rstrip("\n").split("\n")


def _along_table(claim: Claim, along: Mapping[str, Any]) -> list[str]:
    """The image level before the last leg, of seeds that all variants have."""
    names = [variant.name for variants in claim.settings.values() for variant in variants if variant.name in along]
    stages = list(along[names[0]])
    rows = []
    for name in names:
        row = [name]
        for stage in stages:
            by_seed, reference = along[name][stage], along[names[0]][stage]
            row.append(_cell(*mean_and_interval([by_seed[seed]["image level"] for seed in sorted(by_seed)])))
            points = [100 * (by_seed[seed]["image level"] - reference[seed]["image level"]) for seed in sorted(by_seed)]
            row.append("" if name == names[0] else _difference(points))
        rows.append(row)
    head = [
        "image level through the Q-Former",
        *(name for stage in stages for name in (f"after {stage}", "difference")),
    ]
    return markdown_table(head, rows).rstrip("\n").split("\n")


def _cosine_table(cosines: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, by_time in cosines.items():
        for time, by_part in sorted(by_time.items(), key=lambda item: float(item[0])):
            for part, pairs in by_part.items():
                cells = [
                    _cell(*mean_and_interval(pairs[pair])) for pair in ("between levels", "image_level", "region_level")
                ]
                rows.append([name, f"{float(time):.0%}", part, *cells])
    head = ["training", "of it", "part", "between the levels", "image level with itself", "region level with itself"]
    return markdown_table(head, rows).rstrip("\n").split("\n")


def _tag_order(item: tuple[str, Any]) -> tuple[bool, str]:
    return item[0] not in ("tagger", "none"), item[0]


def _tags(tags: str) -> str:
    return {"tagger": "the tagger's", "none": "none"}.get(tags) or f"{float(tags):.0%} wrong"


def _difference(values: Sequence[float]) -> str:
    mean, half = mean_and_interval(values)
    if math.isnan(half):
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ± {half:.1f}{' *' if abs(mean) > half else ''}"


def _cell(mean: float, half: float) -> str:
    return f"{mean:.3f}" if math.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def draw(scores: Scores, path: Path) -> None:
    """A panel for each claim: variants beside each other, a dot for each seed; tags over the share of wrong ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = of_all_variants(scores)
    claims = [claim for claim in CLAIMS if claim.name in scores]
    columns = min(2, len(claims))
    rows = -(-len(claims) // columns)
    figure = Figure(figsize=(6.4 * columns, 4.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in panels[len(claims) :]:
        axes.set_axis_off()
    for axes, claim in zip(panels, claims):
        axes.set_title(claim.name)
        axes.grid(alpha=0.3)
        if len(claim.tags) > 1:
            _draw_over_shares(axes, claim, scores[claim.name])
        else:
            _draw_side_by_side(axes, claim, scores[claim.name])
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def _draw_over_shares(axes: Any, claim: Claim, found: Mapping[str, Any]) -> None:
    (column,) = claim.drawn
    for setting, variants in claim.settings.items():
        for number, variant in enumerate(variants):
            by_tags = found.get(setting, {}).get(variant.name, {})
            shares = sorted(float(tags) for tags in by_tags if tags not in ("tagger", "none"))
            points = [[scores[column] for scores in by_tags[str(share)].values()] for share in shares]
            if points:
                means, halves = zip(*map(mean_and_interval, points))
                axes.errorbar(
                    shares, means, np.nan_to_num(halves), marker="o", capsize=3, color=f"C{number}", label=variant.name
                )
            elif "none" in by_tags:
                mean, _ = mean_and_interval([scores[column] for scores in by_tags["none"].values()])
                axes.axhline(mean, color="grey", linestyle="--", label=variant.name)
    axes.set(xlabel="share of wrong tags", ylabel=f"{column} score")


def _draw_side_by_side(axes: Any, claim: Claim, found: Mapping[str, Any]) -> None:
    columns = claim.drawn
    place = 0.0
    ticks: list[tuple[float, str]] = []
    for setting, variants in claim.settings.items():
        for variant in variants:
            by_seed = found.get(setting, {}).get(variant.name, {}).get("0.0", {})
            if not by_seed:
                continue
            for number, column in enumerate(columns):
                values = [scores[column] for scores in by_seed.values()]
                where = place + 0.27 * (number - (len(columns) - 1) / 2)
                label = None if ticks else column
                axes.bar(where, np.mean(values), 0.24, color=f"C{number}", alpha=0.6, label=label)
                axes.scatter([where] * len(values), values, s=8, color="black", zorder=3)
            ticks.append((place, variant.name if len(claim.settings) == 1 else f"{variant.name}\n{setting}"))
            place += 1
        place += 0.5
    axes.set_xticks([where for where, _ in ticks], [name for _, name in ticks], fontsize=7, rotation=30, ha="right")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("score")


def variants_of(claims: Sequence[Claim]) -> Iterator[tuple[Claim, str, Variant]]:
    """Every variant with its claim and setting."""
    for claim in claims:
        for setting, variants in claim.settings.items():
            for variant in variants:
                yield claim, setting, variant
