import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from laboratory.world import staged
from laboratory.world.backbones import build_processor, steps_by_phase
from laboratory.world.feature_cache import numbered_rows, run_cached_stage, tower_features, use_features
from laboratory.world.literacy import ExercisePool
from laboratory.world.scene import SPLITS, sample_scene
from laboratory.world.staged import (
    PHASES,
    AlignmentBatches,
    AlignmentTeacher,
    StagedPhases,
    pretrain_staged_base,
    start_projection,
)
from laboratory.world.staged_report import STATES, report_stages, to_markdown
from lion_multimodal import checkpoints
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionProcessor
from trainers.recipe import Recipe, SourceRecipe, StageRecipe
from trainers.run import run_stage, write_final
from trainers.stages import AGGREGATOR_PARTS, Q_FORMER_PARTS, STAGES


BUILDER = "laboratory.world.dataset:build_world"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Stage 0, one step a phase, from the shipped tagger and tower."""
    directory = tmp_path_factory.mktemp("stage0")
    parts = {
        "tower": LionForConditionalGeneration.from_pretrained(checkpoints.path()).vision_model,
        "tagger": RamForImageTagging.from_pretrained(checkpoints.path() / "tagger"),
    }
    for phase, part in parts.items():
        (directory / phase).mkdir()
        save_file(part.state_dict(), directory / phase / "weights.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged, "_RIDGE_SCENES", 60)
        patch.setattr(staged, "_LITERACY_SCENES", 50)
        patch.setattr(staged, "_LITERACY_BATCH", 32)
        patch.setattr("laboratory.world.backbones.calibrate_thresholds", lambda tagger: [0.5] * len(tagger.config.tags))
        path = pretrain_staged_base(directory, resume=True, steps={"literacy": 1, "alignment": 1}, save_steps=1)
        assert pretrain_staged_base(directory, resume=True) == path
    return path


@pytest.fixture
def student(tmp_path):
    build_processor(tmp_path / "tokenizers").save_pretrained(tmp_path / "processor")
    phases = StagedPhases(tmp_path, steps_by_phase(PHASES, None), 0, False, 10)
    lion, vocabulary = phases.build_student()
    return phases, lion, vocabulary


def test_the_base_has_no_adapters_and_a_new_aggregator(base):
    lion = LionForConditionalGeneration.from_pretrained(base)
    assert lion.config.adapter_config.adapters == []
    for layer in lion.vision_aggregator.layers:
        assert not layer.attention.dense.weight.any()
        assert not layer.crossattention.dense.weight.any()
    # One step of literacy and one of alignment each moved their own part, and nothing of the other's.
    stage0 = base.parent
    aligned = load_file(stage0 / "alignment" / "weights.safetensors")
    own = lion.state_dict()
    assert all(torch.equal(own[name], value) for name, value in aligned.items() if name.startswith(Q_FORMER_PARTS))
    literate = load_file(stage0 / "literacy" / "weights.safetensors")
    assert torch.equal(own["language_model.shared.weight"], literate["shared.weight"])
    assert not torch.equal(literate["shared.weight"], aligned["language_model.shared.weight"])


def test_literacy_goes_on_where_it_was_killed(base, tmp_path, monkeypatch):
    # The embeddings of T5 have three names, of which a checkpoint holds one.
    monkeypatch.setattr(staged, "_LITERACY_SCENES", 50)
    monkeypatch.setattr(staged, "_LITERACY_BATCH", 32)
    before = base.parent
    for phase in ("tower", "tagger", "alignment", "processor", "tokenizers"):
        shutil.copytree(before / phase, tmp_path / phase)
    shutil.copytree(before / "literacy" / "checkpoint-1", tmp_path / "literacy" / "checkpoint-1")
    phases = StagedPhases(tmp_path, steps_by_phase(PHASES, {"literacy": 3}), 0, False, 10)
    phases.exercises("literacy", staged.NUM_SLOTS)
    with monkeypatch.context() as patch:
        patch.delattr(ExercisePool, "make")  # exercises that are there are not made again
        phases.run("literacy")
    assert not phases.exercise_file("literacy").exists()
    assert json.loads((tmp_path / "literacy" / "trainer_state.json").read_text())["global_step"] == 3
    once, again = (load_file(folder / "literacy" / "weights.safetensors") for folder in (before, tmp_path))
    moved = (once["shared.weight"] - again["shared.weight"]).abs().max()
    assert 0 < moved < 0.01


def test_tower_and_language_model_side_by_side_make_the_same(base, tmp_path, monkeypatch):
    monkeypatch.setattr(staged, "_RIDGE_SCENES", 60)
    monkeypatch.setattr("laboratory.world.backbones.calibrate_thresholds", lambda tagger: [0.5] * 30)
    for phase in ("tagger", "literacy"):
        shutil.copytree(base.parent / phase, tmp_path / "two" / phase)
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        pretrain_staged_base(tmp_path / "two", resume=True, processes=0)
    steps = {"tower": 1, "alignment": 1}
    two = pretrain_staged_base(tmp_path / "two", resume=True, steps=steps, save_steps=5, bf16=False, processes=2)

    shutil.copytree(base.parent / "processor", tmp_path / "one" / "processor")
    one = StagedPhases(tmp_path / "one", steps_by_phase(PHASES, steps), 0, False, 5)
    one.run("tower")
    made = LionForConditionalGeneration.from_pretrained(two).vision_model.state_dict()
    learnt = one.weights("tower")
    assert all(torch.equal(learnt[name], made[name]) for name in learnt if "post_layernorm" not in name)


def test_phases_that_were_trained_with_other_symbols_are_refused(student):
    phases, _, vocabulary = student
    phases.check_symbols("alignment", vocabulary)
    phases.check_symbols("alignment", vocabulary)
    vocabulary.slot += 0.5
    with pytest.raises(ValueError, match="alignment was trained with other symbols than this code draws"):
        phases.check_symbols("alignment", vocabulary)
    (phases.output_dir / "literacy").mkdir()
    save_file(vocabulary.state_dict(), phases.output_dir / "literacy" / "weights.safetensors")
    with pytest.raises(ValueError, match="literacy does not say which symbols it was trained with"):
        phases.check_symbols("literacy", vocabulary)


def test_alignment_says_nothing_of_places(student):
    phases, lion, vocabulary = student
    batch = AlignmentBatches(1, 0, 4, phases.processor, 4, most_objects=3)[0]
    assert set(batch) == {"pixel_values", "qformer_input_ids", "qformer_attention_mask", "glyph", "color"}
    AlignmentTeacher(lion, vocabulary)(**batch)["loss"].backward()
    touched = {name for name, value in lion.named_parameters() if value.grad is not None and value.grad.any()}
    assert any(name.startswith("qformer.") for name in touched)
    assert not [name for name in touched if name.startswith((*AGGREGATOR_PARTS, "language_model."))]


def test_the_projection_starts_at_words(base, student, monkeypatch):
    phases, lion, vocabulary = student
    trained = LionForConditionalGeneration.from_pretrained(checkpoints.path())
    lion.vision_model.load_state_dict(trained.vision_model.state_dict())
    untrained = start_projection(lion, vocabulary, SPLITS["train"][:2])
    left = start_projection(lion, vocabulary, SPLITS["train"][:100])
    assert 0 < left < 0.4
    assert untrained != left
    assert lion.active_branches == ("qformer", "aggregator")


def source(**kwargs):
    return SourceRecipe(name=f"world{kwargs['first_scene']}", builder=BUILDER, builder_kwargs=kwargs, level="column")


SOURCES = [
    source(first_scene=10, num_scenes=3, questions=2, tasks=["rec", "reg"], num_objects=1),
    source(first_scene=20, num_scenes=3, questions=2, tasks=["rec", "reg"], most_objects=2),
]


def recipe(base, directory, **training):
    image = source(first_scene=30, num_scenes=4, questions=2, level="image_level", missing_tags=0.5)
    image.tags = "column"
    settings = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "image_augmentation": False,
        "region_augmentation": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "plots": False,
    }
    return Recipe(
        output_dir=str(directory),
        model=str(base),
        adapters={"bottleneck_size": 4},
        training={**settings, **training},
        stages={"stage1": StageRecipe(data=[image]), "stage2": StageRecipe(data=SOURCES)},
    )


def test_numbered_rows_are_those_of_the_data_set():
    from laboratory.world.dataset import build_world

    rows, scenes = numbered_rows(SOURCES)
    plain = [row for source in SOURCES for row in build_world(**source.builder_kwargs)]
    assert [(row["prompt"], row["completion"], row["level"]) for row in rows] == [
        (row["prompt"], row["completion"], row["level"]) for row in plain
    ]
    assert [scenes[row["image"]].seed for row in rows] == [row["seed"] for row in plain]
    assert all(len(scene.objects) == 1 for scene in scenes[:3])
    assert all(len(scene.objects) <= 2 for scene in scenes[3:])


def test_a_source_that_cannot_be_cached_is_refused():
    other = SourceRecipe(name="rows", path="rows.parquet")
    with pytest.raises(ValueError, match="source 'rows' must be"):
        numbered_rows([other])


def test_cached_features_give_what_images_give(base):
    lion = LionForConditionalGeneration.from_pretrained(base).eval().requires_grad_(False)
    processor = LionProcessor.from_pretrained(base)
    from laboratory.world.scene import render

    scenes = [sample_scene(seed) for seed in (1, 2, 3)]
    texts = processor(text=["Describe the image."] * 3, return_tensors="pt")
    pictures = processor(images=[render(scene) for scene in scenes], text=[""] * 3, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = lion(pixel_values=pictures[[2, 0, 1]], **texts, labels=torch.tensor([[5, 1]] * 3)).logits
        use_features(lion, tower_features(lion, scenes, torch.float32))
        cached = lion(pixel_values=torch.tensor([[2], [0], [1]]), **texts, labels=torch.tensor([[5, 1]] * 3)).logits
    assert torch.allclose(tokens, cached, atol=1e-4)


def test_features_of_a_trained_tower_are_refused(base):
    lion = LionForConditionalGeneration.from_pretrained(base)
    with pytest.raises(ValueError, match="cannot be kept"):
        use_features(lion, {})


def test_stages_on_features_are_the_stages(base, tmp_path):
    plain, cached = recipe(base, tmp_path / "plain"), recipe(base, tmp_path / "cached")
    for name in ("stage1", "stage2"):
        expected = load_file(run_stage(plain, name) / "adapter_model.safetensors")
        directory = run_cached_stage(cached, STAGES[name])
        learnt = load_file(directory / "adapter_model.safetensors")
        assert learnt.keys() == expected.keys()
        for key, value in expected.items():
            # Features are kept in bfloat16; Adam's first steps have the size of the rate whatever the gradient's.
            assert (learnt[key] - value).abs().mean() < 2e-3, key
        assert run_cached_stage(cached, STAGES[name], resume=True) == directory
        with pytest.raises(ValueError, match="holds an earlier run"):
            run_cached_stage(cached, STAGES[name])
    write_final(cached, "stage2")

    path = tmp_path / "report.json"
    options = {"samples": 2, "split": "validation", "tasks": ["color", "rec"], "most_objects": 3}
    states = report_stages(cached, path, states=("before", "stage1", "stage2", "together"), **options)
    table = to_markdown(states)
    assert [state for state in STATES if state in table] == ["before", "stage1", "stage2", "together"]
    assert "| rec | mean IoU |" in table
    assert "Tagger F1" in table
    with pytest.raises(ValueError, match="holds figures for"):
        report_stages(cached, path, **{**options, "samples": 3})
