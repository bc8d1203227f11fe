"""An output is the same whenever the runs that fill it are killed, and never takes the place of something else."""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lion_multimodal.prediction.inputs import Prompt, Request, Row
from lion_multimodal.prediction.outputs import OtherSettingsError, Output, Summary
from lion_multimodal.prediction.runner import Batch, group_requests
from trainers.json_lines import encode_line


SETTINGS = {"model": "a", "prompt": "What?", "draw": None}


def answer_all(requests: list[Request], batch_size: int) -> list[Batch]:
    """What a run gives; images whose names begin with `x` cannot be read."""
    batches = []
    for group in group_requests(requests, batch_size):
        parts = group.batches(batch_size)
        for number, places in enumerate(parts):
            asked = [group.requests[place] for place in sorted(places)]
            lost = [r for r in asked if r.row.image.startswith("x")]
            answers = [(r.number, record(r)) for r in asked if r not in lost]
            errors = [(r.number, {"id": r.row.id, "image": r.row.image, "kind": "image", "error": "?"}) for r in lost]
            batches.append(Batch(group.number, number, len(parts), group.rows, group.images, answers, errors))
    return batches


def record(request: Request) -> dict:
    texts = {"prompt": request.question.prompt, "level": "image_level", "tags": None, "generated_text": "ü\udc80"}
    return {"id": request.row.id, "image": request.row.image, **texts, "boxes": [[0.5, 1, 2, 3]], "labels": [""]}


def make_requests(images: list[str], prompts: int = 2) -> list[Request]:
    pairs = [(number, image, prompt) for number, image in enumerate(images) for prompt in range(prompts)]
    return [
        Request(number, row, image, Row(f"{image}#{prompt}", image, image), Prompt(f"{prompt}?"))
        for number, (row, image, prompt) in enumerate(pairs)
    ]


REQUESTS = make_requests(["a", "b", "x", "c", "d"])
BATCHES = answer_all(REQUESTS, 2)


def fill(path, batches=BATCHES, index=0) -> Output:
    output = Output(path, SETTINGS, index)
    assert output.check() is None
    output.start()
    done = output.done()
    for batch in batches:
        if (batch.group, batch.batch) not in done:
            output.append(batch)
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@settings(deadline=None, max_examples=40)
@given(
    images=st.lists(st.text("abx", min_size=1, max_size=2), min_size=1, max_size=12),
    prompts=st.integers(1, 5),
    batch_size=st.integers(1, 4),
)
def test_groups_hold_every_request_once(images, prompts, batch_size):
    requests = make_requests(images, prompts)
    groups = list(group_requests(iter(requests), batch_size))
    assert [r for group in groups for r in group.requests] == requests
    assert [group.number for group in groups] == list(range(len(groups)))
    assert all(len({r.key for r in group.requests}) <= batch_size for group in groups)
    for group in groups:
        places = [place for batch in group.batches(batch_size) for place in batch]
        assert sorted(places) == list(range(len(group.requests)))
        assert all(1 <= len(batch) <= batch_size for batch in group.batches(batch_size))


@settings(deadline=None, max_examples=15)
@given(cut=st.integers(0, 10_000), other_cut=st.integers(0, 10_000), first=st.integers(0, len(BATCHES)))
def test_journals_torn_at_any_byte_give_the_same_output(cut, other_cut, first):
    """Of one process, then of two, then of one again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "whole.jsonl").finish()
        fill(folder / "torn.jsonl", BATCHES[:first])
        part = folder / "torn.jsonl.journal" / "part-00001.jsonl"
        part.write_bytes(b"".join(encode_line(asdict(batch)) for batch in BATCHES[first:])[: cut + 1])
        fill(folder / "torn.jsonl", BATCHES[::2])
        part.write_bytes(part.read_bytes()[: other_cut + 1])
        summary = fill(folder / "torn.jsonl").finish(len({batch.group for batch in BATCHES}))
        assert summary == Summary(8, 5, 1, 0, "x", None)
        for end in (".jsonl", ".errors.jsonl", ".jsonl.run.json"):
            assert (folder / f"torn{end}").read_bytes() == (folder / f"whole{end}").read_bytes()
        assert not (folder / "torn.jsonl.journal").exists()


def test_records_stand_in_the_order_of_their_requests(tmp_path):
    fill(tmp_path / "a.jsonl", BATCHES[::-1]).finish()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_bytes().splitlines()]
    assert [line["id"] for line in lines] == [r.row.id for r in REQUESTS if r.row.image != "x"]
    errors = [json.loads(line) for line in (tmp_path / "a.errors.jsonl").read_bytes().splitlines()]
    assert [line["id"] for line in errors] == ["x#0", "x#1"]


def test_every_format_holds_the_same_and_is_the_same_every_time(tmp_path):
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        for name in ("a.jsonl", "a.parquet", "a"):
            fill(tmp_path / run / name).finish()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    lines = [json.loads(line) for line in (tmp_path / "one" / "a.jsonl").read_bytes().splitlines()]
    assert lines[0]["generated_text"] == "ü\udc80"
    for line in lines:
        line["generated_text"] = "ü\\udc80"  # a column holds no lone surrogates
    assert pyarrow.parquet.read_table(tmp_path / "one" / "a.parquet").to_pylist() == lines
    saved = datasets.load_from_disk(str(tmp_path / "one" / "a"))
    assert list(saved) == lines


def test_a_run_without_any_answer_makes_an_empty_output(tmp_path):
    batches = answer_all(make_requests(["x"]), 2)
    for name in ("a.jsonl", "a.parquet"):
        assert fill(tmp_path / name, batches).finish() == Summary(0, 1, 1, 0, "x", None)
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 0
    with pytest.raises(ValueError, match=r"no answer to write .* why, is in .*a\.errors\.jsonl"):
        fill(tmp_path / "a", batches).finish()
    assert (tmp_path / "a.errors.jsonl").is_file()


def test_an_output_that_is_complete_is_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    summary = fill(path).finish()
    assert Output(path, SETTINGS).check() == summary
    path.unlink()
    assert Output(path, SETTINGS).check() is None


@pytest.mark.parametrize("finished", [True, False])
def test_another_command_needs_overwrite(tmp_path, finished):
    output = fill(tmp_path / "a.jsonl")
    if finished:
        output.finish()
    else:
        output._lock.close()
    other = Output(tmp_path / "a.jsonl", {**SETTINGS, "prompt": "Where?", "seed": 1})
    with pytest.raises(OtherSettingsError, match="prompt, seed differ; --overwrite"):
        other.check()
    assert other.check(overwrite=True) is None
    other.start(overwrite=True)
    assert other.done() == {}
    assert not (tmp_path / "a.jsonl").exists()
    assert not (tmp_path / "a.errors.jsonl").exists()


def test_what_is_no_output_is_not_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text("mine")
    with pytest.raises(OtherSettingsError, match="no output of lion predict"):
        Output(tmp_path / "a.jsonl", SETTINGS).check()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_text("mine")
    with pytest.raises(OtherSettingsError, match="no output of lion predict"):
        Output(tmp_path / "photos", SETTINGS).check()
    with pytest.raises(OtherSettingsError, match="which --overwrite does not delete"):
        Output(tmp_path / "photos", SETTINGS).check(overwrite=True)
    with pytest.raises(ValueError, match=r"must end in \.jsonl or \.parquet"):
        Output(tmp_path / "a.csv", SETTINGS)


def test_two_runs_do_not_fill_one_output(tmp_path):
    output = fill(tmp_path / "a.jsonl")
    with pytest.raises(BlockingIOError, match="another run is filling"):
        fill(tmp_path / "a.jsonl")
    output.finish()


def test_a_damaged_or_incomplete_journal_is_no_output(tmp_path):
    output = fill(tmp_path / "a.jsonl", BATCHES[:-1])
    with pytest.raises(RuntimeError, match="2 of 3 groups"):
        output.finish(3)
    output.append(BATCHES[-1])
    shutil.copyfile(output.part, tmp_path / "kept")
    output.part.write_bytes(b"{}\n" + output.part.read_bytes())
    with pytest.raises(ValueError, match="line 1 is damaged"):
        output.done()
    shutil.copyfile(tmp_path / "kept", output.part)
    output.finish(3)
