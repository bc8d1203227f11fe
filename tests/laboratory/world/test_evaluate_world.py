import numpy as np
import pytest

from laboratory.world.evaluate_world import (
    Score,
    box_overlap,
    chance_answer,
    held_out,
    object_f1,
    score_task,
    to_markdown,
)
from laboratory.world.language import TASKS, Sample
from laboratory.world.scene import SPLITS, Scene, SceneObject
from lion_multimodal.evaluation.statistics import bootstrap_interval, f1_of_counts
from processing_lion import intersection_over_union


SCENE = Scene(0, (SceneObject("star", "red", (0, 0, 48, 48)), SceneObject("star", "blue", (50, 50, 90, 90))))


@pytest.mark.parametrize(
    ("caption", "score"),
    [
        ("a red star and a blue star.", 1.0),
        ("a red star.", 2 / 3),
        ("a red star and a red star.", 0.5),  # a repeat is not right twice
        ("an orange sun and a blue star.", 0.5),
        ("a star.", 0.0),
        ("", 0.0),
    ],
)
def test_object_f1(caption, score):
    assert object_f1(caption, SCENE) == pytest.approx(score)


def test_intersection_over_union():
    assert intersection_over_union((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert intersection_over_union((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)
    assert intersection_over_union((0, 0, 0.1, 0.1), (0.5, 0.5, 1, 1)) == 0
    assert intersection_over_union((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)) == 0


def test_box_overlap_reads_what_was_written():
    sample = Sample("rec", "region_level", "", "", box=(0.0, 0.0, 0.5, 0.5))
    assert box_overlap("Answer: [0.000,0.000,0.500,0.500]", sample) == 1
    assert box_overlap("no idea", sample) == 0


@pytest.mark.parametrize("task", TASKS)
def test_right_answers_score_one_and_nonsense_zero(task):
    cases = list(held_out(task, 60))
    for right in (True, False):
        answers = [sample.completion if right else "banana" for _, sample in cases]
        for score in score_task(task, cases, answers):
            assert score.value == pytest.approx(float(right), abs=0.01 if score.metric == "mean IoU" else 1e-9)
            assert score.low <= score.value <= score.high
            assert (score.chance is None) == (task == "caption")
            # Who sees the picture knows how many objects there are; nothing else is known without the question.
            assert score.chance is None or 0.05 < score.chance < 0.95 or score.task == "count (objects)"


def test_chance_is_what_guessing_gives():
    cases = list(held_out("color", 3000))
    rng = np.random.default_rng(1)
    guesses = [chance_answer(scene, sample, rng) for scene, sample in cases]
    (score,) = score_task("color", cases, guesses)
    assert score.low < score.chance < score.high


def test_held_out_scenes_are_those_of_the_split():
    for split in ("validation", "test"):
        seeds = [scene.seed for scene, _ in held_out("rec", 20, split)]
        assert all(seed in SPLITS[split] for seed in seeds)
        assert len(set(seeds)) == 20


def test_intervals():
    low, high = bootstrap_interval(np.array([0.0, 1.0] * 500))
    assert 0.46 < low < 0.48
    assert 0.52 < high < 0.54
    assert bootstrap_interval(np.ones(10)) == (1.0, 1.0)


def test_f1_of_counts():
    assert f1_of_counts(np.array([[2, 3, 4], [1, 1, 2]])) == pytest.approx(2 * 3 / 10)
    assert f1_of_counts(np.zeros((3, 3))) == 0


def test_markdown():
    lines = to_markdown(
        [Score("rec", "mean IoU", 0.8, 0.79, 0.81, 0.5, 2000), Score("caption", "F1", 1, 1, 1, None, 5)]
    )
    assert lines.splitlines()[2:] == [
        "| rec | mean IoU | 0.800 | 0.790–0.810 | 0.500 | 2000 |",
        "| caption | F1 | 1.000 | 1.000–1.000 | – | 5 |",
    ]
