"""The five minutes of docs/training.md, as they stand there."""

import re
import shlex
from pathlib import Path

import yaml

from lion_multimodal.cli.main import main
from trainers.recipe import Recipe


GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_five_minutes_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = GUIDE.partition("## Fine-tune in five minutes")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(python|bash)\n(.*?)```", section, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "bash", "bash", "python", "bash"]
    answers = []
    for kind, text in blocks:
        if kind == "python":
            namespace = {}
            exec(compile(text, "docs/training.md", "exec"), namespace)
            answers.append(namespace.get("answer"))
        else:
            for line in text.splitlines():
                words = shlex.split(line)
                assert words[0] == "lion"
                assert main(words[1:]) == 0, line
    printed = capsys.readouterr().out.splitlines()
    assert answers == [None, "yes"]
    assert printed.count("yes") == 2  # with the adapter, and merged
    assert list(Path("drawn").glob("*.png"))
    assert Path("data_check.png").is_file()
    assert Path("tuned/report.md").is_file()
    assert Path("merged/model.safetensors").is_file()


def test_the_recipe_is_one():
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    recipe = Recipe.from_content(yaml.safe_load(text))
    assert recipe.finetune.method == "lora"
