import json
import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from configuration_lion import LionConfig
from laboratory.claims import __main__ as command
from laboratory.claims import conflict
from laboratory.claims.claims import CLAIMS
from laboratory.claims.conflict import CONFLICT, cosines_between_levels, share_adapters
from laboratory.claims.questions import BOTH
from laboratory.claims.report import differences, mean_and_interval, to_markdown, variants_of
from laboratory.claims.rows import CELLS, PARTS, QUESTIONS, scene_of, tags_with_errors, training_part
from laboratory.claims.scoring import cases_of, take_exam
from laboratory.claims.tower import train_image_level_tower
from laboratory.claims.training import BATCH, STARTS, Trainings
from laboratory.world.feature_cache import NumberedCollator, tower_features, use_features
from laboratory.world.language import TAGS, relation_holds, scene_tags
from laboratory.world.scene import IMAGE_SIZE, SPLITS
from lion_multimodal import checkpoints
from modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionProcessor
from processing_lion.grounding_lion import parse_boxes


VARIANTS = [variant for _, _, variant in variants_of(CLAIMS)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_wrong_tags_are_not_true_and_stay_wrong_as_their_share_grows(seed, shares):
    scene = scene_of(seed)
    true = set(scene_tags(scene))
    few, many = (set(tags_with_errors(scene, share)) for share in shares)
    assert few & true >= many & true
    assert few | many <= set(TAGS)
    assert tags_with_errors(scene, 0.0) == scene_tags(scene)
    assert not set(tags_with_errors(scene, 1.0)) & true


def test_the_share_of_wrong_tags_is_the_one_asked_for():
    scenes = [scene_of(seed) for seed in SPLITS["test"][:300]]
    kept = sum(len(set(tags_with_errors(scene, 0.25)) & set(scene_tags(scene))) for scene in scenes)
    assert kept / sum(len(scene_tags(scene)) for scene in scenes) == pytest.approx(0.75, abs=0.04)


def test_parts_and_seeds_have_no_image_in_common():
    seen = [{scene.seed for scene in training_part(name, seed, 0.02)[1]} for seed in (0, 1) for name in PARTS]
    assert len(set().union(*seen)) == sum(map(len, seen))
    assert all(number in SPLITS["train"] for number in set().union(*seen))


def test_parts_ask_what_their_levels_are_about():
    asked = {}
    for name in PARTS:
        rows, scenes = training_part(name, 3, 0.05)
        assert len(rows) == QUESTIONS * len(scenes) == round(0.05 * PARTS[name].rows / QUESTIONS) * QUESTIONS
        assert all((row["tags"] is None) == (row["level"] == "region_level") for row in rows)
        asked[name] = {row["level"] for row in rows}
        lonely = np.mean([len(scene.objects) == 1 for scene in scenes])
        assert lonely > 0.25 if name == "region" else lonely < 0.25
    both = {"image_level", "region_level"}
    assert asked == {"image": {"image_level"}, "region": {"region_level"}, "both": both, "tagged": {"image_level"}}


def test_all_ways_of_a_claim_on_stages_see_the_same_samples():
    claim = next(claim for claim in CLAIMS if claim.name == "stages")
    for three, *others in claim.settings.values():
        parts = sorted(part for leg in three.legs for part in leg.parts)
        # Steps of the parts add up, so that one stage takes as many as three.
        assert all(PARTS[part].rows * three.budget % BATCH == 0 for part in parts)
        for other in others:
            assert sorted(part for leg in other.legs for part in leg.parts) == parts
            assert three.budget == other.budget
            size = other.bottleneck_size * (2 if other.legs[0].shared else 1)
            assert size == three.bottleneck_size


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9))
def test_questions_about_boxes_are_true(seed):
    scene = scene_of(seed)
    for make in BOTH.values():
        sample = make(scene, np.random.default_rng(seed))
        if sample is None:
            assert len(scene.objects) == 1 or len({item.center for item in scene.objects}) > 1
            continue
        (box,) = parse_boxes(sample.prompt)
        (shown,) = (item for item in scene.objects if np.allclose(box, item.normalized_box, atol=6e-4))
        if sample.task == "color of a box":
            assert sample.completion == shown.color
        else:
            (holds,) = {
                relation_holds(sample.form, item, shown)
                for item in scene.objects
                if item is not shown
                and (f" {item.name} " in sample.prompt or f"the {item.glyph} {sample.form}" in sample.prompt)
            }
            assert sample.completion == ("yes" if holds else "no")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9))
def test_objects_stand_in_squares_of_their_own(seed):
    scene = scene_of(seed)
    side = IMAGE_SIZE // CELLS
    squares = [tuple(int(value // side) for value in item.center) for item in scene.objects]
    assert len(set(squares)) == len(squares) <= 3
    for item in scene.objects:
        assert max(item.box[2] - item.box[0], item.box[3] - item.box[1]) in range(side - 7, side - 3)


def test_legs_that_differ_have_different_names():
    legs = [leg for variant in VARIANTS for leg in variant.legs]
    assert all((one.name == other.name) == (one == other) for one in legs for other in legs)


def test_interval_over_seeds():
    mean, half = mean_and_interval([0.5, 0.6, 0.7])
    assert (mean, half) == (pytest.approx(0.6), pytest.approx(4.303 * 0.1 / math.sqrt(3)))
    assert math.isnan(mean_and_interval([0.5])[1])


def test_report_compares_with_the_papers_way_in_the_same_setting():
    scores = {}
    for claim in CLAIMS:
        for number, (setting, variants) in enumerate(claim.settings.items()):
            for place, variant in enumerate(variants):
                by_tags = {}
                for tags in command.tags_to_ask_with(claim, variant):
                    by_tags["none" if tags is None else str(tags)] = {
                        str(seed): dict.fromkeys(claim.columns, 0.1 * number + 0.1 * place + 0.01 * seed)
                        for seed in range(3)
                    }
                scores.setdefault(claim.name, {}).setdefault(setting, {})[variant.name] = by_tags
    for claim in CLAIMS:
        for column in claim.columns:
            for setting, name, _, values in differences(claim, scores[claim.name], column):
                place = [variant.name for variant in claim.settings[setting]].index(name)
                assert values == pytest.approx([10 * place] * 3)
    cosines = {"x": {"0.5": {"Q-Former": {"between levels": [0.1], "image_level": [0.2], "region_level": [0.3]}}}}
    names = [variant.name for variant in CLAIMS[1].settings["adapters of 16"]]
    along = {
        name: {
            stage: {str(seed): {"image level": 0.5 + place / 10} for seed in range(3)} for stage in ("stage1", "stage2")
        }
        for place, name in enumerate(names)
    }
    del along["hard switch"]["stage2"]["2"]
    table = to_markdown(scores, along, cosines, {"samples": 7, "seeds": [0, 1, 2]})
    assert "| hard switch | 0.600 ± 0.000 | +10.0 ± 0.0 * | 0.600 ± 0.000 | +10.0 ± 0.0 * |" in table
    assert "| hard switch | 3 | 0.110 ± 0.025 | +10.0 ± 0.0 * |" in table
    assert "| soft-prompted tags | 75% wrong | 3 | 0.010 ± 0.025 |  |" in table
    assert "| no tags | none | 3 | 0.210 ± 0.025 | +20.0 ± 0.0 * |" in table
    # A seed counts when all variants of a setting have it.
    del scores["router"]["adapters of 16"]["hard switch"]["0.0"]["2"]
    assert "| two routed adapters | 2 | 0.005 " in to_markdown(scores, {}, {}, {"samples": 7})
    # All scores are the same whatever the tags.
    assert "| soft-prompted tags | +0.0 ± 0.0 |" in table
    assert "| x | 50% | Q-Former | 0.100 | 0.200 | 0.300 |" in table


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """What the staged nano's shipped weights are without their adapters, as the directory of a finished stage 0."""
    directory = tmp_path_factory.mktemp("stage0")
    path = checkpoints.path("nano-staged")
    trained = LionForConditionalGeneration.from_pretrained(path)
    config = trained.config.to_dict()
    config["adapter_config"]["adapters"] = []
    lion = LionForConditionalGeneration(LionConfig.from_dict(config))
    lion.load_state_dict({name: value for name, value in trained.state_dict().items() if ".adapter." not in name})
    lion.save_pretrained(directory / "base")
    for name in ("base", "processor"):
        LionProcessor.from_pretrained(path).save_pretrained(directory / name)
    RamForImageTagging.from_pretrained(path / "tagger").save_pretrained(directory / "base" / "tagger")
    return directory


def test_a_stopped_run_goes_on_where_it_was(base, tmp_path, monkeypatch):
    arguments = ["--base", str(base), "--output", str(tmp_path), "--scale", "0.01", "--samples", "1"]
    arguments += ["--seeds", "0", "--claims", "tags"]
    scored = command.take_exam

    def stop_in_the_second_variant(*args):
        if len(list(tmp_path.rglob("scores-*"))) == 7:
            raise KeyboardInterrupt
        return scored(*args)

    monkeypatch.setattr(command, "take_exam", stop_in_the_second_variant)
    with pytest.raises(KeyboardInterrupt):
        command.main(arguments)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    monkeypatch.setattr(command, "take_exam", scored)
    command.main(arguments)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["scores"]["tags"]["stage 1"]
    assert {name: list(by_tags) for name, by_tags in found.items()} == {
        "soft-prompted tags": ["tagger", "0.0", "0.25", "0.5", "0.75"],
        "plain tags": ["tagger", "0.0", "0.25", "0.5", "0.75"],
        "no tags": ["none"],
        "soft prompt, not trained": ["tagger", "0.0", "0.25", "0.5", "0.75"],
    }
    # Tags behind a word: stage 1 trains everything but the soft prompt, which is that word.
    trainings = Trainings(base, tmp_path, 0, 0.01)
    words = LionForConditionalGeneration.from_pretrained(base / "base").get_input_embeddings().weight
    word = words[trainings.processor.tokenizer.convert_tokens_to_ids("▁image")]
    named = {variant.name: trainings.train(variant) for variant in CLAIMS[2].settings["stage 1"]}
    prompts = {
        name: LionForConditionalGeneration.from_pretrained(path).soft_prompt.weight for name, path in named.items()
    }
    assert prompts["plain tags"].equal(word)
    assert not prompts["soft-prompted tags"].equal(prompts["soft prompt, not trained"])
    with Image.open(tmp_path / "report.png") as picture:
        assert min(picture.size) > 300
    with pytest.raises(SystemExit, match="choose another --output"):
        command.main([*arguments, "--samples", "2"])
    with pytest.raises(SystemExit, match="--settings must be among stage 1"):
        command.main([*arguments, "--settings", "stage 7"])


def test_what_each_way_trains(base, tmp_path, monkeypatch):
    monkeypatch.setattr(conflict, "_ROWS", 4)
    trainings = Trainings(base, tmp_path, 0, 0.01)
    named = {(claim.name, variant.name): variant for claim, _, variant in variants_of(CLAIMS)}

    def weights(variant):
        path = trainings.train(variant)
        return path, LionForConditionalGeneration.from_pretrained(path).state_dict()

    path, routed = weights(named["router", "two routed adapters"])
    _, switch = weights(named["router", "hard switch"])
    before = trainings.directories(named["router", "hard switch"])[0]
    start = LionForConditionalGeneration.from_pretrained(before).state_dict()
    routers = [name for name in start if name.endswith(".router_ratios")]
    _, fast = weights(named["router", "routers that learn 30 times as fast"])
    moved = [max((one[name] - start[name]).abs().max().item() for name in routers) for one in (routed, fast)]
    assert moved[1] > 10 * moved[0] > 0
    _, shared = weights(named["router", "one shared adapter of 16"])
    union, _ = weights(CLAIMS[0].settings["adapters of 16"][1])
    quarter, _ = weights(named["stages", "the union, one shared adapter of 4"])
    assert all(switch[name].equal(start[name]) for name in routers)
    assert all((shared[name] == 1).all() for name in routers)
    assert not (path / CONFLICT).exists()
    assert not (quarter / CONFLICT).exists()  # only where all samples are seen
    cosines = json.loads((union / CONFLICT).read_text())
    assert list(cosines)
    assert set(cosines["0.0"]) == {"Q-Former", "aggregator", "adapters"}
    # Of a claim on adapters, the image level is asked after every stage.
    options = Namespace(base=base, output=tmp_path, scale=0.01, tower_steps=1, samples=4)
    command.run(options, 0, CLAIMS[1], named["router", "one shared adapter of 16"])
    command.write_report(base, tmp_path, {"samples": 4})
    report = json.loads((tmp_path / "report.json").read_text())
    along = report["along"]["one shared adapter of 16"]
    assert {stage: list(by_seed) for stage, by_seed in along.items()} == {"stage1": ["0"], "stage2": ["0"]}
    assert "| one shared adapter of 16 | 0." in (tmp_path / "report.md").read_text()
    assert (tmp_path / "routers_fast.png").is_file()


def test_starts_are_those_that_variants_name():
    assert {variant.start for variant in VARIANTS} == set(STARTS)


def test_towers_on_image_level_targets(base, tmp_path):
    own = LionForConditionalGeneration.from_pretrained(base / "base").vision_model.state_dict()
    whole = train_image_level_tower(base, tmp_path / "whole", 2)
    late = train_image_level_tower(base, tmp_path / "late", 4, late=True)
    assert whole.keys() == late.keys() == own.keys()
    same = {name for name, value in late.items() if value.equal(own[name])}
    last = tuple(f"encoder.layers.{block}." for block in (4, 5))
    assert {name.startswith(last) for name in same} == {False}
    assert same == {name for name in own if not name.startswith((*last, "post_layernorm."))}
    assert not any(value.equal(own[name]) for name, value in whole.items() if name.endswith("k_proj.weight"))
    again = train_image_level_tower(base, tmp_path / "whole", 2)
    assert all(value.equal(again[name]) for name, value in whole.items())
    trainings = Trainings(base, tmp_path, 0, tower_steps=2)
    (tmp_path / "whole").rename(tmp_path / "tower")
    (tmp_path / "late").rename(tmp_path / "late_tower")
    for setting, tower in zip(CLAIMS[3].settings.values(), (whole, late), strict=True):
        model = trainings._start(setting[0])
        assert model.config.aggregator_config.query_layer == 5
        assert list(model.config.aggregator_config.context_layers) == [3, 1]
        assert all(value.equal(tower[name]) for name, value in model.vision_model.state_dict().items())


def test_the_exam_finds_what_a_trained_model_knows(base, tmp_path):
    path = checkpoints.path("nano-staged")
    model = LionForConditionalGeneration.from_pretrained(path).requires_grad_(False).eval()
    tools = LionProcessor.from_pretrained(path), RamForImageTagging.from_pretrained(path / "tagger").eval()
    found = take_exam(model, *tools, "all", 8, 0.0, tmp_path)
    assert found["image level"] > 0.8
    assert found["region level"] > 0.8
    assert found["both"] == np.mean([found[task] for task in BOTH])
    wrong = take_exam(model, *tools, "tags", 8, 0.75, tmp_path)
    assert wrong["caption"] < found["caption"]
    assert "image level" not in wrong
    assert [scene.seed for scene, _ in cases_of("rec", 5)] == list(SPLITS["test"][:5])


def test_levels_pull_at_what_they_share():
    nano = checkpoints.path("nano-staged")
    model = LionForConditionalGeneration.from_pretrained(nano).requires_grad_(False)
    rows, scenes = training_part("both", 0, 0.02)
    use_features(model, tower_features(model, scenes))
    share_adapters(model)
    with pytest.raises(ValueError, match="use_images"):
        tower_features(model, scenes)
    model.requires_grad_(True)
    by_level = {level: [row for row in rows if row["level"] == level][:8] for level in ("image_level", "region_level")}
    halves = {(level, half): chosen for level, chosen in by_level.items() for half in (0, 1)}
    cosines = cosines_between_levels(model, NumberedCollator(LionProcessor.from_pretrained(nano)), halves)
    assert set(cosines) == {"Q-Former", "aggregator", "adapters"}
    for pairs in cosines.values():
        # The second half of a level is the first again.
        assert [pairs["image_level"], pairs["region_level"]] == pytest.approx([1, 1], abs=1e-3)
        assert abs(pairs["between levels"]) < 0.99
    assert all(parameter.grad is None for parameter in model.parameters())
