import argparse
import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from configuration_lion import RamConfig
from lion_multimodal.cli import train as train_command
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionImageProcessor, LionProcessor
from tests.trainers.conftest import make_rows
from trainers.collator import LionDataCollator
from trainers.recipe import Recipe
from trainers.run import run_all, run_stage, stage_model, training_arguments, write_final
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import STAGES


@pytest.fixture(scope="module")
def content(base_checkpoint, tmp_path_factory) -> dict:
    """A recipe of three short stages; every stage crosses a checkpoint."""
    folder = tmp_path_factory.mktemp("rows")
    rows = make_rows(12)
    rows.select(range(0, 12, 2)).to_parquet(folder / "captions.parquet")
    rows.select(range(1, 12, 2)).to_parquet(folder / "boxes.parquet")
    return {
        "output_dir": "unset",
        "model": str(base_checkpoint),
        "adapters": {"bottleneck_size": 4},
        "training": {
            "use_cpu": True,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.01,
            "logging_steps": 1,
            "save_steps": 2,
            "generation_max_new_tokens": 4,
            "disable_tqdm": True,
            "report_to": ["tensorboard"],
        },
        "stages": {
            "stage1": {
                "data": [{"path": str(folder / "captions.parquet"), "tags": "column", "level": "column"}],
                "evaluation": [{"path": str(folder / "boxes.parquet"), "name": "val"}],
                "training": {"eval_strategy": "steps", "eval_steps": 4},
            },
            "stage2": {"data": [{"path": str(folder / "boxes.parquet"), "tags": "column", "level": "column"}]},
        },
    }


def recipe_in(content: dict, directory: Path, **overrides) -> Recipe:
    path = directory / "recipe.yaml"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**copy.deepcopy(content), "output_dir": str(directory / "out"), **overrides}))
    return Recipe.load(path)


@pytest.fixture(scope="module")
def finished(content, tmp_path_factory) -> Recipe:
    recipe = recipe_in(content, tmp_path_factory.mktemp("finished"))
    assert run_all(recipe) == Path(recipe.output_dir) / "final"
    return recipe


def adapter_state(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


def logged_losses(directory: Path) -> list[float]:
    history = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_every_stage_leaves_an_adapter_and_images(finished):
    for stage in STAGES.values():
        directory = Path(finished.output_dir) / stage.name
        assert json.loads((directory / "adapter_config.json").read_text())["adapters"] == list(stage.adapters)
        assert (directory / "adapter_model.safetensors").is_file()
        assert (directory / "loss.png").is_file()
        assert (directory / "routers.png").is_file() == stage.routers
        assert json.loads((directory / "stage_result.json").read_text())["steps"] == 4
        assert list(directory.glob("runs/**/events.out.tfevents*"))
        assert not list(directory.glob("*.bin"))
    history = json.loads((Path(finished.output_dir) / "stage1" / "trainer_state.json").read_text())["log_history"]
    assert any("eval_val_exact_match" in entry for entry in history)


def test_a_stage_starts_from_the_results_of_those_before(finished):
    out = Path(finished.output_dir)
    first, second = (adapter_state(out / name) for name in ("stage1", "stage2"))

    def parts(name):
        model = stage_model(finished, STAGES[name], finished.model)
        assert list(model.peft_config) == ["default"]
        trainable = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trainable
        assert all("lion_adapter_" in n for n in trainable)
        model.save_pretrained(out / f"started_{name}")
        return adapter_state(out / f"started_{name}")

    soft_prompt = next(key for key in first if "soft_prompt" in key)
    started = parts("stage2")
    assert torch.equal(started[soft_prompt], first[soft_prompt])
    assert not torch.equal(second[soft_prompt], first[soft_prompt])

    started = parts("stage3")
    assert torch.equal(started[soft_prompt], second[soft_prompt])
    for earlier, position, index in ((first, "adapters.0", "adapters.1"), (second, "adapters.0", "adapters.0")):
        for key, value in earlier.items():
            if key != soft_prompt:
                assert torch.equal(started[key.replace(position, index) if ".adapters." in key else key], value), key
    routers = [value for key, value in started.items() if key.endswith("router_ratios")]
    assert len(routers) == 4
    assert all(torch.equal(r, torch.eye(2)[:, :, None].expand_as(r)) for r in routers)


def test_final_checkpoint_is_the_trained_model_without_peft(finished):
    out = Path(finished.output_dir)
    base = LionForConditionalGeneration.from_pretrained(finished.model)
    frozen = {n: p.clone() for n, p in base.named_parameters()}
    trained = PeftModel.from_pretrained(base, out / "stage3").eval()
    final = LionForConditionalGeneration.from_pretrained(out / "final").eval()
    inputs = LionDataCollator(LionProcessor.from_pretrained(out / "final"))(list(make_rows(6)))
    with torch.no_grad():
        torch.testing.assert_close(final(**inputs).logits, trained(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert final.config.adapter_config.adapters == ["region_level", "image_level"]
    for name, parameter in final.named_parameters():
        part = name.split(".")[0]
        if part in ("vision_model", "language_model") and name in frozen and "post_layernorm" not in name:
            assert torch.equal(parameter, frozen[name]), name


class Killed(BaseException):
    pass


def test_killed_run_resumes_at_its_stage_and_step(finished, content, tmp_path, monkeypatch):
    recipe = recipe_in(content, tmp_path)
    training_step = LionSFTTrainer.training_step

    def die_in_stage_2(self, *args, **kwargs):
        if Path(self.args.output_dir).name == "stage2" and self.state.global_step == 3:
            raise Killed
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LionSFTTrainer, "training_step", die_in_stage_2)
        with pytest.raises(Killed):
            run_all(recipe)
    out = Path(recipe.output_dir)
    assert not (out / "stage2" / "stage_result.json").exists()
    finished_at = (out / "stage1" / "stage_result.json").stat().st_mtime_ns

    steps = []

    def count(self, *args, **kwargs):
        steps.append((Path(self.args.output_dir).name, self.state.global_step))
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LionSFTTrainer, "training_step", count)
        final = run_all(recipe, resume=True)
    assert steps == [("stage2", 2), ("stage2", 3), *(("stage3", i) for i in range(4))]
    assert (out / "stage1" / "stage_result.json").stat().st_mtime_ns == finished_at

    whole = Path(finished.output_dir)
    for name in ("stage2", "stage3"):
        assert logged_losses(out / name) == logged_losses(whole / name)
    expected = load_file(whole / "final" / "model.safetensors")
    assert all(torch.equal(value, expected[key]) for key, value in load_file(final / "model.safetensors").items())


@pytest.mark.parametrize("result", [None, "", '{"stage": "sta'])
def test_a_stage_killed_before_its_result_takes_no_further_step(finished, tmp_path, monkeypatch, result):
    recipe = dataclasses.replace(finished, output_dir=str(tmp_path / "out"))
    directory = tmp_path / "out" / "stage1"
    shutil.copytree(Path(finished.output_dir) / "stage1", directory)
    (directory / "stage_result.json").unlink()
    if result is not None:
        (directory / "stage_result.json").write_text(result)
    (directory / "adapter_model.safetensors").write_bytes(b"")  # torn as well
    monkeypatch.setattr(LionSFTTrainer, "training_step", lambda *args, **kwargs: pytest.fail("a step too many"))
    run_stage(recipe, "stage1", resume=True)
    assert json.loads((directory / "stage_result.json").read_text())["steps"] == 4
    expected = adapter_state(Path(finished.output_dir) / "stage1")
    assert all(torch.equal(value, expected[name]) for name, value in adapter_state(directory).items())


def test_a_checkpoint_that_was_being_written_is_passed_over(finished, tmp_path):
    recipe = dataclasses.replace(finished, output_dir=str(tmp_path / "out"))
    directory = tmp_path / "out" / "stage1"
    shutil.copytree(Path(finished.output_dir) / "stage1", directory)
    (directory / "stage_result.json").unlink()
    (directory / "checkpoint-4" / "trainer_state.json").unlink()
    run_stage(recipe, "stage1", resume=True)
    expected = adapter_state(Path(finished.output_dir) / "stage1")
    assert all(torch.equal(value, expected[name]) for name, value in adapter_state(directory).items())


def test_an_earlier_run_is_not_overwritten(finished, content, tmp_path):
    with pytest.raises(ValueError, match="holds an earlier run"):
        run_stage(finished, "stage1")
    with pytest.raises(ValueError, match="stage2 starts from stage1, which is not finished"):
        run_stage(recipe_in(content, tmp_path), "stage2")


def test_a_stage_may_start_from_given_directories(finished, content, tmp_path):
    stages = copy.deepcopy(content["stages"])
    stages["stage2"]["start_from"] = [str(Path(finished.output_dir) / "stage1")]
    recipe = recipe_in(content, tmp_path, stages=stages)
    directory = run_stage(recipe, "stage2")
    assert logged_losses(directory) == logged_losses(Path(finished.output_dir) / "stage2")


CALLS = []


def make_base(output_dir: Path, resume: bool, source: str) -> Path:
    CALLS.append(resume)
    shutil.copytree(source, output_dir / "base", dirs_exist_ok=True)
    return output_dir / "base"


def test_stage_0_makes_the_base_model_once(content, tmp_path):
    stage0 = {"function": "tests.trainers.test_run:make_base", "kwargs": {"source": content["model"]}}
    training = {**content["training"], "max_steps": 1}
    recipe = recipe_in(content, tmp_path, model=None, stage0=stage0, training=training)
    from tests.trainers import test_run as module

    module.CALLS.clear()
    run_stage(recipe, "stage1")
    run_stage(recipe, "stage1", resume=True)
    assert len(module.CALLS) == 1
    assert (Path(recipe.output_dir) / "stage0" / "base" / "config.json").is_file()

    # Moved elsewhere, the run goes on from what is there.
    recipe = dataclasses.replace(recipe, output_dir=shutil.move(recipe.output_dir, tmp_path / "moved"))
    directory = run_stage(recipe, "stage2")
    assert directory == tmp_path / "moved" / "stage2"
    assert module.CALLS == [True, True]


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    """A tagger that finds everything everywhere."""
    sizes = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
    config = RamConfig.from_preset(
        "nano",
        vision_config=sizes,
        hidden_size=16,
        intermediate_size=24,
        projection_dim=12,
        num_tags=2,
        tags=["cat", "dog"],
        tags_zh=["猫", "狗"],
        thresholds=0.0,
    )
    directory = tmp_path_factory.mktemp("tagger")
    RamForImageTagging(config).save_pretrained(directory)
    LionImageProcessor.for_tagging(32).save_pretrained(directory)
    return directory


def test_the_tagger_gives_tags_once_and_ships(content, tagger, tmp_path, monkeypatch):
    stages = copy.deepcopy(content["stages"])
    del stages["stage2"]
    stages["stage1"]["data"][0]["tags"] = "tagger"
    training = {**content["training"], "max_steps": 1, "save_strategy": "no"}
    recipe = recipe_in(content, tmp_path, stages=stages, training=training, tagger=str(tagger))
    batches = []
    collate = LionDataCollator._read
    monkeypatch.setattr(LionDataCollator, "_read", lambda self, row: batches.append(row) or collate(self, row))
    run_stage(recipe, "stage1")
    assert {row["tags"] for row in batches if row["source"] == "captions"} == {"cat, dog"}

    tagged = list((Path(recipe.output_dir) / "tags").glob("captions-*.jsonl"))
    assert len(tagged) == 1
    assert len(tagged[0].read_text().splitlines()) == 6
    # What is written down is not asked for again.
    monkeypatch.setattr(RamForImageTagging, "generate_tags", None)
    final = write_final(recipe, "stage1")
    run_stage(dataclasses.replace(recipe, stages={**recipe.stages, "stage3": recipe.stages["stage1"]}), "stage3")
    assert RamForImageTagging.from_pretrained(final / "tagger").config.tags == ["cat", "dog"]
    assert (final / "config.json").is_file()


@pytest.mark.parametrize(
    ("training", "problem"),
    [
        ({"lerning_rate": 1}, r"Stage stage1: `training` has \['lerning_rate'\]"),
        ({"output_dir": "x"}, "`training.output_dir` is set by the stage itself"),
        ({"crop_scale": [2, 3]}, "Stage stage1: `training` is not right: `crop_scale`"),
    ],
)
def test_settings_that_are_wrong_are_named(content, tmp_path, training, problem):
    recipe = recipe_in(content, tmp_path, training=training)
    with pytest.raises(ValueError, match=problem):
        training_arguments(recipe, STAGES["stage1"])


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lion")
    train_command.add_parser(parser.add_subparsers())
    return parser.parse_args(["train", *words])


def test_command_line(content, tmp_path, capsys):
    recipe_in(content, tmp_path)
    config = str(tmp_path / "recipe.yaml")
    args = parse(
        "stage1", "training.max_steps=1", "--config", config, "seed=7", "--output-dir", str(tmp_path / "other")
    )
    assert args.overrides == ["training.max_steps=1", "seed=7"]
    assert args.run(args) == 0
    directory = tmp_path / "other" / "stage1"
    assert capsys.readouterr().out.strip().endswith(str(directory))
    assert json.loads((directory / "stage_result.json").read_text())["steps"] == 1
    assert json.loads((directory / "recipe.json").read_text())["seed"] == 7

    for words in (["stage4", "--config", config], ["stage1"], ["stage1", "--config", config, "--bogus=1"]):
        with pytest.raises(SystemExit):
            parse(*words)
