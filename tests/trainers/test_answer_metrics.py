import numpy as np
import pytest
from transformers import EvalPrediction

from trainers.answer_metrics import ComputeAnswerMetrics, answer_metrics


def test_exact_match_and_boxes():
    metrics = answer_metrics(
        ["A cat. ", "a dog", "Answer: [0.0,0.0,0.5,1.0]", "no box", "[0.5,0.5,0.6,0.6]"],
        ["a cat", "a cat", "[0.0,0.0,0.6,1.0]", "[0.0,0.0,0.6,1.0]", "[0.0,0.0,0.6,1.0]"],
    )
    assert metrics == {"exact_match": pytest.approx(0.2), "box_accuracy": pytest.approx(1 / 3)}


def test_box_accuracy_only_where_there_are_boxes():
    assert answer_metrics(["a cat"], ["a cat"]) == {"exact_match": 1.0}
    assert answer_metrics([], []) == {}


def test_ids_are_decoded_and_unusable_rows_left_out(processor):
    def ids(texts):
        encoded = processor.tokenizer(texts, padding=True, return_tensors="np")
        return np.where(encoded["attention_mask"] == 1, encoded["input_ids"], -100)

    labels = ids(["a cat", "a dog", "a cat"])
    labels[1] = -100
    prediction = EvalPrediction(predictions=ids(["a cat", "a dog", "a dog"]), label_ids=labels)
    assert ComputeAnswerMetrics(processor)(prediction) == {"exact_match": 0.5}
