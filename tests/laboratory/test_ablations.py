import json
import math

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from laboratory.ablations import conflict
from laboratory.ablations.__main__ import write_report
from laboratory.ablations.claims import CLAIMS
from laboratory.ablations.report import mean_and_interval
from laboratory.ablations.rows import tags_with_errors, training_rows
from laboratory.world.language import TAGS, scene_tags
from laboratory.world.scene import SPLITS, sample_scene
from lion_multimodal import checkpoints
from processing_lion import LionProcessor


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_wrong_tags_are_not_true_and_stay_wrong_as_their_share_grows(seed, shares):
    scene = sample_scene(seed)
    true = set(scene_tags(scene))
    few, many = (set(tags_with_errors(scene, share)) for share in shares)
    assert few & true >= many & true
    assert few | many <= set(TAGS)
    assert tags_with_errors(scene, 0.0) == scene_tags(scene)
    assert not set(tags_with_errors(scene, 1.0)) & true


def test_the_share_of_wrong_tags_is_the_one_asked_for():
    scenes = [sample_scene(seed) for seed in SPLITS["test"][:300]]
    kept = sum(len(set(tags_with_errors(scene, 0.25)) & set(scene_tags(scene))) for scene in scenes)
    assert kept / sum(len(scene_tags(scene)) for scene in scenes) == pytest.approx(0.75, abs=0.04)


def test_training_rows_of_other_legs_and_seeds_show_other_images():
    levels = ("image_level", "region_level")
    rows = [training_rows(levels, 32, seed, leg, True) for seed, leg in ((0, 0), (0, 1), (1, 0))]
    assert [set(part["level"]) for part in rows] == [set(levels)] * 3
    undecoded = [part.cast_column("image", datasets.Image(decode=False)) for part in rows]
    images = [{image["bytes"] for image in part["image"]} for part in undecoded]
    assert all(not images[a] & images[b] for a, b in ((0, 1), (0, 2), (1, 2)))
    assert all((row["tags"] is None) == (row["level"] == "region_level") for row in rows[0].remove_columns("image"))


def test_legs_that_differ_have_different_names():
    legs = [leg for claim in CLAIMS for variant in claim.variants for leg in variant.legs]
    assert all((one.name == other.name) == (one == other) for one in legs for other in legs)


def test_interval_over_seeds():
    mean, half = mean_and_interval([0.5, 0.6, 0.7])
    assert (mean, half) == (pytest.approx(0.6), pytest.approx(4.303 * 0.1 / math.sqrt(3)))
    assert math.isnan(mean_and_interval([0.5])[1])


def test_report_compares_with_the_papers_way(tmp_path):
    cases = [(claim, *numbered) for claim in CLAIMS for numbered in enumerate(claim.variants)]
    for claim, place, variant in cases:
        for seed in range(3):
            for share in claim.wrong_tags:
                found = dict.fromkeys((*claim.levels, "rec, mean IoU"), 0.5 + 0.1 * place + 0.01 * seed)
                file = tmp_path / f"seed{seed}" / "scores" / claim.name / f"{place} {share}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"variant": variant.name, "wrong_tags": str(share), "scores": found}))
    write_report(tmp_path, {"steps": 5, "samples": 7, "connector_steps": 9})
    table = (tmp_path / "report.md").read_text()
    assert "| hard switch | 0.610 ± 0.025 | +10.0 ± 0.0 * |" in table
    assert "| soft-prompted tags | 75% | 0.510 ± 0.025 |  |" in table
    assert json.loads((tmp_path / "report.json").read_text())["settings"]["seeds"] == ["0", "1", "2"]
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width > picture.height


def test_levels_pull_at_what_they_share(monkeypatch):
    monkeypatch.setattr(conflict, "BATCH", 4)
    # The second half of a level is the first again.
    monkeypatch.setattr(conflict, "training_rows", lambda levels, count, *_: training_rows(levels, count, 0, 0, True))
    nano = checkpoints.path("nano")
    cosines = conflict.measure(nano, LionProcessor.from_pretrained(nano), [0], 1)
    assert list(cosines) == ["Q-Former", "aggregator", "shared adapter"]
    for pairs in cosines.values():
        assert pairs["image_level"] + pairs["region_level"] == pytest.approx([1, 1], abs=1e-3)
        assert abs(pairs["between levels"][0]) < 0.99
