"""
Datasets of lmms-eval's tasks about the synthetic world, in the schemas of those on the Hub.

    python -m laboratory.lmms_eval_fixture DIR --rows 100

writes `DIR/lmms-lab-encoder/NAME/data/SPLIT-00000-of-00001.parquet`. `datasets` takes a folder in the current directory
before a repo on the Hub: `python -m lmms_eval` reads these files when it runs in `DIR`, and its tasks stay as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as parquet

from laboratory.counterparts.synthetic import write_synthetic


# The owner of lmms-eval's datasets since 0.7.
OWNER = "lmms-lab-encoder"


@dataclass(frozen=True)
class TaskData:
    """
    What a task of lmms-eval reads.

    Attributes:
        dataset: name on the Hub, without the owner.
        split: its split.
        benchmark: the benchmark of `laboratory.counterparts.synthetic` whose rows it gets.
        convert: the file of these rows to the dataset; `None` where they have its schema already.
    """

    dataset: str
    split: str
    benchmark: str
    convert: Callable[[Path], datasets.Dataset] | None = None


def _seed_bench(path: Path) -> datasets.Dataset:
    """A-OKVQA's rows, as far as they have four choices, in the schema of SEED-Bench."""
    rows: list[dict[str, Any]] = []
    for row in parquet.read_table(path).to_pylist():
        if len(row["choices"]) != 4:
            continue
        rows.append(
            {
                "answer": "ABCD"[row["correct_choice_idx"]],
                **{f"choice_{letter}": choice for letter, choice in zip("abcd", row["choices"], strict=True)},
                "data_id": row["image"]["path"],
                "data_type": "image",
                "question": row["question"],
                "question_id": row["question_id"],
                "question_type_id": 1,
                "image": [row["image"]],
                "segment": None,
            }
        )
    if not rows:
        raise ValueError("none of the rows has four choices: write more rows")
    text = datasets.Value("string")
    features = dict.fromkeys(rows[0], text) | {
        "question_type_id": datasets.Value("int16"),
        "image": datasets.List(datasets.Image()),
        "segment": datasets.List(datasets.Value("int64")),
    }
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


TASKS = {
    "pope": TaskData("POPE", "test", "pope"),
    "ok_vqa_val2014": TaskData("OK-VQA", "val2014", "okvqa"),
    "refcoco_bbox_rec_testB": TaskData("RefCOCO", "testB", "refcoco_testB"),
    "flickr30k_test": TaskData("flickr30k", "test", "flickr30k"),
    "seedbench_ppl": TaskData("SEED-Bench", "test", "aokvqa", _seed_bench),
}


def write_fixture(
    directory: str | Path, num_rows: int, tasks: Sequence[str] | None = None, seed: int = 0
) -> list[Path]:
    """
    Write what tasks of lmms-eval read.

    Args:
        directory: where to run lmms-eval.
        num_rows: as in `laboratory.counterparts.synthetic.write_synthetic`: rows, for POPE images of 18 rows each.
            SEED-Bench gets those that have four choices.
        tasks: names of `TASKS`; all by default.
        seed: which scenes and questions.

    Returns:
        The files.

    Raises:
        ValueError: an argument is outside what is described here, or there are too few rows for SEED-Bench.
        FileExistsError: one of the files is there already.
    """
    names = list(TASKS) if tasks is None else list(tasks)
    if unknown := [name for name in names if name not in TASKS]:
        raise ValueError(f"tasks must be among {', '.join(TASKS)}, got {', '.join(unknown)}")
    wanted = [TASKS[name] for name in names]
    files = [
        Path(directory) / OWNER / data.dataset / "data" / f"{data.split}-00000-of-00001.parquet" for data in wanted
    ]
    if there := [file for file in files if file.exists()]:
        raise FileExistsError(f"{there[0]} is there already")
    with tempfile.TemporaryDirectory() as scratch:
        folders = write_synthetic(scratch, num_rows, [data.benchmark for data in wanted], seed)
        for data, folder, file in zip(wanted, folders, files, strict=True):
            (written,) = folder.glob("*.parquet")
            file.parent.mkdir(parents=True, exist_ok=True)
            if data.convert is None:
                file.write_bytes(written.read_bytes())
            else:
                data.convert(written).to_parquet(str(file))
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Write datasets of lmms-eval's tasks about the synthetic world, from the command line."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.lmms_eval_fixture", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="where lmms-eval will run")
    parser.add_argument("--rows", type=int, default=100, help="rows of each dataset (default: 100)")
    parser.add_argument("--tasks", help=f"names, separated by commas, of {', '.join(TASKS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="which scenes and questions (default: 0)")
    options = parser.parse_args(arguments)
    names = options.tasks.split(",") if options.tasks else None
    try:
        write_fixture(options.directory, options.rows, names, options.seed)
    except (ValueError, FileExistsError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
