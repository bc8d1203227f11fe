"""Streams of many shards: each process its own rows, a killed run goes on, two processes as well as one."""

import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import pytest

from tests.trainers.conftest import make_rows
from tests.trainers.stream_processes import NUM_ROWS, read_seen, train_and_resume, write_shards
from trainers.datasets_lion import build_dataset
from trainers.recipe import SourceRecipe
from trainers.rows import BadRows


ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    # `datasets` rests for seconds at the end of every pass over a Parquet file.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, row in enumerate(make_rows(NUM_ROWS)):
        row["image"].save(folder / f"{i}.png")
    return folder


def source(path: Path, **fields) -> SourceRecipe:
    columns = {"path": str(path), "name": "rows", "streaming": True, "tags": "column", "level": "column"}
    return SourceRecipe(**{**columns, "shuffle_buffer": 4, **fields})


def one_pass(sources, process_index: int, num_processes: int, length: int) -> list[str]:
    rows = build_dataset(sources, process_index=process_index, num_processes=num_processes).take(length)
    return [Path(row["image"]["path"]).name for row in rows]


@pytest.mark.parametrize(("shards", "processes"), [(4, 2), (3, 2), (1, 2), (4, 4), (3, 4)])
def test_processes_read_disjoint_rows_and_together_all(images, tmp_path, shards, processes):
    write_shards(tmp_path, images, shards)
    shares = [
        one_pass([source(tmp_path / "*.jsonl", image_folder=str(images))], i, processes, NUM_ROWS // processes)
        for i in range(processes)
    ]
    assert sorted(itertools.chain(*shares)) == sorted(f"{i}.png" for i in range(NUM_ROWS))


def test_rows_of_saved_and_of_unstreamed_data_are_shared_out_too(images, tmp_path):
    rows = make_rows(NUM_ROWS)
    rows = rows.remove_columns("image").add_column("image", [str(images / f"{i}.png") for i in range(NUM_ROWS)])
    rows.save_to_disk(str(tmp_path / "saved"))
    write_shards(tmp_path / "shards", images, 2)
    mixed = [
        source(tmp_path / "saved", name="saved", streaming=False),
        source(tmp_path / "shards" / "*.jsonl", image_folder=str(images)),
    ]
    for sources in ([source(tmp_path / "saved")], mixed):
        shares = [one_pass(sources, i, 2, len(sources) * NUM_ROWS // 2) for i in range(2)]
        assert sorted(itertools.chain(*shares)) == sorted([f"{i}.png" for i in range(NUM_ROWS)] * len(sources))


def test_bad_rows_of_all_shards_are_counted(images, tmp_path):
    """The third row of each shard: readers that count for themselves would call them all the same."""
    write_shards(tmp_path, images, 4)
    for path in tmp_path.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[2]["image"] = f"nowhere-{path.stem}.png"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for processes in (1, 2):
        record = tmp_path / f"bad-{processes}.jsonl"
        for i in range(processes):
            rows = build_dataset(
                [source(tmp_path / "rows-*.jsonl", image_folder=str(images))],
                bad_rows=BadRows(path=record),
                process_index=i,
                num_processes=processes,
            )
            assert len(list(rows.take(2 * (NUM_ROWS - 4) // processes))) == 2 * (NUM_ROWS - 4) // processes
        assert BadRows(path=record).summary() == {"rows": 4}


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_shards_that_hold_their_images(images, tmp_path, kind):
    if kind == "parquet":
        for i in range(2):
            make_rows(NUM_ROWS).shard(2, i).to_parquet(tmp_path / f"{i}.parquet")
        recipe = source(tmp_path / "*.parquet")
    else:  # as `webdataset` writes them
        for i in range(2):
            with tarfile.open(tmp_path / f"{i}.tar", "w") as tar:
                for row in range(i * NUM_ROWS // 2, (i + 1) * NUM_ROWS // 2):
                    (tmp_path / "text.txt").write_text(f"a cat {row}")
                    tar.add(images / f"{row}.png", f"{row:04d}.png")
                    tar.add(tmp_path / "text.txt", f"{row:04d}.txt")
        columns = {"image": "png", "completion": "txt"}
        recipe = source(tmp_path / "*.tar", columns=columns, template="caption_short", tags="none", level="image_level")
    shares = [
        [row["image"]["bytes"] for row in build_dataset([recipe], process_index=i, num_processes=2).take(NUM_ROWS // 2)]
        for i in range(2)
    ]
    expected = [(images / f"{i}.png").read_bytes() for i in range(NUM_ROWS)]
    if kind == "tar":
        assert sorted(itertools.chain(*shares)) == sorted(expected)
    assert len(set(itertools.chain(*shares))) == NUM_ROWS


def losses(path: Path) -> list[float]:
    history = json.loads((path / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_goes_on_in_the_middle_of_a_stream(images, tmp_path, workers):
    write_shards(tmp_path / "shards", images, 3)
    train_and_resume(tmp_path / "shards", images, tmp_path, workers)
    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")
    rows = read_seen(tmp_path / "whole")
    # Six steps of four rows are one pass, unless one of two workers has more shards than the other.
    assert workers or sorted(itertools.chain(*rows)) == sorted(f"{i}.png" for i in range(NUM_ROWS))
    assert read_seen(tmp_path / "resumed") == rows[3:]


@pytest.fixture(scope="module")
def shared(images, tmp_path_factory) -> Path:
    """What two processes made of four shards, and of three."""
    path = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "tests" / "trainers" / "stream_processes.py")
    folders = []
    for shards in (4, 3):
        write_shards(path / str(shards) / "shards", images, shards)
        folders.append(str(path / str(shards)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*launcher, script, str(images), *folders]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-20000:]
    return path


@pytest.mark.parametrize("shards", [4, 3])
def test_two_processes_go_on_in_the_middle_of_a_stream(shared, shards):
    whole, resumed = shared / str(shards) / "whole", shared / str(shards) / "resumed"
    assert len(losses(whole)) == 6
    assert losses(resumed) == losses(whole)
    seen = [read_seen(whole, process) for process in range(2)]
    # Six steps of two rows for each of two processes are one pass.
    assert sorted(itertools.chain(*seen[0], *seen[1])) == sorted(f"{i}.png" for i in range(NUM_ROWS))
    for process in range(2):
        assert read_seen(resumed, process) == seen[process][3:]
