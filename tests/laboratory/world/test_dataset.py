import numpy as np
import pytest

from laboratory.world.dataset import LEVELS, ask, build_world, generate_rows, noisy_tags
from laboratory.world.language import TASKS, scene_tags
from laboratory.world.scene import SPLITS, render, sample_scene


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))


def test_map_style_and_streaming_give_the_same_rows():
    arguments = {"split": "validation", "num_scenes": 3, "questions": 2}
    prepared, stream = build_world(**arguments), build_world(**arguments, streaming=True)
    assert len(prepared) == 6
    for left, right in zip(prepared, stream, strict=True):
        assert left["image"].convert("RGB").tobytes() == right["image"].convert("RGB").tobytes()
        assert {key: left[key] for key in left if key != "image"} == {
            key: right[key] for key in right if key != "image"
        }


def test_rows_are_about_their_image():
    for row in build_world(num_scenes=4, questions=8, streaming=True):
        scene = sample_scene(row["seed"])
        assert row["image"].convert("RGB").tobytes() == render(scene).tobytes()
        assert row["tags"] == scene_tags(scene)
        assert [item["glyph"] for item in row["objects"]] == [item.glyph for item in scene.objects]
        assert np.allclose([item["box"] for item in row["objects"]], [item.normalized_box for item in scene.objects])
        assert bool(row["box"]) == (row["task"] in ("rec", "reg"))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_has_its_tasks_only(level):
    rows = list(generate_rows(range(20), LEVELS[level], questions=6))
    assert {row["task"] for row in rows} == set(LEVELS[level])
    assert {row["level"] for row in rows} == {level}
    assert len(rows) == 120


def test_levels_cover_all_tasks_once():
    assert sorted(task for tasks in LEVELS.values() for task in tasks) == sorted(TASKS)


@pytest.mark.parametrize("split", SPLITS)
def test_seeds_are_those_of_the_split(split):
    seeds = {row["seed"] for row in build_world(split, num_scenes=3, first_scene=7, streaming=True)}
    assert seeds == set(SPLITS[split][7:10])


def test_questions_are_reproducible():
    assert ask(sample_scene(3), tuple(TASKS), 5) == ask(sample_scene(3), tuple(TASKS), 5)


def test_tags_with_mistakes():
    scenes = [sample_scene(seed) for seed in range(400)]
    true = [set(scene_tags(scene)) for scene in scenes]
    assert all(set(noisy_tags(scene)) == tags for scene, tags in zip(scenes, true))
    given = [set(noisy_tags(scene, missing=0.2, wrong=0.5)) for scene in scenes]
    missing = sum(len(tags - some) for tags, some in zip(true, given)) / sum(map(len, true))
    wrong = np.mean([bool(some - tags) for tags, some in zip(true, given)])
    assert 0.15 < missing < 0.25
    assert 0.25 < wrong < 0.5  # a tag drawn at random is true in about a quarter of all cases


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split must be one of train, validation, test, got 'dev'"),
        ({"num_scenes": 0}, "num_scenes must lie within"),
        ({"split": "test", "first_scene": 100_000_000}, "must lie within the 100000000 scenes"),
        ({"level": "pixel_level"}, "level must be one of image_level, region_level"),
        ({"tasks": ["caption", "poem"]}, "got poem"),
        ({"questions": 0}, "questions must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_world(**arguments)


def test_impossible_tasks_are_reported():
    lonely = next(scene for scene in map(sample_scene, range(100)) if len(scene.objects) == 1)
    with pytest.raises(ValueError, match="allows none of the tasks direction"):
        ask(lonely, ("direction",), 1)
