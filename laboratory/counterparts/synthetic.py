"""
The benchmarks' counterparts in the synthetic world, in each dataset's own row schema.

    python -m laboratory.counterparts.synthetic DIR --rows 100

writes `DIR/NAME/` for every benchmark, as `--data-dir DIR` reads it: images embedded in parquet, or in the folder
`images` beside JSON. What is asked follows the dataset (ten answers a question, a hundred candidates a round, six
existence questions of each kind an image), in words of the world's own questions. Columns that mean nothing to an
evaluation, such as programs of questions, are empty or left out.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from laboratory.counterparts.captioning import write_coco_caption, write_flickr30k, write_textcaps
from laboratory.counterparts.dialogue import write_visdial
from laboratory.counterparts.mmbench import write_mmbench
from laboratory.counterparts.pope import write_pope
from laboratory.counterparts.question_answering import write_aokvqa, write_gqa, write_iconqa, write_okvqa, write_vsr
from laboratory.counterparts.referring import write_lmms_refcoco, write_refcoco_benchmark, write_shikra_refcoco
from laboratory.world.scene import SPLITS, Scene, sample_scene
from lion_multimodal.evaluation.benchmarks import BENCHMARKS


# Scenes apart: of benchmarks, and of seeds.
_BENCHMARK_STRIDE = 200_000
_SEED_STRIDE = _BENCHMARK_STRIDE * 100

_Writer = Callable[[Path, Iterator[Scene], int, random.Random], None]

_WRITERS: dict[str, _Writer] = {
    "flickr30k": write_flickr30k,
    "coco_caption": write_coco_caption,
    "textcaps": write_textcaps,
    "okvqa": write_okvqa,
    "aokvqa": write_aokvqa,
    "gqa": write_gqa,
    "iconqa": write_iconqa,
    "vsr": write_vsr,
    "visdial": write_visdial,
    "pope": write_pope,
    "mmbench": write_mmbench,
    # Each of the schemas that the benchmarks read is written by some of them.
    "refcoco_val": partial(write_refcoco_benchmark, "refcoco_val"),
    "refcoco_testA": partial(write_refcoco_benchmark, "refcoco_testA"),
    "refcoco_testB": partial(write_lmms_refcoco, "refcoco_testB"),
    "refcoco_plus_val": partial(write_refcoco_benchmark, "refcoco_plus_val"),
    "refcoco_plus_testA": partial(write_refcoco_benchmark, "refcoco_plus_testA"),
    "refcoco_plus_testB": partial(write_shikra_refcoco, "refcoco_plus_testB"),
    "refcocog_val": partial(write_refcoco_benchmark, "refcocog_val"),
    "refcocog_test": partial(write_lmms_refcoco, "refcocog_test"),
}


def write_synthetic(
    directory: str | Path,
    num_rows: int,
    benchmarks: Sequence[str] | None = None,
    seed: int = 0,
    split: str = "test",
    most_objects: int | None = None,
) -> list[Path]:
    """
    Write benchmarks about the synthetic world.

    Args:
        directory: where; each benchmark gets a folder of its name there.
        num_rows: how many rows each gets. For those that ask about an image many times in rows of their own it is the
            number of images (POPE) or questions (MMBench, whose rows rotate the options).
        benchmarks: names; all by default.
        seed: which scenes and questions; nothing else depends on chance.
        split: split of the world whose scenes are shown; `"test"` scenes were never trained on.
        most_objects: objects of the fullest images; as the world has them by default.

    Returns:
        The folders.

    Raises:
        ValueError: an argument is outside what is described here.
        FileExistsError: a folder is there already and not empty.
    """
    names = list(BENCHMARKS) if benchmarks is None else list(benchmarks)
    if unknown := [name for name in names if name not in _WRITERS]:
        raise ValueError(f"benchmarks must be among {', '.join(_WRITERS)}, got {', '.join(unknown)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    most_seeds = len(SPLITS[split]) // _SEED_STRIDE
    if not 0 <= seed < most_seeds:
        raise ValueError(f"seed must be between 0 and {most_seeds - 1}, got {seed}")
    if not 1 <= num_rows <= _BENCHMARK_STRIDE // 20:
        raise ValueError(f"num_rows must be between 1 and {_BENCHMARK_STRIDE // 20}, got {num_rows}")
    folders = [Path(directory) / name for name in names]
    if full := [folder for folder in folders if folder.exists() and any(folder.iterdir())]:
        raise FileExistsError(f"{full[0]} is there already")
    for name, folder in zip(tqdm(names, "Writing benchmarks"), folders):
        folder.mkdir(parents=True, exist_ok=True)
        first = seed * _SEED_STRIDE + list(BENCHMARKS).index(name) * _BENCHMARK_STRIDE
        seeds = SPLITS[split][first : first + _BENCHMARK_STRIDE]
        scenes = (sample_scene(number, most_objects=most_objects) for number in seeds)
        _WRITERS[name](folder, scenes, num_rows, random.Random(f"{name}/{seed}"))
    return folders


def main(arguments: Sequence[str] | None = None) -> None:
    """Write benchmarks about the synthetic world, from the command line."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.counterparts.synthetic", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="where; each benchmark gets a folder there")
    parser.add_argument("--rows", type=int, default=100, help="rows of each benchmark (default: 100)")
    parser.add_argument("--benchmarks", help="names, separated by commas (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="which scenes and questions (default: 0)")
    parser.add_argument("--split", default="test", choices=SPLITS, help="split of the world (default: test)")
    parser.add_argument("--most-objects", type=int, help="objects of the fullest images (default: the world's)")
    options = parser.parse_args(arguments)
    names = options.benchmarks.split(",") if options.benchmarks else None
    try:
        write_synthetic(options.directory, options.rows, names, options.seed, options.split, options.most_objects)
    except (ValueError, FileExistsError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
