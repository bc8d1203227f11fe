"""`lion convert official --push-to-hub`: converted, and sent in one commit."""

from lion_multimodal.cli.main import main
from tests.official_files import write_official


def test_a_converted_checkpoint_is_pushed(hub, tmp_path, capsys):
    files = write_official(tmp_path)
    arguments = ["--output", tmp_path / "out", "--max-shard-size", "500KB", "--push-to-hub", "lions/converted"]
    for field in ("checkpoint", "vision", "text_model", "qformer_tokenizer", "config"):
        arguments += [f"--{field.replace('_', '-')}", getattr(files, field)]
    assert main(["convert", "official", *map(str, arguments)]) == 0
    assert f"pushed    {hub.url}/lions/converted/commit/" in capsys.readouterr().out
    pushed = hub.files("lions/converted")
    assert {"config.json", "model.safetensors.index.json", "modeling_lion.py", "README.md"} <= pushed.keys()
    card = pushed["README.md"].decode()
    assert 'model="lions/converted"' in card
    assert "| `LION.pth` | 242 tensors |" in card
    for file in (tmp_path / "out").iterdir():
        if file.is_file() and file.name != "README.md":
            assert pushed[file.name] == file.read_bytes(), file.name


def test_a_name_that_no_repo_can_have_is_found_out_first(tmp_path, capsys):
    files = write_official(tmp_path)
    arguments = ["--output", tmp_path / "out", "--push-to-hub", "no/such/name"]
    for field in ("checkpoint", "vision", "text_model", "qformer_tokenizer", "config"):
        arguments += [f"--{field.replace('_', '-')}", getattr(files, field)]
    assert main(["convert", "official", *map(str, arguments)]) == 1
    assert "no/such/name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
