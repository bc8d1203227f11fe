"""The sheet of images with answers."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from lion_multimodal.evaluation.benchmark import Example
from lion_multimodal.evaluation.sheet import PANELS, draw_strip, join_strips, reference_text, wrap
from tests.lion_multimodal.evaluation.small import benchmark


FONT = ImageFont.load_default(size=14)
RED, BLUE = (200, 30, 30), (30, 111, 200)


def example(number, reference="cat", candidates=None, size=(80, 60)):
    image = Image.new("RGB", size, "white")
    return Example(str(number), image, f"picture {number}", "What?", {"references": reference}, candidates)


def pixels(image, color):
    return int((np.abs(np.asarray(image, int) - color).sum(-1) < 30).sum())


def test_a_strip_shows_answers_and_boxes():
    definition = benchmark("small")
    box = [0.25, 0.25, 0.75, 0.75]
    words = draw_strip(definition, [example(0)], {"0": {"answer": "dog"}})
    boxes = draw_strip(definition, [example(0, box)], {"0": {"answer": "[0.100,0.100,0.500,0.500]"}})
    assert words.width == boxes.width
    for color in (RED, BLUE):
        assert pixels(boxes, color) > pixels(words, color) + 200
    assert pixels(draw_strip(definition, [example(0)], {"0": {"answer": ""}}), RED) > 0  # "(nothing)"


def test_a_strip_shows_a_question_of_each_of_the_first_images():
    """Of what was answered: images that could not be read are not there."""
    opened = []

    def image(number):
        opened.append(number)
        return Image.new("RGB", (80, 60))

    asked = [
        Example(f"{n}/{m}", lambda n=n: image(n), str(n), "What?", {"references": "a"})
        for n in range(9)
        for m in (0, 1)
    ]
    records = {e.id: {"answer": "a"} for e in asked if e.image_id != "1"}
    draw_strip(benchmark("small"), asked, records)
    assert opened == [0, 2, 3, 4][:PANELS]


def test_join(tmp_path):
    files = []
    for number in range(9):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (100, 10 + number), (number, 0, 0)).save(files[-1])
    few, many = join_strips(files[:3]), join_strips(files)
    assert few.width == 100
    assert few.height > 33
    assert many.width == 200
    assert many.height < sum(10 + number for number in range(9)) * 0.75
    shown = {color[0] for _, color in many.getcolors(10_000) if color[1] == 0}
    assert shown == set(range(9))
    with pytest.raises(ValueError, match="no strips"):
        join_strips([])


@pytest.mark.parametrize(
    ("reference", "candidates", "text"),
    [
        (1, ("cat", "dog"), "dog"),
        ("cat", None, "cat"),
        (["cat", "dog", "dog"], None, "dog (2), cat (1)"),
        (["one caption", "another"], None, "one caption (and 1 more)"),
        ([0.25, 0.5, 0.75, 1.0], None, "[0.250,0.500,0.750,1.000]"),
    ],
)
def test_what_is_true(reference, candidates, text):
    assert reference_text(example(0, reference, candidates)) == text


def test_long_texts_lose_their_middle():
    text = " ".join(f"word{number}" for number in range(100))
    lines = wrap(text, FONT, 200, 4)
    assert len(lines) == 4
    assert all(FONT.getlength(line) <= 200 for line in lines)
    assert lines[0].startswith("word0")
    assert lines[1].endswith("…")
    assert lines[-1].endswith("word99")
    assert "".join(wrap("x" * 200, FONT, 100, 50)) == "x" * 200
    assert wrap("short", FONT, 200, 2) == ["short"]
