"""The files of a Space, and their way to the Hub."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import lion_multimodal
from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from lion_multimodal.hub import space_files, write_space
from lion_multimodal.hub.space import GRADIO_VERSION
from tests.lion_multimodal.hub.conftest import hub  # noqa: F401
from tests.lion_multimodal.hub.loopback import SPACES


EXTRAS = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def metadata_of(files) -> dict:
    _, head, body = files["README.md"].decode().split("---\n", 2)
    assert body.strip().startswith("# ")
    return yaml.safe_load(head)


@pytest.mark.parametrize("kind", ["checkpoint", "adapter"])
def test_metadata_and_requirements_are_what_spaces_take(kind):
    files = space_files("you/lion-demo", "you/your-lion", kind, base_model="you/base" if kind == "adapter" else None)
    metadata = metadata_of(files)
    assert metadata["sdk"] == "gradio"
    assert metadata["app_file"] in files
    assert metadata["title"] == "lion-demo"
    assert metadata["models"][0] == "you/your-lion"
    assert len(metadata["short_description"]) <= 60  # the Hub takes no more
    assert metadata["colorFrom"] in ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
    (gradio,) = EXTRAS["app"]
    assert Requirement(gradio).specifier.contains(metadata["sdk_version"])
    (requirement,) = map(Requirement, files["requirements.txt"].decode().splitlines())
    assert requirement.name == "lion-multimodal"
    assert requirement.specifier.contains(lion_multimodal.__version__)
    assert requirement.extras <= set(EXTRAS)
    assert "app" in requirement.extras


def test_the_app_asks_for_the_model_by_its_name():
    def call(files):
        (call,) = [node for node in ast.walk(ast.parse(files["app.py"])) if isinstance(node, ast.Call)]
        assert call.func.id == "launch"
        named = {keyword.arg: keyword.value.value for keyword in call.keywords}
        return [argument.value for argument in call.args], named

    assert call(space_files("demo", 'you/it\'s "one"')) == (['you/it\'s "one"'], {})
    assert call(space_files("demo", "you/a", "adapter")) == ([], {"adapter": "you/a"})
    assert call(space_files("demo", "you/a", "adapter", "you/base")) == (["you/base"], {"adapter": "you/a"})


def test_a_name_that_no_space_can_have():
    with pytest.raises(ValueError, match="can't be the NAME"):
        space_files("a/b/c", "you/your-lion")


def test_the_gradio_of_a_space_is_the_one_that_is_tested():
    gradio = pytest.importorskip("gradio", reason="the extra `app` is not installed")
    if lion_newest():
        assert gradio.__version__ == GRADIO_VERSION


def lion_newest() -> bool:
    import transformers

    return int(transformers.__version__.split(".")[0]) >= 5


def test_push_makes_the_space_after_the_repo_and_leaves_its_other_files(hub, capsys):  # noqa: F811
    arguments = ["push", str(checkpoints.path("nano")), "--repo-id", "lions/nano", "--space", "lions/nano-page"]
    assert main(arguments) == 0
    there = hub.files(f"{SPACES}lions/nano-page")
    expected = space_files("lions/nano-page", "lions/nano")
    assert {name: there[name] for name in expected} == expected
    assert "model.safetensors" in hub.files("lions/nano")
    assert "app.py" not in hub.files("lions/nano")
    assert f"pushed    {hub.url}/spaces/lions/nano-page" in capsys.readouterr().out

    hub.repos[f"{SPACES}lions/nano-page"].commit("main", "by hand", {**there, "mine.txt": b"mine"})
    assert main(arguments) == 0
    assert hub.files(f"{SPACES}lions/nano-page")["mine.txt"] == b"mine"
    assert "unchanged" in capsys.readouterr().out.splitlines()[-1]


def test_a_private_space_and_a_wrong_name(hub, capsys):  # noqa: F811
    arguments = ["push", str(checkpoints.path("nano")), "--repo-id", "lions/nano"]
    assert main([*arguments, "--space", "lions/page", "--private"]) == 0
    assert hub.repos[f"{SPACES}lions/page"].private
    hub.forget()
    assert main([*arguments, "--space", "no/such/name"]) == 1
    assert hub.requests == []  # the name is looked at before anything is sent
    assert "'no/such/name'" in capsys.readouterr().err


def test_the_folder_of_a_space_is_written_without_the_hub(tmp_path, capsys):
    folder = tmp_path / "space"
    arguments = ["push", str(checkpoints.path("nano")), "--repo-id", "lions/nano", "--space-folder", str(folder)]
    assert main(arguments) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "app.py", "requirements.txt"]
    assert metadata_of({"README.md": (folder / "README.md").read_bytes()})["title"] == "nano-space"
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_local_model_is_no_model_of_the_hub(tmp_path):
    files = space_files("demo", str(checkpoints.path("nano")))
    assert "models" not in metadata_of(files)
    assert {path.name for path in write_space(tmp_path / "new" / "folder", files)} == set(files)
