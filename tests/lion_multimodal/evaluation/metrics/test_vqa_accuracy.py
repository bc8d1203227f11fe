"""VQA accuracy against the official code's figures, frozen in `golden/vqa.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lion_multimodal.evaluation.metrics import load_metric
from lion_multimodal.evaluation.metrics.vqa_accuracy.vqa_accuracy import normalize_answer


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "golden" / "vqa.json").read_text(encoding="utf-8"))


def test_equals_the_official_code(golden):
    result = load_metric("vqa_accuracy").compute(
        predictions=golden["predictions"], references=golden["references"], per_sample=True
    )
    assert result["per_sample"] == pytest.approx(golden["accuracies"], abs=1e-12)
    assert result["accuracy"] == pytest.approx(sum(golden["accuracies"]) / len(golden["accuracies"]), abs=1e-12)
    assert 0.1 < result["accuracy"] < 0.9


def test_normalizes_as_the_official_code(golden):
    assert {answer: normalize_answer(answer) for answer in golden["normalized"]} == golden["normalized"]


@pytest.mark.parametrize(("same", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_annotators_leave_one_out(same, accuracy):
    answers = ["cat"] * same + [f"other {number}" for number in range(10 - same)]
    result = load_metric("vqa_accuracy").compute(predictions=["the cat."], references=[answers])
    # If all agree, nothing is normalized, as in the official code.
    assert result["accuracy"] == pytest.approx(0.0 if same == 10 else accuracy)
    result = load_metric("vqa_accuracy").compute(predictions=["cat"], references=[answers])
    assert result["accuracy"] == pytest.approx(accuracy)


def test_one_annotator_is_not_enough():
    with pytest.raises(ValueError, match=r"references\[1\] must be the answers of two people"):
        load_metric("vqa_accuracy").compute(predictions=["a", "b"], references=[["a", "a"], ["b"]])
