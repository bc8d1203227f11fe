"""Tables that are tables whatever stands in their cells."""

import pytest

from trainers.publishing.markdown import markdown_table


def test_table():
    table = markdown_table(["name", "a", "b"], [["x | y", "1", "2\n3"]], "lr")
    assert table == "| name | a | b |\n| --- | ---: | ---: |\n| x \\| y | 1 | 2 3 |\n"
    assert markdown_table(["a"], []) == "| a |\n| --- |\n"


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="`rows` must have 2 cells each, got \\['x'\\]"):
        markdown_table(["a", "b"], [["x"]])
