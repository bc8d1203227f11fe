"""Boxes: reading, writing, labelling, drawing."""

import re
import time

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from processing_lion import (
    box_iou,
    draw_boxes,
    format_box,
    infer_level,
    intersection_over_union,
    label_boxes,
    parse_boxes,
    to_pixels,
)


fractions = st.floats(0, 1)
boxes = st.tuples(fractions, fractions, fractions, fractions).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: [0.440,0.060,0.650,0.367]", [(0.44, 0.06, 0.65, 0.367)]),
        ("[0.44,0.06,0.65,0.37]", [(0.44, 0.06, 0.65, 0.37)]),
        ("(0.440, 0.060, 0.650, 0.367)", [(0.44, 0.06, 0.65, 0.367)]),
        ("[ 0.440 , 0.060 ,0.650,  0.367 ].", [(0.44, 0.06, 0.65, 0.367)]),
        ("[0. 440, 0 .060, 0.6 50, 0.367]", [(0.44, 0.06, 0.65, 0.367)]),
        ("[.44,.06,.65,.367]", [(0.44, 0.06, 0.65, 0.367)]),
        ("[0.44 0.06 0.65 0.367]", [(0.44, 0.06, 0.65, 0.367)]),
        ("[0,0,1,1]", [(0.0, 0.0, 1.0, 1.0)]),
        ("[0.650,0.367,0.440,0.060]", [(0.44, 0.06, 0.65, 0.367)]),
        ("[-0.02,0.1,1.05,0.9]", [(0.0, 0.1, 1.0, 0.9)]),
        ("a dog [0.1,0.2,0.3,0.4] and a cat [0.5,0.6,0.7,0.8]", [(0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)]),
        ("[[0.1,0.2,0.3,0.4],[0.5,0.6,0.7,0.8]]", [(0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)]),
        ("[0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8]", [(0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)]),
        ("[0.1,0.2,0.3,0.4][0.1,0.2,0.3", [(0.1, 0.2, 0.3, 0.4)]),
        # no boxes
        ("", []),
        ("no box here", []),
        ("[]", []),
        ("0.1,0.2,0.3,0.4", []),
        ("[0.1,0.2,0.3]", []),
        ("[0.1,0.2,0.3,0.4,0.5]", []),
        ("[12, 40, 100, 200]", []),
        ("Options: [1, 2, 3, 4]", []),
        ("[a,b,c,d]", []),
        ("[0.1,,0.3,0.4]", []),
        ("[0.1,0.2,0.3,__import__('os')]", []),
        ("[nan,inf,0.1,0.2]", []),
        ("[1e-1,0.2,0.3,0.4]", []),
        ("[٠.١,0.2,0.3,0.4]", []),
    ],
)
def test_parse_boxes(text, expected):
    assert parse_boxes(text) == expected


@given(st.lists(boxes, max_size=4), st.sampled_from(["", " and ", "Answer: ", "a [dog] (x) "]))
def test_written_boxes_are_read_back(some_boxes, words):
    read = parse_boxes(words + words.join(format_box(box) for box in some_boxes))
    assert len(read) == len(some_boxes)
    for box, again in zip(some_boxes, read):
        assert again == pytest.approx(box, abs=0.0005 + 1e-9)


@given(st.one_of(st.text(), st.text(alphabet="[]().,;-0123456789 e\n", max_size=80)))
@example("[" * 1000)
@example("[0.1,0.2,0.3,0.4" * 50)
def test_any_text_is_read_without_error(text):
    for x1, y1, x2, y2 in parse_boxes(text):
        assert 0 <= x1 <= x2 <= 1
        assert 0 <= y1 <= y2 <= 1
    assert [box for _, box in label_boxes(text)] == parse_boxes(text)


def test_format_box():
    assert format_box((0.44, 0.06, 0.65, 0.3674)) == "[0.440,0.060,0.650,0.367]"
    assert format_box(torch.tensor([0.0, 0.5, 1.0, 0.5])) == "[0.000,0.500,1.000,0.500]"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.1, 0.2, 0.3), "4 numbers"),
        ((0.1, 0.2, 0.3, 1.2), r"\[0, 1\]"),
        ((0.1, 0.2, 0.3, float("nan")), r"\[0, 1\]"),
        ((0.3, 0.2, 0.1, 0.4), "x1 <= x2"),
        (None, "4 numbers.*None"),
        (0.5, "4 numbers"),
        ("0.1", "4 numbers"),
        (("a", 0.2, 0.1, 0.4), "4 numbers"),
    ],
)
def test_format_box_refuses_what_is_no_box(box, message):
    with pytest.raises(ValueError, match=message):
        format_box(box)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Answer: [0.1,0.2,0.3,0.4]", [""]),
        ("The answer is [0.1,0.2,0.3,0.4].", [""]),
        ("the red square [0.1,0.2,0.3,0.4]", ["the red square"]),
        ("the red square is at [0.1,0.2,0.3,0.4]", ["the red square"]),
        ("Answer: a dog [0.1,0.2,0.3,0.4], and a cat [0.1,0.2,0.3,0.4].", ["a dog", "a cat"]),
        ("two dogs: [0.1,0.2,0.3,0.4] [0.1,0.2,0.3,0.4]", ["two dogs", "two dogs"]),
        ("[0.1,0.2,0.3,0.4] a dog; [0.1,0.2,0.3,0.4] a cat.", ["a dog", "a cat"]),
        ("an answering machine [0.1,0.2,0.3,0.4]", ["an answering machine"]),
        ("a bat [0.1,0.2,0.3,0.4] and an island [0.1,0.2,0.3,0.4]", ["a bat", "an island"]),
    ],
)
def test_label_boxes(text, labels):
    assert [label for label, _ in label_boxes(text)] == labels


def test_to_pixels_takes_height_then_width():
    assert to_pixels([(0.1, 0.2, 0.5, 1.0)], (100, 200)).tolist() == [[20.0, 20.0, 100.0, 100.0]]
    assert to_pixels([], (100, 200)).shape == (0, 4)
    with pytest.raises(ValueError, match="image_size"):
        to_pixels([], (0, 10))


def test_box_iou():
    some = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    others = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    assert torch.allclose(box_iou(some, others), torch.tensor([[1 / 7, 1.0, 0.0], [0.0, 0.0, 0.0]]))


@given(boxes, boxes)
def test_box_iou_is_symmetric_and_a_fraction(first, second):
    iou = box_iou(torch.tensor([first]), torch.tensor([second]))
    assert 0 <= iou.item() <= 1 + 1e-6
    assert torch.equal(iou, box_iou(torch.tensor([second]), torch.tensor([first])))


def _changed(before, after):
    return ImageChops.difference(before.convert("RGB"), after).getbbox()


def test_draw_boxes_leaves_the_image_alone_and_draws_at_the_box():
    image = Image.new("RGB", (200, 100), "white")
    drawn = draw_boxes(image, [(20, 30, 120, 90)], color="#ff0000")
    assert image.getcolors() == [(20000, (255, 255, 255))]
    assert _changed(image, drawn) == (20, 30, 121, 91)
    assert drawn.getpixel((20, 60)) == (255, 0, 0)
    assert drawn.getpixel((70, 60)) == (255, 255, 255)


def test_draw_boxes_writes_labels_above_the_box_and_inside_the_image():
    image = Image.new("RGB", (200, 100), "white")
    drawn = draw_boxes(image, [(20, 40, 120, 90)], ["a dog"], color="#ff0000")
    left, top, right, bottom = _changed(image, drawn)
    assert left == 20
    assert top < 40
    assert drawn.getpixel((21, top + 1)) == (255, 0, 0)

    at_the_top = draw_boxes(image, [(150, 0, 250, 300)], ["a very long label " * 5])
    ground = at_the_top.getpixel((150, 50))
    assert any(at_the_top.getpixel((x, y)) == ground for x in range(0, 140) for y in range(0, 100))


@given(
    st.lists(st.tuples(*[st.floats(-500, 1500)] * 4), min_size=1, max_size=6),
    st.text(max_size=30),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
@example([(0, 0, 5, 5)], "…", (1, 1))
def test_draw_boxes_takes_any_box_and_label(some_boxes, label, size):
    drawn = draw_boxes(Image.new("RGB", size), some_boxes, [label] * len(some_boxes))
    assert drawn.size == size


def test_labels_do_not_cover_each_other():
    image = Image.new("RGB", (300, 200), "white")
    same = [(50, 80, 150, 150)] * 3
    alone = draw_boxes(image, same[:1], ["first"])
    together = draw_boxes(image, same, ["first", "second", "third"])
    # the first label stands untouched: above the box, to the left
    left, top, _, _ = _changed(image, alone)
    crop = (left, top, left + 20, 80)
    assert alone.crop(crop).tobytes() == together.crop(crop).tobytes()


def test_draw_boxes_names_what_is_wrong():
    image = Image.new("RGB", (20, 20))
    with pytest.raises(ValueError, match="one string for each box"):
        draw_boxes(image, [(0, 0, 1, 1)], ["a", "b"])
    with pytest.raises(ValueError, match=r"boxes\[1\]"):
        draw_boxes(image, [(0, 0, 1, 1), (0, 0, 1)])
    for box in [(0, 0, 1, float("nan")), None, 3, "abcd", (0, 0, 1, "x")]:
        with pytest.raises(ValueError, match=r"boxes\[0\] must hold 4 finite numbers"):
            draw_boxes(image, [box])
    for color in [(1, 2, 3), "no colour", 5, []]:
        with pytest.raises(ValueError, match="color must be the name of a colour"):
            draw_boxes(image, [(0, 0, 1, 1)], color=color)
    for labels in ["a", [None], [3]]:
        with pytest.raises(ValueError, match="labels must be a list of strings"):
            draw_boxes(image, [(0, 0, 1, 1)], labels)


LONG = 100_000


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * LONG + "b",
        " is" * (LONG // 3) + " [0.1,0.2,0.3,0.4]",
        "[0.1,0.2,0.3,0.4]" + "and " * (LONG // 4),
        "the" + " " * LONG + "[0.1,0.2,0.3,0.4]",
        "[" * LONG,
        "[0.1 " * (LONG // 5),
        "[" + "1" * LONG + ",1,1,1]",
        "coordinates " * (LONG // 12),
        "coordinates written. " * (LONG // 20),
        "can you " * (LONG // 8),
        "please, " * (LONG // 8),
        "-" * LONG + "x",
        "position of " * (LONG // 12),
        "where x is " * (LONG // 11),
    ],
    ids=range(14),
)
def test_long_texts_take_linear_time(text):
    """Quadratic time took 7 to 16 seconds; linear time takes milliseconds."""
    image = Image.new("RGB", (200, 100))
    for function in (label_boxes, infer_level, lambda label: draw_boxes(image, [(1, 2, 30, 40)], [label])):
        start = time.process_time()
        function(text)
        assert time.process_time() - start < 5


@given(st.text(alphabet="is at,.=-:;located and", max_size=30))
@example("this is at")
@example("a cat is located at")
@example("isat")
def test_labels_are_those_of_one_expression(text):
    """The joints that are taken off at the end, as a single (quadratic) expression says it."""
    tail = re.compile(r"(?:\b(?:is|are|at|located)|[\s,;:.=-])+$", re.IGNORECASE)
    head = re.compile(r"^(?:(?:and|at)\b|[\s,;:.-])+", re.IGNORECASE)
    [(label, _)] = label_boxes(f"x {text} [0.1,0.2,0.3,0.4]")
    assert label == tail.sub("", head.sub("", f"x {text}".strip()))


def test_a_label_is_shortened_to_what_fits():
    image = Image.new("RGB", (200, 100), "white")
    drawn = draw_boxes(image, [(0, 50, 199, 90)], ["a long label " * 100], color="#ff0000")
    left, top, right, bottom = _changed(image, drawn)
    assert (left, right) == (0, 200)
    assert (
        draw_boxes(image, [(0, 50, 50, 90)], ["a\ndog"]).tobytes()
        == draw_boxes(image, [(0, 50, 50, 90)], ["a dog"]).tobytes()
    )


@pytest.mark.parametrize("box", ["", "abcd", None, [1], [0.1, 0.2, 0.3, "x"], (0.1, 0.2, 0.3, 0.4, 0.5)])
def test_overlap_of_what_is_no_box_is_refused(box):
    with pytest.raises(ValueError, match="`second` must be a box of 4 numbers"):
        intersection_over_union([0.1, 0.2, 0.3, 0.4], box)
