"""
Draws what tags do to an answer of the shipped nano, for docs/how_it_works.md: the same question with the tagger's tags,
without each of them, without any, and with tags that are wrong.

    python -m laboratory.figures.tag_influence docs/images/tag_influence.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib


matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL.Image import Image

from lion_multimodal import checkpoints
from lion_multimodal.engine import Answer, EncodedImage, LionEngine, Question
from processing_lion import draw_boxes, intersection_over_union, parse_boxes


SCENE = 2
PROMPT = "In the image <image>, can you locate the anchor and let me know its coordinates?"
WRONG = ("cup", "heart", "car")
RIGHT, MISSED = "#2f6fb0", "#c1503d"
_ENLARGED = 480
_OVERLAP = 0.5


@dataclass(frozen=True)
class Variant:
    """
    The question with certain tags.

    Attributes:
        name (`str`): What is done to the tags.
        answer ([`Answer`]): What the model says then.
        log_likelihood (`float`): Of the answer that it gives with the tagger's tags.
        found (`bool`): Whether the answer's box is that of the object.
    """

    name: str
    answer: Answer
    log_likelihood: float
    found: bool


def variants(engine: LionEngine, image: EncodedImage, truth: Sequence[float]) -> list[Variant]:
    """Ask with each choice of tags."""
    tags = list(image.tags or ())
    choices: dict[str, list[str]] = {"the tagger's tags": tags}
    choices |= {f"without “{tag}”": [other for other in tags if other != tag] for tag in tags}
    choices["without any tag"] = []
    choices |= {f"and “{tag}” (wrong)": [*tags, tag] for tag in WRONG}
    questions = [Question(PROMPT, tags=chosen or False) for chosen in choices.values()]
    answers = engine.answer([image] * len(questions), questions)
    usual = answers[0].text
    found = []
    for name, question, answer in zip(choices, questions, answers):
        (likelihood,) = engine.score(image, question, [usual])
        boxes = parse_boxes(answer.text)
        hit = bool(boxes) and intersection_over_union(boxes[0], truth) >= _OVERLAP
        found.append(Variant(name, answer, likelihood, hit))
    return found


def draw(path: str | Path) -> None:
    """Draw the figure into a PNG file."""
    engine = LionEngine.from_pretrained(device="cpu")
    scene = checkpoints.demo_scenes()[SCENE]
    (truth,) = [parse_boxes(question["truth"])[0] for question in scene.questions if question.get("about")]
    (image,) = engine.encode([engine.prepare(scene.image)])
    asked = variants(engine, image, truth)
    missed = [variant for variant in asked if not variant.found]
    shown = [asked[0], *missed[:1]]

    figure, axes = plt.subplots(
        1,
        len(shown) + 1,
        figsize=(3.1 * len(shown) + 5.6, 3.7),
        width_ratios=[3] * len(shown) + [3.6],
        layout="constrained",
    )
    for panel, variant in zip(axes, shown):
        _draw_answer(panel, scene.image, variant)
    bars = axes[-1]
    values = [variant.log_likelihood for variant in asked]
    bars.barh(range(len(asked)), values, color=[RIGHT if variant.found else MISSED for variant in asked])
    bars.set_yticks(range(len(asked)), [variant.name for variant in asked], fontsize=8.5)
    bars.invert_yaxis()
    bars.set_xlabel("log-likelihood of the left answer", fontsize=9)
    bars.set_title("the anchor is found (blue) or missed (red)", fontsize=9)
    bars.tick_params(axis="x", labelsize=8)
    bars.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_answer(panel: Axes, picture: Image, variant: Variant) -> None:
    scale = _ENLARGED / max(picture.size)
    enlarged = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    boxes = [[edge * scale for edge in box] for box in variant.answer.boxes]
    panel.imshow(draw_boxes(enlarged, boxes, color=RIGHT if variant.found else MISSED))
    panel.set_title(f"{variant.name}\n{variant.answer.text}", fontsize=9)
    panel.axis("off")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", metavar="FILE.png", help="drawing to write")
    draw(parser.parse_args(arguments).output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
