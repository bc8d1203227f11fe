"""
Draws how an image and an instruction pass through LION, for docs/how_it_works.md.

    python -m laboratory.figures.how_it_works docs/images/how_it_works.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch


FROZEN, TRAINED, DATA = "#dfe7f2", "#ffe3b8", "#eeeeee"

# Key: (x, y, width, height, text, colour), in units of the drawing.
BOXES = {
    "image": (0.2, 4.3, 1.9, 1.0, "image\n(B, 3, 224, 224)", DATA),
    "instruction": (0.2, 1.2, 1.9, 1.0, "instruction", DATA),
    "tagger": (3.0, 2.6, 2.3, 1.0, "RAM tagger\nSwin-L, 384 px", FROZEN),
    "tower": (3.0, 4.3, 2.3, 1.0, "vision tower\nEVA ViT-g, 39 blocks", FROZEN),
    "aggregator": (6.6, 5.0, 2.6, 1.0, "vision aggregator\nblocks 38 ← 28, 18", TRAINED),
    "qformer": (6.6, 3.2, 2.6, 1.0, "Q-Former\n32 queries + instruction", TRAINED),
    "prompt": (6.6, 1.2, 2.6, 1.0, "prompt: soft prompt,\ntags, instruction", TRAINED),
    "tokens": (10.2, 2.2, 2.3, 3.0, "LLM input\n32 Q-Former tokens\n257 aggregator tokens\ntext tokens", DATA),
    "router": (13.5, 5.4, 2.6, 1.0, "router: image level\nor region level", TRAINED),
    "llm": (13.5, 2.6, 2.6, 2.0, "FlanT5\n+ mixture of adapters\nin every feed-forward\nsub-layer", FROZEN),
    "answer": (17.0, 3.1, 2.0, 1.0, "words, boxes\n[x1,y1,x2,y2]", DATA),
}
ARROWS = [
    ("image", "tagger"),
    ("image", "tower"),
    ("tower", "aggregator"),
    ("tower", "qformer"),
    ("instruction", "qformer"),
    ("instruction", "prompt"),
    ("tagger", "prompt"),
    ("aggregator", "tokens"),
    ("qformer", "tokens"),
    ("prompt", "tokens"),
    ("tokens", "llm"),
    ("router", "llm"),
    ("llm", "answer"),
]


def draw(path: str | Path) -> None:
    """Draw the figure into a PNG file."""
    figure, axes = plt.subplots(figsize=(13.0, 4.8))
    axes.set_xlim(0, 19.2)
    axes.set_ylim(0.8, 7.5)
    axes.axis("off")
    for x, y, width, height, text, color in BOXES.values():
        axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle="round,pad=0.06", facecolor=color, edgecolor="#555555", zorder=2
            )
        )
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, zorder=3)
    for start, end in ARROWS:
        axes.add_patch(
            FancyArrowPatch(*_ends(start, end), arrowstyle="-|>", mutation_scale=12, color="#555555", zorder=1)
        )
    for number, (color, text) in enumerate(
        [(FROZEN, "frozen"), (TRAINED, "trained in stages 1 to 3"), (DATA, "inputs and outputs")]
    ):
        legend = FancyBboxPatch((4.2 + 3.4 * number, 7.0), 0.4, 0.3, boxstyle="square,pad=0", facecolor=color)
        axes.add_patch(legend)
        axes.text(4.8 + 3.4 * number, 7.15, text, va="center", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """From the middle of one box's side to that of the other's: right to left, or straight down."""
    x1, y1, width1, height1, *_ = BOXES[start]
    x2, y2, width2, height2, *_ = BOXES[end]
    if abs(x1 - x2) < 0.01:
        return (x1 + width1 / 2, y1 - 0.08), (x2 + width2 / 2, y2 + height2 + 0.08)
    return (x1 + width1 + 0.08, y1 + height1 / 2), (x2 - 0.08, y2 + height2 / 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=draw.__doc__)
    parser.add_argument("path", help="PNG file to write")
    draw(parser.parse_args(arguments).path)


if __name__ == "__main__":
    main()
