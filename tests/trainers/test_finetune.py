"""Fine-tuning of a finished LION: what is trained, what is written, and that it goes where it should."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lion_multimodal.cli.main import main
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.peft_lion import LionAdapterConfig, fold_adapters
from tests.trainers.conftest import make_image, make_rows, tiny_model
from trainers.collator import LionDataCollator
from trainers.finetune import default_epochs, finetuned_model, hold_out, load_tuned, merge_adapter, run_finetune
from trainers.publishing.selection import select
from trainers.publishing.traces import without_origins
from trainers.recipe import FinetuneRecipe, Recipe, RecipeError, SourceRecipe


BOTH = ["region_level", "image_level"]


@pytest.fixture(scope="module")
def finished_lion(processor, tmp_path_factory) -> Path:
    """A finished LION whose routers and adapters differ between the levels."""
    path = tmp_path_factory.mktemp("finished") / "lion"
    model = tiny_model(BOTH, dropout=0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapter." in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images with questions, as somebody has them."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for index in range(24):
        make_image(index).save(folder / f"{index}.png")
        if index % 2:
            row = {"question": "where is the cat?", "answer": f"[0.{100 + index},0.200,0.500,0.900]"}
        else:
            row = {"question": "what is this?", "answer": ["a cat", "a dog"][index % 4 // 2]}
        rows.append({"file_name": f"{index}.png", **row})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


TRAINING = {
    "use_cpu": True,
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.02,
    "save_steps": 1,
    "logging_steps": 1,
    "generation_max_new_tokens": 4,
    "disable_tqdm": True,
}


def recipe_for(model, folder, output, training=None, **fields) -> Recipe:
    plan = FinetuneRecipe(
        data=[SourceRecipe(path=str(folder), format="auto")], training={**TRAINING, **(training or {})}, **fields
    )
    return Recipe(output_dir=str(output), model=str(model), finetune=plan)


def batch_of(processor):
    return LionDataCollator(processor)(list(make_rows(4)))


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


def trained_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("method", "train"),
    [("adapters", None), ("lora", None), ("lora", ["adapters", "routers", "soft_prompt"]), ("full", None)],
)
def test_every_method_gives_what_everything_else_takes(tmp_path, finished_lion, folder, processor, method, train):
    directory = run_finetune(recipe_for(finished_lion, folder, tmp_path / "out", method=method, train=train))
    batch = batch_of(processor)
    base = logits(LionForConditionalGeneration.from_pretrained(finished_lion), batch)
    result = json.loads((directory / "finetune_result.json").read_text())
    assert result["steps"] == 3
    assert result["rows"] == 22
    assert 0 < result["rehearsal"] <= 132
    assert f"22 rows beside {result['rehearsal']} of what the base answers" in (directory / "report.md").read_text()
    assert set(result["figures"]["held out"]) == {"base", "tuned"}
    assert "| held out | loss |" in (directory / "report.md").read_text()
    assert (directory / "loss.png").is_file()
    pushed = select(directory)
    assert pushed.kind == ("checkpoint" if method == "full" else "adapter")
    paths = [str(finished_lion), str(folder), str(directory)]
    for name, file in pushed.files.items():
        if file.suffix == ".json":  # as it is sent; the card is finished by the push itself
            sent = json.dumps(without_origins(json.loads(file.read_text())))
            assert not any(path in sent for path in paths), name
    if method == "full":
        tuned = LionForConditionalGeneration.from_pretrained(directory)
        before = load_file(finished_lion / "model.safetensors")
        for name, value in load_file(directory / "model.safetensors").items():
            in_tower = name.startswith("vision_model.") and ".post_layernorm" not in name
            assert torch.equal(value, before[name]) or not in_tower, name
        assert (logits(tuned, batch) - base).abs().max() > 1e-3
        return

    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None  # a path of this machine
    tuned = PeftModel.from_pretrained(LionForConditionalGeneration.from_pretrained(finished_lion), str(directory))
    expected = logits(tuned, batch)
    assert (expected - base).abs().max() > 1e-3
    merged = merge_adapter(directory, tmp_path / "merged", finished_lion)
    assert (merged / "tokenizer.json").is_file()
    # The rows of the batch are of both levels, and the routers differ: a merged model that lost them would show.
    after = logits(LionForConditionalGeneration.from_pretrained(merged), batch)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=2e-5)
    with tuned.disable_adapter():
        torch.testing.assert_close(logits(tuned, batch), base)
    with pytest.raises(ValueError, match="exists already"):
        merge_adapter(directory, merged, finished_lion)


def test_parts_can_be_left_out(finished_lion, folder, tmp_path):
    def names(method, train):
        plan = recipe_for(finished_lion, folder, tmp_path, method=method, train=train)
        return trained_names(finetuned_model(plan, plan.finetune))

    signs = {
        "adapters": ".adapter.",
        "routers": "router_ratios",
        "connectors": "vision_aggregator.",
        "soft_prompt": "soft_prompt.",
    }
    for method in ("adapters", "lora"):
        for part, sign in signs.items():
            others = [name for name in signs if name != part]
            with_part, without = names(method, [part]), names(method, others)
            assert any(sign in name for name in with_part), (method, part)
            if part == "adapters":
                assert not any(".adapters.0." in name for name in without), method
            else:
                assert not any(sign in name for name in without), (method, part)
            assert not any("vision_model.encoder" in name for name in with_part)
    assert all("lora_" in name for name in names("lora", None))
    assert all(".adapter." in name for name in names("adapters", None))
    everything = names("adapters", list(signs))
    for part in ("qformer", "query_tokens", "language_projection", "aggregator_projection", "post_layernorm"):
        assert any(part in name for name in everything), part


def test_built_in_adapters_start_from_the_base_and_fold_back(finished_lion, folder, tmp_path, processor):
    plan = recipe_for(finished_lion, folder, tmp_path)
    batch = batch_of(processor)
    base = LionForConditionalGeneration.from_pretrained(finished_lion)
    model = finetuned_model(plan, plan.finetune)
    torch.testing.assert_close(logits(model, batch), logits(base, batch), rtol=0, atol=0)
    folded = fold_adapters(model)
    assert folded.config.to_dict() == base.config.to_dict()
    assert set(folded.state_dict()) == set(base.state_dict())


def test_built_in_adapters_and_their_base_have_to_fit(finished_lion, tmp_path, base_checkpoint, folder):
    with pytest.raises(ValueError, match="`frozen_parts` must hold some of"):
        LionAdapterConfig(adapters=["built_in"], frozen_parts=["router"])
    with pytest.raises(ValueError, match="`frozen_parts` must hold some of"):
        LionAdapterConfig(adapters=["image_level"], frozen_parts=["adapters"])
    with pytest.raises(ValueError, match="nothing to train"):
        LionAdapterConfig(adapters=["built_in"], frozen_parts=["adapters", "router_ratios"])
    with pytest.raises(ValueError, match="has no adapters yet.*lion train"):
        run_finetune(recipe_for(base_checkpoint, folder, tmp_path / "out"))


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, finished_lion, folder):
    whole = run_finetune(recipe_for(finished_lion, folder, tmp_path / "whole"))
    with pytest.raises(ValueError, match="earlier run: resume it"):
        run_finetune(recipe_for(finished_lion, folder, tmp_path / "whole"))

    # Killed while checkpoint 3 was being written, and while a small file was.
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    (broken / "finetune_result.json").unlink()
    (broken / "adapter_model.safetensors").unlink()
    (broken / "base_figures.json").write_text("{")
    (broken / "checkpoint-3" / "trainer_state.json").unlink()
    run_finetune(recipe_for(finished_lion, folder, broken), resume=True)
    expected, found = (load_file(d / "adapter_model.safetensors") for d in (whole, broken))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())

    # Killed between the last checkpoint and the result: not one step more.
    (broken / "finetune_result.json").write_text('{"method": ')
    (broken / "adapter_model.safetensors").unlink()
    run_finetune(recipe_for(finished_lion, folder, broken), resume=True)
    found = load_file(broken / "adapter_model.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert json.loads((broken / "finetune_result.json").read_text())["steps"] == 3


def test_the_commands(tmp_path, finished_lion, folder, capsys):
    """A folder of images and a file of rows become a tuned model, its figures and its drawn answers."""
    out = tmp_path / "tuned"
    overrides = [f"finetune.training.{key}={json.dumps(value)}" for key, value in TRAINING.items()]
    model = ["--model", str(finished_lion)]
    arguments = ["finetune", *model, "--data", str(folder), "--eval-data", f"seen={folder}", "--output", str(out)]
    assert main([*arguments, *overrides]) == 0
    printed = capsys.readouterr().out
    assert "| seen | exact_match |" in printed
    image = str(folder / "1.png")
    question = ["--prompt", "where is the cat?", "--no-tags", "--max-new-tokens", "4"]
    assert main(["predict", image, *model, "--adapter", str(out), *question, "--draw", str(tmp_path / "drawn")]) == 0
    answer = capsys.readouterr().out
    assert main(["merge", str(out), *model, "--output", str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    assert main(["predict", image, "--model", str(tmp_path / "merged"), *question]) == 0
    assert capsys.readouterr().out == answer
    assert list((tmp_path / "drawn").glob("*.png"))
    assert main(["predict", image, *model, "--adapter", str(finished_lion)]) == 1
    assert "is no PEFT adapter" in capsys.readouterr().err


def test_options_and_a_recipe_together(tmp_path, folder, finished_lion, capsys):
    recipe = tmp_path / "finetune.yaml"
    recipe.write_text(
        f"model: {finished_lion}\noutput_dir: {tmp_path / 'out'}\nfinetune:\n  method: lora\n  lora: {{r: 2}}\n"
        f"  data: [{{path: {folder}, format: auto}}]\n  training: {json.dumps(TRAINING)}\n"
    )
    assert main(["finetune", str(recipe), "finetune.training.max_steps=1"]) == 0
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2
    assert json.loads((tmp_path / "out" / "finetune_result.json").read_text())["steps"] == 1
    capsys.readouterr()
    for arguments, problem in (
        (["--output", str(tmp_path / "a")], "--data is needed"),
        (["--data", str(folder)], "--output is needed"),
        (["--data", "nowhere.jsonl", "--output", str(tmp_path / "a")], "no file or folder nowhere.jsonl"),
        (["--data", str(folder), "--output", str(tmp_path / "a"), "--train", "eyes"], "`train` holds"),
    ):
        assert main(["finetune", "--model", str(finished_lion), *arguments]) == 1
        assert problem in capsys.readouterr().err


def test_recipes_say_what_does_not_go_together():
    source = [SourceRecipe(path="rows.jsonl", format="auto")]
    with pytest.raises(ValueError, match="`data` is empty"):
        FinetuneRecipe()
    with pytest.raises(ValueError, match="full trains all"):
        FinetuneRecipe(data=source, method="full", train=["adapters"])
    with pytest.raises(ValueError, match="`lora` is for"):
        FinetuneRecipe(data=source, lora={"r": 4})
    with pytest.raises(ValueError, match="leave `stages`"):
        Recipe(output_dir="o", model="m", adapters={"bottleneck_size": 4}, finetune=FinetuneRecipe(data=source))
    with pytest.raises(ValueError, match="need `format: auto`"):
        SourceRecipe(path="rows.jsonl", box_format="xyxy_1000")
    with pytest.raises(RecipeError, match="method must be one of"):
        Recipe.from_content({"output_dir": "o", "model": "m", "finetune": {"data": [], "method": "prompt"}})


def test_rows_are_held_out_by_whole_images(folder):
    paths = [str(folder / f"{index // 4}.png") for index in range(40)]
    rows = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    kept, aside = hold_out(rows, seed=0)
    kept, aside = (
        [row["path"] for row in part.cast_column("image", datasets.Image(decode=False))["image"]]
        for part in (kept, aside)
    )
    assert (len(kept), len(aside)) == (36, 4)
    assert len(set(aside)) == 1
    assert not set(aside) & set(kept)
    assert len(hold_out(make_rows(20), seed=0)[1]) == 2
    assert hold_out(make_rows(3), seed=0)[1] is None


def test_rehearsal_is_kept_for_the_same_data_and_can_be_left_out(tmp_path, finished_lion, folder):
    def run(name, **fields):
        directory = run_finetune(recipe_for(finished_lion, folder, tmp_path / name, {"max_steps": 1}, **fields))
        return directory, json.loads((directory / "finetune_result.json").read_text())

    first, _ = run("first")
    own = (first / "rehearsal.jsonl").read_text()
    said = '{"image": 1, "rows": [{"prompt": "p", "completion": "c", "level": "image_level", "tags": null}]}\n'
    settings = json.loads((first / "rehearsal.json").read_text())
    for name, data in (("same", settings["data"]), ("other", settings["data"] + 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rehearsal.json").write_text(json.dumps({**settings, "data": data, "finished": False}))
        (tmp_path / name / "rehearsal.jsonl").write_text(said)
        run(name)
    # A run that was killed goes on; what was said of other images is not used.
    assert (tmp_path / "same" / "rehearsal.jsonl").read_text().startswith(said)
    assert (tmp_path / "other" / "rehearsal.jsonl").read_text() == own
    without, result = run("without", rehearsal=0)
    assert result["rehearsal"] == 0
    assert not (without / "rehearsal.jsonl").exists()
    assert "beside" not in (without / "report.md").read_text()
    with pytest.raises(ValueError, match="`rehearsal` must be a number from 0 to 100, got -1"):
        recipe_for(finished_lion, folder, tmp_path, rehearsal=-1)


def test_epochs_follow_the_number_of_rows():
    assert [default_epochs(rows) for rows in (10, 100, 500, 1000, 10_000, 100_000)] == [60, 20, 4, 3, 1, 1]


def test_two_processes_train_together(tmp_path, finished_lion, folder):
    recipe = recipe_for(finished_lion, folder, tmp_path / "out", training={"max_steps": 2})
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))  # JSON is YAML
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "lion_multimodal.cli.main", "finetune", str(tmp_path / "recipe.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "finetune_result.json").read_text())["steps"] == 2
    assert load_tuned(tmp_path / "out", finished_lion).active_adapters == ["default"]
