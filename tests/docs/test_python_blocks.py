"""Every Python block of the documents runs as it is written, and gives what stands beneath it."""

import ast
import textwrap

import pytest
from pytest_examples import CodeExample

from tests.docs.documents import python_blocks


BLOCKS = python_blocks()


def shown_result(block: CodeExample, statement: ast.stmt) -> object:
    """The literal in the comment right under a statement, or `...` if there is none."""
    lines = block.source.splitlines()[statement.end_lineno :]
    comment = []
    for line in lines:
        if not line.startswith("# "):
            break
        comment.append(line.removeprefix("# "))
    try:
        return ast.literal_eval(textwrap.dedent("\n".join(comment)))
    except (SyntaxError, ValueError):
        return ...


def run_block(block: CodeExample, namespace: dict, repo_id: str) -> int:
    """Run a block statement by statement; the number of results that were compared."""
    source = block.source.replace("{{ repo_id }}", repo_id)
    compared = 0
    for statement in ast.parse(source).body:
        shown = shown_result(block, statement)
        ast.increment_lineno(statement, block.start_line)
        if isinstance(statement, ast.Expr):
            result = eval(compile(ast.Expression(statement.value), str(block.path), "eval"), namespace)
        else:
            exec(compile(ast.Module([statement], type_ignores=[]), str(block.path), "exec"), namespace)
            result = None
        if shown is not ... and isinstance(statement, ast.Expr):
            assert result == shown, f"{block.path}, line {statement.end_lineno}"
            compared += 1
    return compared


@pytest.mark.parametrize("document", BLOCKS)
def test_python_blocks_run(document, official, names_on_the_hub, request):
    if document == "docs/serve.md":
        request.getfixturevalue("served")
    if any("load_in_4bit" in block.source for block in BLOCKS[document]):
        pytest.importorskip("bitsandbytes")
    namespace = {"__name__": "__main__"}
    for block in BLOCKS[document]:
        run_block(block, namespace, "you/your-lion")


def test_blocks_are_found():
    assert len(BLOCKS["README.md"]) >= 4
    assert shown_result(BLOCKS["README.md"][0], ast.parse(BLOCKS["README.md"][0].source).body[-1]) is not ...


def test_a_wrong_result_is_noticed(tmp_path):
    block = CodeExample.create("x = [1]\nx + [2]\n# [1, 3]\n", path=tmp_path / "page.md")
    with pytest.raises(AssertionError, match=r"page\.md"):
        run_block(block, {}, "")
    block = CodeExample.create("x = [1]\nx + [2]\n# [1, 2]\n", path=tmp_path / "page.md")
    assert run_block(block, {}, "") == 1
