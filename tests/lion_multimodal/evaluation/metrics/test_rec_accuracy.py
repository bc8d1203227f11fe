"""REC accuracy and IoU against counting cells of a grid."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lion_multimodal.evaluation.metrics import load_metric
from processing_lion import format_box, intersection_over_union


# Corners lie on the lines of a grid, whose cells are counted; 25 thousandths are written without rounding.
CELLS = 40
SIDES = st.tuples(st.integers(0, CELLS), st.integers(0, CELLS)).filter(lambda pair: pair[0] != pair[1]).map(sorted)
BOXES = st.tuples(SIDES, SIDES).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


def cells(box):
    left, top, right, bottom = box
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


def counted(first, second):
    first, second = cells(first), cells(second)
    return Fraction(len(first & second), len(first | second))


def fractions(box):
    return [side / CELLS for side in box]


@pytest.fixture(scope="module")
def metric():
    return load_metric("rec_accuracy")


@given(BOXES, BOXES)
@settings(max_examples=300, deadline=None)
def test_overlap_is_the_share_of_cells(first, second):
    expected = counted(first, second)
    assert intersection_over_union(fractions(first), fractions(second)) == pytest.approx(float(expected), abs=1e-12)
    assert intersection_over_union(first, second) == pytest.approx(float(expected), abs=1e-15)


@given(st.lists(st.tuples(BOXES, BOXES), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_accuracy_and_mean_equal_counting(metric, pairs):
    result = metric.compute(
        predictions=[f"It is at {format_box(fractions(found))}." for found, _ in pairs],
        references=[fractions(true) for _, true in pairs],
        per_sample=True,
    )
    overlaps = [counted(*pair) for pair in pairs]
    assert result["per_sample"] == [float(overlap >= Fraction(1, 2)) for overlap in overlaps]
    assert result["accuracy"] == pytest.approx(sum(result["per_sample"]) / len(pairs))
    assert result["mean_iou"] == pytest.approx(float(sum(overlaps)) / len(pairs), abs=1e-12)
    assert result["without_box"] == 0


@given(BOXES.filter(lambda box: (box[2] - box[0]) % 2 == 0))
@settings(max_examples=100, deadline=None)
def test_half_of_a_box_is_right(metric, box):
    """An overlap of one half exactly, which rounding must not decide."""
    left, top, right, bottom = box
    half = (left, top, (left + right) // 2, bottom)
    for found, true in ((half, box), (box, half)):
        result = metric.compute(predictions=[format_box(fractions(found))], references=[fractions(true)])
        assert result["accuracy"] == 1
        assert result["mean_iou"] == pytest.approx(0.5, abs=1e-12)


def test_first_box_counts_and_no_box_is_wrong(metric):
    true = [0.1, 0.1, 0.5, 0.5]
    answers = ["[0.1,0.1,0.5,0.5] or [0.6,0.6,0.9,0.9]", "[0.6,0.6,0.9,0.9] or [0.1,0.1,0.5,0.5]", "on the left", ""]
    result = metric.compute(predictions=answers, references=[true] * 4, per_sample=True)
    assert result == {
        "accuracy": 0.25,
        "mean_iou": pytest.approx(0.25),
        "without_box": 0.5,
        "per_sample": [1.0, 0.0, 0.0, 0.0],
    }


def test_threshold(metric):
    inputs = {"predictions": ["[0.0,0.0,0.6,1.0]"], "references": [[0, 0, 1, 1]]}
    assert metric.compute(**inputs)["accuracy"] == 1
    assert metric.compute(**inputs, threshold=0.6)["accuracy"] == 1
    assert metric.compute(**inputs, threshold=0.61)["accuracy"] == 0
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1, got 50"):
        metric.compute(**inputs, threshold=50)


@pytest.mark.parametrize(
    "box", [[0, 0, 1], [0, 0, 1, 1, 1], [0, 0, 640, 480], [0.5, 0, 0.5, 1], [0.6, 0, 0.5, 1], [-0.1, 0, 1, 1]]
)
def test_references_must_be_boxes(metric, box):
    with pytest.raises(ValueError, match=r"references\[1\] must be a box with an area"):
        metric.compute(predictions=["", ""], references=[[0, 0, 1, 1], box])
