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
