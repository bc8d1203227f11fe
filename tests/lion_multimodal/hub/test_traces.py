"""What tells of a machine or its user is not pushed: planted in every kind of file, and found or taken out."""

import getpass
import json
import re
import socket
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from trainers.publishing import Machine
from trainers.publishing.cards import finish_card
from trainers.publishing.selection import select
from trainers.publishing.traces import is_local, without_origins


REPO = "lions/tiny"
SECRETS = {
    "Hugging Face token": "hf_" + "AbCdEfGhIj" * 3,
    "GitHub token": "ghp_" + "0123456789" * 4,
    "API key": "sk-" + "proj-0123456789abcdef",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "password in an address": "https://alice:sesame@example.org/",
}
PATHS = {
    "home directory": "/home/alice",
    "home directory of Windows": r"C:\Users\alice",
    "address of a local file": "file:///srv/pictures",
    "path of a machine": "/mnt/disks/lion",
}


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A complete adapter's directory."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LION_ADAPTER", "adapters": ["image_level"]}))
    return folder


@pytest.fixture
def alice(monkeypatch):
    """Somebody whose names say something."""
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-node-17.cluster.example")


def refuse(adapter: Path, capsys, *options: str) -> str:
    """Push, see that it is refused, and return the one line that says why."""
    assert main(["push", str(adapter), "--repo-id", REPO, *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("lion: error: nothing was pushed, for it would tell of this machine: ")
    return captured.err


@pytest.mark.parametrize("file", ["README.md", "notes.txt", "helper_lion.py", "preprocessor_config.json", "LICENSE"])
@pytest.mark.parametrize("kind", [*SECRETS, *PATHS])
def test_a_planted_text_is_refused(hub, adapter, capsys, file, kind):
    text = {**SECRETS, **PATHS}[kind]
    content = json.dumps({"note": f"see {text}"}, indent=1) if file.endswith(".json") else f"# A file\nsee {text} \n"
    (adapter / file).write_text(content)
    line = refuse(adapter, capsys)
    assert f"{file}:2: {kind} " in line
    if kind in SECRETS:
        assert text not in line, "a secret is not shown either"
    assert not hub.requests


@pytest.mark.parametrize("kind", SECRETS)
def test_tokenizers_and_images_are_searched_for_secrets(hub, adapter, capsys, kind):
    for name in ("vocab.txt", "spiece.model", "loss.png"):
        (adapter / name).write_bytes(b"\x00\xff " + SECRETS[kind].encode() + b" \x00")
        assert f"{kind} " in refuse(adapter, capsys)
        (adapter / name).unlink()


def test_so_is_the_metadata_of_weights(hub, adapter, capsys):
    save_file({"weight": torch.ones(2, 2)}, adapter / "adapter_model.safetensors", {"trained_in": "/home/alice/lion"})
    assert "adapter_model.safetensors: home directory '/home/alice'" in refuse(adapter, capsys)


def test_the_token_in_use_is_found_whatever_it_looks_like(hub, adapter, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    hub.tokens["an-odd-sort-of-token"] = "write"
    (adapter / "notes.txt").write_text("token: an-odd-sort-of-token")
    assert "secret of this machine" in refuse(adapter, capsys, "--token", "an-odd-sort-of-token")
    (adapter / "notes.txt").write_text("key: 0123456789abcdef0123")
    assert "secret of this machine" in refuse(adapter, capsys)
    (adapter / "notes.txt").write_text("nothing")
    assert main(["push", str(adapter), "--repo-id", REPO]) == 0


def test_paths_that_are_there(hub, adapter, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "somewhere" / "at-home"))
    for path in (tmp_path, adapter, Path.home(), Path.cwd()):
        (adapter / "notes.txt").write_text(f"made in {path}, and then moved")
        assert re.search(r"notes.txt:1: path of (a|this) machine '", refuse(adapter, capsys))
    (adapter / "notes.txt").write_text("a path /bin/sh, an address https://example.org/home/alice, a fraction 1/2/3")
    assert main(["push", str(adapter), "--repo-id", REPO]) == 0


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("README.md", "trained by alice", "user name 'alice'"),
        ("README.md", "trained on gpu-node-17", "host name 'gpu-node-17'"),
        ("notes.txt", "alice@gpu-node-17.cluster.example", "user name 'alice'"),
        ("preprocessor_config.json", '{"log": "logs/gpu-node-17/1"}', "host name 'gpu-node-17'"),
        ("preprocessor_config.json", '{"folder": "runs/alice/1"}', "user name 'alice'"),
        # Words that happen to be names.
        ("preprocessor_config.json", '{"tags": ["alice"]}', None),
        ("tokenizer.json", '{"vocab": {"alice": 3, "/alice": 4}}', None),
        ("README.md", "malice and alice-blue", None),
    ],
)
def test_names_of_user_and_host(hub, adapter, capsys, alice, file, text, found):
    (adapter / file).write_text(text)
    if found is None:
        assert main(["push", str(adapter), "--repo-id", REPO]) == 0
    else:
        assert found in refuse(adapter, capsys)


def test_the_owner_of_the_repo_is_no_secret(hub, adapter, alice):
    (adapter / "README.md").write_text("# A lion by Alice, in alice/tiny\n")
    assert main(["push", str(adapter), "--repo-id", "alice/tiny"]) == 0


def test_what_is_allowed_passes(hub, adapter, capsys):
    (adapter / "README.md").write_text("# A lion\nPut the pictures into /home/user/pictures or /data/pictures.\n")
    assert "/data/pictures" in refuse(adapter, capsys, "--allow", "/home/user")
    assert main(["push", str(adapter), "--repo-id", REPO, "--allow", "/home/user", "--allow", "/data/pictures"]) == 0


def test_a_card_on_the_hub_is_not_made_worse(hub, adapter, tmp_path, capsys):
    """The card that is there comes back with the figures of an evaluation; it is looked at again."""
    hub.create(REPO).commit("main", "by hand", {"README.md": b"# Ours\nfrom /home/alice/lion\n"})
    assert "README.md:2: home directory" in refuse(adapter, capsys)
    assert hub.log(REPO) == ["initial commit", "by hand"]


def test_fields_that_say_where_something_came_from(tmp_path):
    config = {
        "_name_or_path": "/data/models/base",
        "model_type": "lion",
        "text_config": {"_name_or_path": "google/flan-t5-xl", "name_or_path": str(tmp_path)},
        "towers": [{"name_or_path": "../eva"}],
        "tokenizer_file": "/cache/tokenizer.json",
        "base_model_name_or_path": r"D:\models\base",
    }
    assert without_origins(config) == {
        "model_type": "lion",
        "text_config": {"_name_or_path": "google/flan-t5-xl"},
        "towers": [{}],
        "base_model_name_or_path": None,
    }
    assert without_origins(config, "lions/base")["base_model_name_or_path"] == "lions/base"


def test_a_config_is_pushed_without_them(hub, adapter, capsys, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name in (str(tmp_path), "./base", "/gone/since/then"):
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
        (adapter / "processor_config.json").write_text(json.dumps({"size": 224, "name_or_path": name}))
        assert main(["push", str(adapter), "--repo-id", REPO]) == 0
        assert json.loads(hub.files(REPO)["adapter_config.json"]) == {**config, "base_model_name_or_path": None}
        assert json.loads(hub.files(REPO)["processor_config.json"]) == {"size": 224}
        assert json.loads((adapter / "processor_config.json").read_text())["name_or_path"] == name


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("google/flan-t5-xl", False),
        ("gpt2", False),
        ("", False),
        (None, False),
        ("/models/base", True),
        ("~/base", True),
        ("./base", True),
        ("runs/stage0/final", True),
        (r"C:\base", True),
        ("tests", True),
    ],
)
def test_what_a_local_name_is(name, local, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    assert is_local(name) is local


@pytest.mark.parametrize(
    ("metadata", "cleaned"),
    [
        ("base_model: /models/base\n", ""),
        ("base_model:\n- lions/base\n- /models/base\n", "base_model: lions/base\n"),
        ("tags:\n- lion\n- base_model:adapter:/models/base\n", "tags:\n- lion\n"),
        ("tags:\n- base_model:adapter:lions/base\n", "tags:\n- base_model:adapter:lions/base\n"),
        ("license: other\nbase_model: lions/base\n", "license: other\nbase_model: lions/base\n"),
    ],
)
def test_metadata_of_a_card(metadata, cleaned):
    card = finish_card(f"---\nlibrary_name: peft\n{metadata}---\n\n# {{{{ repo_id }}}}\n", REPO)
    head, _, text = card.removeprefix("---\n").partition("---\n")
    assert head == f"library_name: peft\n{cleaned}"
    assert text.strip() == f"# {REPO}"


def test_no_trace_in_what_ships():
    """Whoever finds traces everywhere is not listened to: the shipped checkpoint has none, on any machine."""
    machine = Machine([checkpoints.path("nano")])
    files = select(checkpoints.path("nano")).files
    assert [trace for file, path in files.items() for trace in machine.find(file, path)] == []


@pytest.mark.parametrize("content", [b'{"_name_or_path": \xff}', b'{"_name_or_path": '])
def test_a_file_that_cannot_be_cleaned(hub, adapter, capsys, content):
    (adapter / "preprocessor_config.json").write_bytes(content)
    assert main(["push", str(adapter), "--repo-id", REPO]) == 1
    assert capsys.readouterr().err == "lion: error: preprocessor_config.json is not JSON in UTF-8\n"


def test_a_header_that_lies_about_its_length(hub, adapter, capsys):
    (adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    assert main(["push", str(adapter), "--repo-id", REPO]) == 1
    assert "is not a complete safetensors file" in capsys.readouterr().err
