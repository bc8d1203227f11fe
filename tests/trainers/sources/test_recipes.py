"""The XL recipes on what `lion data prepare` writes: from the original files of all sources to a checkpoint."""

from __future__ import annotations

import json

import pytest

from lion_multimodal.cli.main import main
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from tests.trainers.sources import original_files as original
from tests.trainers.test_run import tagger  # noqa: F401
from trainers.recipe import Recipe, RecipeError
from trainers.sources import SOURCES
from trainers.stages import STAGES


RECIPES = ("xl_one_gpu", "xl_eight_gpus", "xl_smoke")


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_read_what_is_prepared(name):
    recipe = Recipe.load(name, ["data_dir=/d"])
    for stage in ("stage1", "stage2"):
        expected = {
            f"/d/{source.row_folder(kind.name)}": (kind.weight, None if source.augment else False)
            for source in SOURCES.values()
            for kind in source.kinds
            if source.stage == stage
        }
        sources = recipe.sources(STAGES[stage])
        assert {source.path: (source.weight, source.augment) for source in sources} == expected
        for source in (*sources, *recipe.sources(STAGES[stage], evaluation=True)):
            assert (source.image_folder, source.level, source.tags) == ("/d", "column", "tagger")
    assert Recipe.load(name).data_dir == "data"


def test_the_recipes_for_eight_gpus_and_for_one_see_as_many_rows_a_step():
    one, eight = (Recipe.load(name).training for name in RECIPES[:2])
    batches = [
        training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] for training in (one, eight)
    ]
    assert batches[0] == 8 * batches[1]
    assert {name for name in one if one[name] != eight.get(name)} == {"gradient_accumulation_steps"}


def test_the_data_folder_has_to_be_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("extends: xl_smoke\ndata_dir: null\n")
    with pytest.raises(RecipeError, match="needs `data_dir`: `path` of 'coco_captions' is '{data_dir}/coco_captions'"):
        Recipe.load(path)
    with pytest.raises(RecipeError, match="`max_samples` must be at least 1, got 0"):
        Recipe.load("xl_smoke", ["max_samples=0"])


def test_a_recipe_that_extends_another_merges_mappings(tmp_path):
    (tmp_path / "base.yaml").write_text("output_dir: a\nmodel: m\ntraining: {seed: 1, max_steps: 2}\n")
    path = tmp_path / "own.yaml"
    path.write_text("extends: base.yaml\noutput_dir: b\ntraining: {max_steps: 3}\n")
    recipe = Recipe.load(path, ["training.logging_steps=4"])
    assert (recipe.output_dir, recipe.model) == ("b", "m")
    assert recipe.training == {"seed": 1, "max_steps": 3, "logging_steps": 4}
    for content, problem in (
        ("extends: own.yaml", "extends 'own.yaml', which extends this recipe"),
        ("extends: [a]", "extends must be str"),
        ("extends: nowhere", "No recipe 'nowhere'"),
    ):
        (tmp_path / "base.yaml").write_text(content)
        with pytest.raises(RecipeError, match=problem):
            Recipe.load(path)


def test_all_stages_run_on_all_sources(base_checkpoint, tagger, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Two commands: from the authors' files to a checkpoint."""
    original.write_all(tmp_path / "originals")
    data = tmp_path / "data"
    assert main(["data", "prepare", "all", "--source", str(tmp_path / "originals"), "--output", str(data)]) == 0
    assert "visual_genome (train): 4 rows (published: 5,408,689)" in capsys.readouterr().out

    tagged = []
    generate_tags = RamForImageTagging.generate_tags

    def count(self, pixel_values, *arguments, **options):
        tagged.append(len(pixel_values))
        return generate_tags(self, pixel_values, *arguments, **options)

    monkeypatch.setattr(RamForImageTagging, "generate_tags", count)
    output = tmp_path / "run"
    arguments = [f"model={base_checkpoint}", f"tagger={tagger}", f"data_dir={data}", f"output_dir={output}"]
    arguments += ["model_kwargs={}", "training.use_cpu=true", "training.disable_tqdm=true", "training.report_to=none"]
    arguments += ["training.per_device_train_batch_size=2", "training.generation_max_new_tokens=4"]
    assert main(["train", "all", "--config", "xl_smoke", *arguments]) == 0

    for stage in STAGES:
        result = json.loads((output / stage / "stage_result.json").read_text())
        assert result["steps"] == 2
        assert result["bad_rows"] == {}
        history = json.loads((output / stage / "trainer_state.json").read_text())["log_history"]
        names = {name for entry in history for name in entry}
        assert ("eval_vqa_exact_match" in names) == (stage != "stage2")
        assert any(name.startswith("eval_rec_") for name in names) == (stage != "stage1")
    final = LionForConditionalGeneration.from_pretrained(output / "final")
    assert set(final.config.adapter_config.adapters) == {"region_level", "image_level"}
    images = {str(path) for path in (tmp_path / "originals").rglob("*.jpg")}
    records = [json.loads(line) for path in (output / "tags").glob("*") for line in path.read_text().splitlines()]
    # Each image once, however many rows and sources show it.
    assert sum(tagged) == len(records) == len({record["path"] for record in records}) < len(images)
    assert {record["path"] for record in records} <= images
