"""Predictions to figures."""

import dataclasses

import pytest

from lion_multimodal.evaluation.benchmark import Example, Metric
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.metrics import load_metric
from lion_multimodal.evaluation.rows import read_examples
from lion_multimodal.evaluation.scoring import score
from tests.lion_multimodal.evaluation.small import Agreement, benchmark


TWO_PARTS = benchmark("two", metrics={"": Metric("agreement", "accuracy")}, published={"a": {"LION-4B": 51.0}})


def examples(*rows):
    """Examples with an id, a part, an image and an answer."""
    return [Example(name, None, image, "?", {"references": answer}, part=part) for name, part, image, answer in rows]


ROWS = examples(("1", "b", "x", "yes"), ("2", "a", "x", "no"), ("3", "a", "y", "no"), ("4", "a", "y", "yes"))


def test_parts_are_scored_apart_in_the_order_of_the_benchmark():
    a, b = score(TWO_PARTS, ROWS, {"1": "yes", "2": "no", "3": "yes", "4": "no"}, Agreement)
    assert (a.part, a.value, a.samples) == ("a", pytest.approx(100 / 3), 3)
    assert (b.part, b.value, b.samples) == ("b", 100.0, 1)
    assert a.published == {"LION-4B": 51.0}
    assert b.published == {}
    assert a.figures == {"accuracy": pytest.approx(1 / 3), "right": 1.0}
    assert a.notes == {"by": "equality"}


def test_only_what_was_answered_counts():
    (a,) = score(TWO_PARTS, ROWS, {"2": "no"}, Agreement)
    assert (a.value, a.samples) == (100.0, 1)
    with pytest.raises(ValueError, match="no predictions"):
        score(TWO_PARTS, ROWS, {}, Agreement)


def test_interval_draws_images():
    """Questions about one image stand and fall together."""
    rows = examples(*((f"{picture}/{n}", "a", str(picture), "yes") for picture in range(12) for n in range(20)))
    right = {row.id: "yes" if int(row.image_id) % 2 else "no" for row in rows}
    (by_image,) = score(TWO_PARTS, rows, right, Agreement)
    alone = [dataclasses.replace(row, image_id=row.id) for row in rows]
    (by_question,) = score(TWO_PARTS, alone, right, Agreement)
    assert by_image.value == by_question.value == 50.0
    width = by_image.interval[1] - by_image.interval[0]
    assert width > 3 * (by_question.interval[1] - by_question.interval[0])
    assert by_image.interval[0] <= 50 <= by_image.interval[1]
    (one,) = score(TWO_PARTS, rows[:20], right, Agreement)
    assert one.interval is None


def test_a_metric_that_cannot_be_computed_is_named():
    broken = benchmark("broken", metrics={"": Metric("spice", "SPICE")}, published={})
    with pytest.raises(ValueError, match="the metric spice cannot be computed: spice needs what is not there"):
        score(broken, ROWS, {"1": "yes"}, Agreement)
    wrong = benchmark("wrong", metrics={"": Metric("agreement", "f1")}, published={})
    with pytest.raises(ValueError, match="the metric agreement gives no 'f1'"):
        score(wrong, ROWS, {"1": "yes"}, Agreement)


def test_a_further_metric_that_cannot_be_computed_is_a_note():
    more = benchmark(
        "more", metrics={"": Metric("agreement", "accuracy")}, published={}, further_metrics=(Metric("spice", "SPICE"),)
    )
    (found,) = score(more, ROWS[:1], {"1": "yes"}, Agreement)
    assert found.value == 100.0
    assert found.notes["SPICE"] == "not computed: spice needs what is not there"


def test_a_headline_that_is_not_finite():
    class Nothing(Agreement):
        def _compute(self, **inputs):
            return {"accuracy": float("nan")}

    with pytest.raises(ValueError, match="gives nan for its accuracy"):
        score(TWO_PARTS, ROWS, {"1": "yes"}, Nothing)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_truth_scores_best(synthetic, name):
    """With each benchmark's own metrics: whoever says what is true gets full marks, whoever says what is false none."""
    definition = BENCHMARKS[name]
    asked = read_examples(definition, synthetic)
    metric = dataclasses.replace(definition, further_metrics=())
    true, false = {}, {}
    for example in asked:
        reference = example.metric_inputs["references"]
        if example.candidates is not None:
            true[example.id] = [float(place == reference) for place in range(len(example.candidates))]
            false[example.id] = [float(place != reference) for place in range(len(example.candidates))]
            continue
        false[example.id] = {"yes": "no", "no": "yes"}.get(str(reference), "nothing of that")
        if isinstance(reference, list) and isinstance(reference[0], float):
            true[example.id] = "[" + ",".join(f"{side:.3f}" for side in reference) + "]"
        elif isinstance(reference, list):
            true[example.id] = max(reference, key=reference.count)
        else:
            true[example.id] = reference
    best, worst = score(metric, asked, true, load_metric), score(metric, asked, false, load_metric)
    assert sum(found.samples for found in best) == len(asked)
    for high, low in zip(best, worst, strict=True):
        if high.headline == "CIDEr":
            assert high.value > 100
        else:
            assert high.value == pytest.approx(100, abs=1e-6)
        assert low.value < (5 if high.headline == "MRR" else 1e-6)
        assert set(high.published) == set(definition.published.get(high.part, {}))
