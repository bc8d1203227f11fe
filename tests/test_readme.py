"""What the README shows is what happens."""

import ast
import re
from pathlib import Path


README = Path(__file__).parents[1] / "README.md"


def test_first_snippet_gives_what_stands_beneath_it(monkeypatch):
    snippet = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    *lines, shown = snippet.strip().splitlines()
    monkeypatch.chdir(README.parent)
    *statements, last = ast.parse("\n".join(lines)).body
    namespace = {}
    exec(compile(ast.Module(statements, type_ignores=[]), str(README), "exec"), namespace)
    (result,) = eval(compile(ast.Expression(last.value), str(README), "eval"), namespace)
    (expected,) = ast.literal_eval(shown.removeprefix("# "))
    assert result == expected


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert len(targets) > 4
    assert [target for target in targets if not (README.parent / target).exists()] == []


def _skeleton(path: Path) -> tuple[list[int], list[str], list[str]]:
    """Levels of the headings, commands, and code without its comments."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"```\w+\n(.*?)```", text, re.DOTALL)
    outside = re.sub(r"```\w+\n.*?```", "", text, flags=re.DOTALL)
    headings = [len(marks) for marks in re.findall(r"^(#+) ", outside, re.MULTILINE)]
    commands = [line.split("#")[0].strip() for line in outside.splitlines() if line.startswith("    ")]
    return headings, commands, blocks


def test_the_chinese_readme_has_the_same_headings_commands_and_code():
    assert _skeleton(README.with_name("README_zh.md")) == _skeleton(README)


def test_links_of_the_chinese_readme_lead_somewhere():
    text = README.with_name("README_zh.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert [target for target in targets if not (README.parent / target).exists()] == []
