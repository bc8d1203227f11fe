"""`lion push` against a loopback Hub: what arrives there, in one commit, and what stays behind."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lion_multimodal.cli.main import main
from lion_multimodal.evaluation.report import BenchmarkReport, Report
from lion_multimodal.evaluation.scoring import Score
from modeling_lion import save_lion
from processing_lion.remote_code_lion import LION_CODE, TAGGER_CODE
from tests.lion_multimodal.hub.loopback import LoopbackHub


REPO = "lions/tiny"


@pytest.fixture(scope="module")
def saved(model, processor, tagger, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_lion(folder, model, processor, tagger)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path) -> Path:
    """A complete checkpoint that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


@pytest.fixture
def adapter(tmp_path) -> Path:
    """The directory of a stage, as training leaves it."""
    folder = tmp_path / "runs" / "stage1"
    for name in ("checkpoint-3", "runs/Nov01_12-00-00_somewhere"):
        (folder / name).mkdir(parents=True)
    save_file({"base_model.model.soft_prompt.weight": torch.ones(1, 24)}, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LION_ADAPTER",
        "adapters": ["image_level"],
        "bottleneck_size": 4,
        "trained_modules": ["qformer", "soft_prompt"],
        "base_model_name_or_path": str(tmp_path / "base"),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(
        f"---\nbase_model: {tmp_path}/base\nlibrary_name: peft\ntags:\n- base_model:adapter:{tmp_path}/base\n---\n\n"
        "# Model Card for Model ID\n\n- **Developed by:** [More Information Needed]\n"
    )
    litter = {
        "bad_rows.jsonl": json.dumps({"source": f"{tmp_path}/pictures"}),
        "recipe.json": json.dumps({"output_dir": str(tmp_path)}),
        "stage_result.json": "{}",
        "trainer_state.json": json.dumps({"best_model_checkpoint": str(folder)}),
        "training_args.json": json.dumps({"logging_dir": f"{folder}/runs/Nov01_12-00-00_somewhere"}),
        "training_args.bin": "a pickle",
        "checkpoint-3/optimizer.pt": "a pickle",
        "checkpoint-3/adapter_model.safetensors": "an earlier one",
        "runs/Nov01_12-00-00_somewhere/events.out.tfevents.17.somewhere.1.0": "where it ran",
        ".cache": "hidden",
    }
    for name, content in litter.items():
        (folder / name).write_text(content)
    return folder


def push(directory: Path, *options: str, repo: str = REPO) -> int:
    return main(["push", str(directory), "--repo-id", repo, *options])


def pushed(hub: LoopbackHub, revision: str = "main") -> dict[str, bytes]:
    return {file: content for file, content in hub.files(REPO, revision).items() if file != ".gitattributes"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_arrives_whole_in_one_commit(hub, checkpoint, model, tagger, capsys):
    assert push(checkpoint, "--message", "The first one") == 0
    assert hub.log(REPO) == ["initial commit", "The first one"]
    there = pushed(hub)
    card = there.pop("README.md").decode()
    assert there == contents(checkpoint)
    assert {Path(file).name for file in LION_CODE} <= set(there)
    assert {f"tagger/{Path(file).name}" for file in TAGGER_CODE} <= set(there)
    assert f'model="{REPO}"' in card
    assert "pipeline_tag: image-text-to-text" in card
    assert f"{model.num_parameters():,} parameters in float32" in card
    assert f"{tagger.model.num_parameters():,} parameters, 3 tags" in card
    assert "{{" not in card
    sha = hub.repos[REPO].branches["main"]
    assert capsys.readouterr().out == f"pushed    {hub.url}/{REPO}/commit/{sha} ({len(there) + 1} files)\n"
    assert not hub.repos[REPO].private


def test_only_what_has_changed_is_sent_again(hub, checkpoint, capsys):
    assert push(checkpoint) == 0
    large = {path.stat().st_size for path in checkpoint.rglob("*") if path.suffix in (".safetensors", ".model")}
    assert set(hub.uploads) == large
    hub.forget()
    assert push(checkpoint) == 0
    assert hub.uploads == []
    assert hub.sent == []
    assert capsys.readouterr().out.splitlines()[-1].startswith("unchanged ")

    config = json.loads((checkpoint / "generation_config.json").read_text())
    (checkpoint / "generation_config.json").write_text(json.dumps({**config, "max_new_tokens": 7}))
    hub.forget()
    assert push(checkpoint) == 0
    assert hub.uploads == []
    assert hub.sent == ["generation_config.json"]

    weights = load_file(checkpoint / "tagger" / "model.safetensors")
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 1}, checkpoint / "tagger" / "model.safetensors", {"format": "pt"})
    hub.forget()
    assert push(checkpoint) == 0
    assert hub.uploads == [(checkpoint / "tagger" / "model.safetensors").stat().st_size]
    assert hub.sent == ["tagger/model.safetensors"]
    assert len(hub.log(REPO)) == 4


def test_what_is_in_a_repo_already_stays(hub, checkpoint):
    hub.create(REPO).commit("main", "by hand", {"README.md": b"# Ours\n", "examples/one.png": b"a picture"})
    assert push(checkpoint) == 0
    there = pushed(hub)
    assert there["README.md"] == b"# Ours\n"
    assert there["examples/one.png"] == b"a picture"
    assert there["config.json"] == (checkpoint / "config.json").read_bytes()


def test_weights_that_a_new_version_replaces_go_in_the_same_commit(hub, checkpoint, model, processor, capsys):
    assert push(checkpoint) == 0
    sharded = checkpoint.with_name("sharded")
    save_lion(sharded, model, processor, max_shard_size="2MB")
    shards = {path.name for path in sharded.glob("model-*.safetensors")}
    assert len(shards) > 1
    assert push(sharded) == 0
    there = pushed(hub)
    # transformers would load the old single file in place of the shards.
    assert "model.safetensors" not in there
    assert {*shards, "model.safetensors.index.json", "tagger/model.safetensors"} <= set(there)
    assert "deleted   model.safetensors (weights of an earlier version)" in capsys.readouterr().out
    assert push(checkpoint) == 0
    assert not [file for file in pushed(hub) if "-of-" in file or file.endswith("index.json")]
    assert len(hub.log(REPO)) == 4


def test_an_adapter_does_not_touch_a_checkpoint_in_the_same_repo(hub, checkpoint, adapter):
    assert push(checkpoint) == 0
    assert push(adapter) == 0
    assert {"model.safetensors", "adapter_model.safetensors", "adapter_config.json"} <= set(pushed(hub))


def test_of_a_stage_only_the_adapter_is_pushed(hub, adapter, capsys, tmp_path):
    before = contents(adapter)
    assert push(adapter) == 0
    there = pushed(hub)
    assert set(there) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert str(tmp_path).encode() not in b"".join(there.values())
    config = json.loads(there["adapter_config.json"])
    assert config == {**json.loads(before["adapter_config.json"]), "base_model_name_or_path": None}
    card = there["README.md"].decode()
    assert "[More Information Needed]" not in card
    assert "library_name: peft" in card
    assert "base_model:" not in card
    assert f'PeftModel.from_pretrained(base, "{REPO}")' in card
    assert "| adapters | `image_level` |" in card
    assert "| parameters | 24 |" in card
    assert contents(adapter) == before, "the directory is as it was"
    shown = capsys.readouterr().out
    for name in ("training_args.bin", "checkpoint-3", "runs", "recipe.json", "bad_rows.jsonl"):
        assert f"left out  {name} (" in shown
    assert "cleaned   adapter_config.json (a local path)" in shown


def test_an_adapter_names_its_base(hub, adapter):
    assert push(adapter, "--base-model", "lions/base") == 0
    there = pushed(hub)
    assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == "lions/base"
    assert "base_model: lions/base" in there["README.md"].decode()
    assert 'from_pretrained("lions/base")' in there["README.md"].decode()


@pytest.mark.parametrize("name", ["../base", "/data/base", "runs"])
def test_a_base_that_is_no_repo_is_refused(hub, adapter, capsys, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert push(adapter, "--base-model", name) == 1
    assert capsys.readouterr().err.startswith("lion: error: ")
    assert not hub.requests


def report(value: float) -> Report:
    score = Score("", "captions", "CIDEr", value, 100.0, None, 12, {"CIDEr": value / 100})
    run = {"answered": 12, "seconds": 1.0, "batch_size": 4, "processes": 1, "device": "cpu"}
    benchmark = BenchmarkReport("flickr30k", "Flickr30k", task="captioning", scores=[score], examples=12, run=run)
    return Report({"model": REPO}, [benchmark])


def test_figures_of_an_evaluation_go_into_the_card(hub, checkpoint, tmp_path):
    report(139.6).write(tmp_path)
    (checkpoint / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Ours\n")
    assert push(checkpoint, "--evaluation", str(tmp_path)) == 0
    card = pushed(hub)["README.md"].decode()
    for text in ("license: apache-2.0", "# Ours", "model-index:", "name: tiny", "139.6", "Flickr30k"):
        assert text in card
    assert len(hub.log(REPO)) == 2
    # The next evaluation's replace them in the card that is on the Hub now.
    (checkpoint / "README.md").unlink()
    report(140.5).write(tmp_path)
    assert push(checkpoint, "--evaluation", str(tmp_path)) == 0
    card = pushed(hub)["README.md"].decode()
    assert "140.5" in card
    assert "139.6" not in card
    assert "# Ours" in card


def test_no_evaluation_where_one_was_to_be(hub, checkpoint, tmp_path, capsys):
    assert push(checkpoint, "--evaluation", str(tmp_path)) == 1
    assert "--evaluation must be an output folder of lion eval" in capsys.readouterr().err
    Report({"model": "lions/tiny"}, [BenchmarkReport("flickr30k", "Flickr30k", error="no data")]).write(tmp_path)
    assert push(checkpoint, "--evaluation", str(tmp_path)) == 1
    assert "holds no figures" in capsys.readouterr().err
    assert not hub.requests


def test_private(hub, adapter, capsys):
    assert push(adapter, "--private") == 0
    assert hub.repos[REPO].private
    hub.create("lions/public")
    assert push(adapter, "--private", "--revision", "next", repo="lions/public") == 1
    assert "lions/public is there already, and public" in capsys.readouterr().err
    assert hub.log("lions/public") == ["initial commit"]
    assert list(hub.repos["lions/public"].branches) == ["main"]


def test_a_branch_leaves_the_main_one_alone(hub, adapter):
    assert push(adapter) == 0
    main_files = pushed(hub)
    save_file({"base_model.model.soft_prompt.weight": torch.zeros(1, 24)}, adapter / "adapter_model.safetensors")
    for _ in range(2):
        assert push(adapter, "--revision", "next") == 0
    assert pushed(hub) == main_files
    assert pushed(hub, "next")["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert hub.log(REPO, "next") == ["initial commit", "Push the adapter", "Push the adapter"]


def test_a_name_without_an_owner(hub, adapter, capsys):
    assert push(adapter, repo="tiny") == 0
    assert "/lions/tiny/commit/" in capsys.readouterr().out
    assert 'from_pretrained(base, "lions/tiny")' in pushed(hub)["README.md"].decode()


def no_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_shard_of_the_tagger(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "tagger" / "model.safetensors.index.json").write_text(json.dumps(index))


def no_map(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def bad_head(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [lion\n---\n")


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])


def cut_short_in_its_header(folder: Path) -> None:
    content = (folder / "tagger" / "model.safetensors").read_bytes()
    (folder / "tagger" / "model.safetensors").write_bytes(content[:100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_shard, "names model-00002-of-00002.safetensors, which is not there"),
        (no_shard_of_the_tagger, "tagger/model.safetensors.index.json names model-00001-of-00001.safetensors"),
        (no_map, "model.safetensors.index.json names no weights"),
        (bad_head, "the head of README.md is no YAML mapping"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON in UTF-8"),
        (cut_short, "model.safetensors is not a complete safetensors file"),
        (cut_short_in_its_header, "model.safetensors is not a complete safetensors file"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "has no model.safetensors",
        ),
        (lambda folder: (folder / "modeling_lion.py").unlink(), "its code needs modeling_lion.py"),
        (lambda folder: (folder / "language_model_lion.py").unlink(), "its code needs language_model_lion.py"),
        (lambda folder: (folder / "pipeline_lion.py").unlink(), "its code needs pipeline_lion.py"),
        (lambda folder: (folder / "config.json").unlink(), "holds neither"),
        (shutil.rmtree, "there is none at"),
    ],
)
def test_what_would_not_load_is_not_pushed(hub, checkpoint, capsys, spoil, message):
    spoil(checkpoint)
    assert push(checkpoint) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"lion: error: .*\n", error)
    assert message in error
    assert not hub.requests


def test_a_link_out_of_the_directory_is_not_followed(hub, checkpoint, tmp_path, capsys):
    secret = tmp_path / "private.txt"
    secret.write_text("of nobody's business")
    (checkpoint / "notes.txt").symlink_to(secret)
    (checkpoint / "inside.txt").symlink_to(checkpoint / "config.json")
    (checkpoint / "folder").symlink_to(tmp_path)
    assert push(checkpoint) == 0
    files = pushed(hub)
    assert "notes.txt" not in files
    assert "inside.txt" in files
    assert not [file for file in files if file.startswith("folder")]
    printed = capsys.readouterr().out
    assert "left out  notes.txt (a link that leads out of the directory)" in printed
    assert "left out  folder (a link that leads out of the directory)" in printed


def test_a_card_that_is_no_utf8_is_named(hub, checkpoint, capsys):
    (checkpoint / "README.md").write_bytes("Größe".encode("latin-1"))
    assert push(checkpoint) == 1
    assert "README.md is not text in UTF-8: byte 2 is 0xf6" in capsys.readouterr().err
    assert REPO not in hub.repos


@pytest.mark.parametrize("file", ["tokenizer.json", "qformer_tokenizer/tokenizer.json", "processor_config.json"])
def test_a_checkpoint_without_a_part_of_its_processor_is_not_pushed(hub, checkpoint, capsys, file):
    # transformers 4 saves beside them what they can be made from again.
    for name in (file, "spiece.model", "vocab.txt", "preprocessor_config.json"):
        (checkpoint / file).with_name(Path(name).name).unlink(missing_ok=True)
    assert push(checkpoint) == 1
    assert f"missing: the file {file}" in capsys.readouterr().err
    assert REPO not in hub.repos


def test_a_checkpoint_with_other_weights_than_its_configuration_is_not_pushed(hub, checkpoint, capsys):
    weights = load_file(checkpoint / "model.safetensors")
    query_tokens = weights.pop("query_tokens.weight")
    save_file({**weights, "stray.weight": torch.ones(1)}, checkpoint / "model.safetensors")
    assert push(checkpoint) == 1
    error = capsys.readouterr().err
    assert "missing: query_tokens.weight; unexpected: stray.weight" in error
    save_file({**weights, "query_tokens.weight": query_tokens[:, :-1].clone()}, checkpoint / "model.safetensors")
    assert push(checkpoint) == 1
    assert "query_tokens.weight has the shape" in capsys.readouterr().err
    assert REPO not in hub.repos
