"""Metrics of short answers: POPE and exact match."""

from __future__ import annotations

import pytest

from lion_multimodal.evaluation.metrics import load_metric
from lion_multimodal.evaluation.metrics.pope.pope import says_yes


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("yes", True),
        ("Yes, there is a dog.", True),
        ("no", False),
        ("No.", False),
        ("No, there is not", False),
        ("There is not a dog in the image", False),
        # The first sentence decides.
        ("Yes. There is no cat, though", True),
        ("no,", False),
        # What POPE's own code reads as yes.
        ("", True),
        ("NO", True),
        ("nothing", True),
        ("there isn't a dog", True),
        ("no!", True),
        ("maybe", True),
    ],
)
def test_pope_reads_answers_as_its_own_code(answer, yes):
    assert says_yes(answer) == yes


def test_pope_figures():
    answers = ["yes"] * 3 + ["no"] * 2 + ["yes"] + ["no"] * 3 + ["maybe"]
    truth = ["yes"] * 5 + ["no"] * 5
    result = load_metric("pope").compute(predictions=answers, references=truth, per_sample=True)
    rows = result.pop("per_sample")
    assert result == pytest.approx(
        {"accuracy": 0.6, "precision": 3 / 5, "recall": 3 / 5, "f1": 0.6, "yes_ratio": 0.5, "unclear": 0.1}
    )
    assert rows == [(1, 1, 1)] * 3 + [(0, 0, 1)] * 2 + [(0, 1, 0)] + [(0, 0, 0)] * 3 + [(0, 1, 0)]


def test_pope_without_a_yes():
    result = load_metric("pope").compute(predictions=["no", "no"], references=["yes", "no"])
    assert (result["precision"], result["recall"], result["f1"], result["accuracy"]) == (0, 0, 0, 0.5)
    result = load_metric("pope").compute(predictions=["no"], references=["no"])
    assert (result["f1"], result["accuracy"]) == (0, 1)


def test_pope_needs_yes_or_no():
    with pytest.raises(ValueError, match=r"references\[0\] must be 'yes' or 'no', got 'Yes'"):
        load_metric("pope").compute(predictions=["yes"], references=["Yes"])


@pytest.mark.parametrize(
    ("prediction", "right", "strictly"),
    [
        ("red", True, True),
        (" Red. ", True, False),
        ("red .", True, False),
        ("dark red", False, False),
        ("re d", False, False),
        ("", False, False),
    ],
)
def test_exact_match(prediction, right, strictly):
    result = load_metric("exact_match_accuracy").compute(predictions=[prediction], references=["red"])
    assert result == {"accuracy": float(right), "strict_accuracy": float(strictly)}


def test_exact_match_needs_answers():
    with pytest.raises(ValueError, match=r"references\[1\] must be an answer, got ' \. '"):
        load_metric("exact_match_accuracy").compute(predictions=["a", "b"], references=["a", " . "])
