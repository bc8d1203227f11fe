"""What is written comes back; what is torn is named or passed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.json_lines import append_lines, encode_line, read_lines


# Lone surrogates, too: they stand for bytes of file names that are not UTF-8.
texts = st.text(max_size=5) | st.just("a\udcff.png")
records = st.dictionaries(texts, texts | st.integers() | st.none() | st.lists(texts, max_size=2), max_size=3)


@given(st.lists(records, max_size=4))
def test_records_come_back(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    append_lines(file, rows[:1])
    append_lines(file, rows[1:])
    assert list(read_lines(file)) == list(enumerate(rows, start=1))
    assert len(file.read_bytes().split(b"\n")) == len(rows) + 1


@pytest.mark.parametrize(("torn", "problem"), [(b'{"a": 1', "JSON"), (b"[1]\n", "object"), (b"\xff\n", "JSON")])
def test_torn_lines(torn, problem, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(encode_line({"a": 1}) + b"\n" + torn)
    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 3 is no {problem}"):
        list(read_lines(file))
    assert list(read_lines(file, skip_torn=True)) == [(1, {"a": 1})]
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        list(read_lines(file, skip_empty=False))
