"""Metrics of candidates: multiple choice, circular accuracy, ranking."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch

from lion_multimodal.evaluation.metrics import load_metric


def test_multiple_choice_takes_the_most_likely():
    result = load_metric("multiple_choice_accuracy").compute(
        predictions=[[-1.0, -2.0], [-5.0, -4.0, -3.0], [-2.0, -2.0], [-2.0, -2.0]],
        references=[0, 1, 0, 1],
        per_sample=True,
    )
    assert result == {
        "accuracy": 0.5,
        "chance_accuracy": pytest.approx((0.5 * 3 + 1 / 3) / 4),
        # Of equally likely candidates, the first.
        "per_sample": [1.0, 0.0, 1.0, 0.0],
    }


def circular(rows):
    """Rows of (likelihoods, right place, question, ability)."""
    names = ("predictions", "references", "groups", "categories")
    columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return load_metric("mmbench_circular").compute(**columns, per_sample=True)


def test_a_question_counts_if_all_its_rotations_are_right():
    result = circular(
        [
            ([-1.0, -2.0], 0, "1", "logic_reasoning"),
            ([-9.0, -2.0, -3.0], 1, "2", "coarse_perception"),
            ([-2.0, -1.0], 1, "1", "logic_reasoning"),
            ([-9.0, -2.0, -3.0], 2, "2", "coarse_perception"),
            ([-1.0, -2.0, -3.0], 0, "2", "coarse_perception"),
            ([-1.0, -2.0, -3.0], 0, "3", "coarse_perception"),
        ]
    )
    assert result == {
        "accuracy": pytest.approx(2 / 3),
        "rotation_accuracy": pytest.approx(5 / 6),
        "incomplete": 1,
        "coarse_perception": 0.5,
        "logic_reasoning": 1.0,
        "per_sample": [1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
    }


def test_always_choosing_one_place_is_never_right():
    """What circular evaluation is for."""
    rows = [
        ([0.0, -1.0, -1.0, -1.0], place, str(question), "any")
        for question, place in itertools.product(range(5), range(4))
    ]
    result = circular(rows)
    assert result["rotation_accuracy"] == 0.25
    assert result["accuracy"] == 0


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (([0.0, 1.0], 0, "1", "other"), "category 'any' and its 2 options, one has 'other' and 2"),
        (([0.0, 1.0, 2.0], 0, "1", "any"), "one has 'any' and 3"),
        (([0.0, 1.0], 0, "2", "accuracy"), r"categories\[1\] must be none of .*accuracy.*got 'accuracy'"),
    ],
)
def test_rotations_must_belong_together(second, message):
    with pytest.raises(ValueError, match=message):
        circular([([0.0, 1.0], 0, "1", "any"), second])


def rank(scores, references, relevance=None):
    relevance = [[] for _ in scores] if relevance is None else relevance
    return load_metric("visdial_ranking").compute(
        predictions=scores, references=references, relevance=relevance, per_sample=True
    )


def challenge_figures(scores, references, relevance):
    """Written after the challenge's definitions with sorting by torch, for scores without ties."""
    order = torch.tensor(scores).argsort(dim=1, descending=True)
    ranks = 1 + order.argsort(dim=1)[torch.arange(len(scores)), torch.tensor(references)].double()
    gains = []
    for row, values in zip(order, relevance):
        values = torch.tensor(values, dtype=torch.float64)
        count = int((values != 0).sum())
        discounts = torch.log2(torch.arange(count, dtype=torch.float64) + 2)
        best = values.sort(descending=True).values[:count]
        gains.append(((values[row[:count]] / discounts).sum() / (best / discounts).sum()).item())
    figures = {f"R@{most}": (ranks <= most).double().mean().item() for most in (1, 5, 10)}
    figures |= {"MRR": (1 / ranks).mean().item(), "mean_rank": ranks.mean().item(), "NDCG": float(np.mean(gains))}
    return figures


def test_ranking_equals_the_challenge_without_ties():
    rng = random.Random(0)
    scores = [[float(value) for value in rng.sample(range(1000), 100)] for _ in range(50)]
    references = [rng.randrange(100) for _ in scores]
    relevance = [[rng.choice([0, 0, 0, 0.2, 0.4, 0.5, 0.8, 1.0]) for _ in range(100)] for _ in scores]
    result = rank(scores, references, relevance)
    for key, figure in challenge_figures(scores, references, relevance).items():
        assert result[key] == pytest.approx(figure, abs=1e-9), key
    assert result["NDCG_rounds"] == 50


def test_ranking_of_ties_is_the_mean_over_their_orders():
    scores, reference, relevance = [3.0, 1.0, 1.0, 1.0, 0.0], 2, [0.0, 1.0, 0.5, 0.0, 0.5]
    result = rank([scores], [reference], [relevance])
    orders = []
    for shift in itertools.permutations([0.1, 0.2, 0.3]):
        untied = [3.0, *(1.0 + value for value in shift), 0.0]
        orders.append(challenge_figures([untied], [reference], [relevance]))
    for key in orders[0]:
        assert result[key] == pytest.approx(np.mean([order[key] for order in orders]), abs=1e-9), key
    assert result["per_sample"] == pytest.approx([np.mean([1 / 2, 1 / 3, 1 / 4])])


def test_a_model_that_knows_nothing_gains_nothing_by_ties():
    result = rank([[0.0] * 100] * 2, [0, 99])
    assert result["mean_rank"] == 50.5
    assert result["R@10"] == pytest.approx(0.1)
    assert result["MRR"] == pytest.approx(sum(1 / place for place in range(1, 101)) / 100)


def test_rounds_without_relevance_do_not_count_for_ndcg():
    result = rank([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]], [0, 0, 0], [[0.0, 1.0], [], [0.0, 0.0]])
    assert result["NDCG"] == pytest.approx(0.0)
    assert result["NDCG_rounds"] == 1
    result = rank([[2.0, 1.0]], [0], [[0.5, 1.0]])
    assert result["NDCG"] == pytest.approx((0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3)))
    assert "NDCG" not in rank([[2.0, 1.0]], [0])


@pytest.mark.parametrize(
    ("relevance", "message"), [([1.0], "a number for each of 2 candidates or none, got 1"), ([2.0, 0.0], "from 0 to 1")]
)
def test_relevance_must_be_of_the_candidates(relevance, message):
    with pytest.raises(ValueError, match=rf"relevance\[0\] must hold.*{message}"):
        rank([[1.0, 2.0]], [0], [relevance])
