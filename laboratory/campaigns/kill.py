"""
Commands killed (SIGKILL) at a random moment and repeated: what they leave can be read at every moment, and in the end
the outputs are those of a run that nothing interrupted.

The commands run in forks of this process, which has imported everything already: a kill meets work and no imports.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from laboratory.campaigns.campaign import Case, Report, run_cases
from lion_multimodal import checkpoints
from lion_multimodal.checkpoints import demo_scenes


# Of results, whatever depth they are at: times, names of folders, versions of what is installed.
_UNEQUAL = {"run", "created", "versions", "_fingerprint", "download_size", "base_model_name_or_path"}
_FEW = ["--device", "cpu", "--num-beams", "1", "--max-new-tokens", "4"]


def start(arguments: Sequence[str], log: Path) -> int:
    """Run a `lion` command in a fork; its process id."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from lion_multimodal.cli.main import main

        status = main(arguments)
    finally:
        os._exit(status)


def finish(arguments: Sequence[str], log: Path) -> float:
    """
    Run a command to its end.

    Returns:
        `float`: seconds that it took.

    Raises:
        AssertionError: it failed.
    """
    started = time.perf_counter()
    _, status = os.waitpid(start(arguments, log), 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"{' '.join(arguments)}: {log.read_text(errors='replace')[-800:]}"
    return time.perf_counter() - started


def kill(arguments: Sequence[str], log: Path, after: float) -> bool:
    """Run a command and kill it after some seconds; whether it was still running then."""
    process = start(arguments, log)
    ends = time.perf_counter() + after
    while time.perf_counter() < ends:
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def check_readable(folder: Path) -> None:
    """
    Every file with a final name is whole.

    Raises:
        AssertionError: one is not.
    """
    for file in folder.rglob("*"):
        if file.name.startswith(".") or ".partial" in str(file.relative_to(folder)):
            continue
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".png":
                with Image.open(file) as image:
                    image.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise AssertionError(f"{file.name} is half-written: {error}") from error


def _comparable(value: object) -> object:
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items() if key not in _UNEQUAL}
    return [_comparable(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path, patterns: Sequence[str] = ("*",)) -> dict[str, bytes]:
    """
    The outputs of a command by name, those that fit a pattern; what tells of times or folders, checkpoints along the
    way, and what is meant to be temporary, left out.
    """
    found = {}
    for file in sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}):
        name = file.relative_to(folder).as_posix()
        if "checkpoint-" in name or file.name.startswith(".") or ".partial" in name:
            continue
        content = file.read_bytes()
        if file.suffix == ".json":
            values = _comparable(json.loads(content))
            content = json.dumps(values, sort_keys=True).encode()
        elif file.suffix in (".arrow", ".md"):
            continue
        found[name] = content
    return found


@cache
def _inputs() -> Path:
    """Images, and a benchmark of few questions."""
    folder = Path(tempfile.mkdtemp(prefix="lion_campaign_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # forks leave by os._exit, which passes this by
    (folder / "images").mkdir()
    for number, scene in enumerate(demo_scenes()):
        scene.image.save(folder / "images" / f"{number}.png")
    from laboratory.counterparts.synthetic import main

    main([str(folder / "data"), "--rows", "6", "--benchmarks", "pope"])
    return folder


def _predict(output: Path) -> list[str]:
    images = sorted(str(path) for path in (_inputs() / "images").iterdir())
    return ["predict", *images, "--no-tags", "--draw", str(output / "drawn"), *_FEW]


def _predict_output(output: Path) -> list[str]:
    arguments = ["predict", str(_inputs() / "images"), "--prompt", "What is it?", "--batch-size", "2", *_FEW]
    return [*arguments, "--output", str(output / "answers.jsonl")]


def _tag(output: Path) -> list[str]:
    arguments = ["tag", str(_inputs() / "images"), "--output", str(output / "tags.jsonl")]
    return [*arguments, "--batch-size", "2", "--device", "cpu"]


def _tag_dataset(output: Path) -> list[str]:
    arguments = ["tag", str(_inputs() / "images"), "--output-dataset", str(output / "tagged")]
    return [*arguments, "--batch-size", "2", "--device", "cpu"]


def _evaluate(output: Path) -> list[str]:
    arguments = [
        "eval",
        "--model",
        str(checkpoints.path("nano")),
        "--benchmark",
        "pope",
        "--output",
        str(output / "out"),
    ]
    return [*arguments, "--data-dir", str(_inputs() / "data"), "--batch-size", "1", "--tags", "none", "--device", "cpu"]


def _demo(output: Path) -> list[str]:
    return ["demo", "--scene", "1", "--output", str(output / "demo.png")]


@cache
def _rows() -> Path:
    """Rows to train on."""
    file = _inputs() / "rows.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(len(demo_scenes())):
            row = {"image": f"images/{number}.png", "prompt": "What is it?", "completion": f"number {number}"}
            lines.write(json.dumps(row) + "\n")
    return file


@cache
def _base() -> Path:
    """The nano without adapters, from which a stage can start."""
    from modeling_lion import LionForConditionalGeneration
    from processing_lion import LionProcessor

    folder, nano = _inputs() / "base", checkpoints.path("nano")
    LionForConditionalGeneration.from_pretrained(nano, adapter_config={"adapters": []}).save_pretrained(folder)
    LionProcessor.from_pretrained(nano).save_pretrained(folder)
    return folder


_TRAINING = {
    "max_steps": 4,
    "save_steps": 1,
    "save_total_limit": 2,
    "per_device_train_batch_size": 2,
    "eval_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


def _train(output: Path) -> list[str]:
    recipe = {
        "model": str(_base()),
        "output_dir": str(output / "run"),
        "stages": {
            "stage1": {
                "training": _TRAINING,
                "data": [{"name": "rows", "path": "json", "data_files": str(_rows()), "image_folder": str(_inputs())}],
            }
        },
    }
    file = _inputs() / "recipe.yaml"
    file.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    # In the place where it stands, the recipe would hold the name of another folder for every run.
    return ["train", "stage1", "--config", str(file), "--output-dir", str(output / "run")]


def _finetune(output: Path) -> list[str]:
    options = [f"finetune.training.{name}={json.dumps(value)}" for name, value in _TRAINING.items()]
    arguments = ["finetune", "--data", str(_rows()), "--eval-data", str(_rows()), "--output", str(output / "tuned")]
    return [*arguments, *options]


@cache
def _adapter() -> Path:
    folder = _inputs() / "adapter"
    folder.mkdir()
    finish(_finetune(folder), folder / "log")
    return folder / "tuned"


def _merge(output: Path) -> list[str]:
    return ["merge", str(_adapter()), "--output", str(output / "merged")]


@cache
def _annotations() -> Path:
    """COCO's captions as their authors lay them out: few images, many sentences."""
    from tests.trainers.sources import original_files

    folder = _inputs() / "original"
    original_files.write_all(folder)
    file = folder / "coco" / "dataset_coco.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["images"] *= 60
    original_files.write_json(file, content)
    return folder


def _prepare(output: Path) -> list[str]:
    arguments = ["data", "prepare", "coco_captions", "--source", str(_annotations()), "--shard-rows", "50"]
    return [*arguments, "--output", str(output / "rows")]


@cache
def _official() -> list[str]:
    """Options that name files as the authors of LION released them, of tiny parts."""
    from tests.official_files import write_official

    folder = _inputs() / "official"
    folder.mkdir()
    files = write_official(folder)
    fields = ("checkpoint", "vision", "text_model", "qformer_tokenizer", "config")
    return [part for name in fields for part in (f"--{name.replace('_', '-')}", str(getattr(files, name)))]


def _convert(output: Path) -> list[str]:
    arguments = ["convert", "official", *_official(), "--dtype", "float32", "--max-shard-size", "500KB"]
    return [*arguments, "--output", str(output / "converted")]


@dataclass(frozen=True)
class Command:
    """
    A command to kill.

    Args:
        arguments (`Callable`): Makes its arguments, given the folder for its output.
        resume (`str`, *optional*): Option that makes it go on.
        compared (`tuple[str, ...]`): Patterns of the outputs that are compared with an uninterrupted run's.
        may_exist (`bool`): Whether it may be repeated where it has finished before.
    """

    arguments: Callable[[Path], list[str]]
    resume: str | None = None
    compared: tuple[str, ...] = ("*",)
    may_exist: bool = True


COMMANDS: dict[str, Command] = {
    "predict --draw": Command(_predict),
    "predict --output": Command(_predict_output),
    "tag --output": Command(_tag),
    "tag --output-dataset": Command(_tag_dataset, may_exist=False),
    "eval": Command(_evaluate),
    "demo": Command(_demo),
    # Of a training, what it is for; beside it lie states of its optimiser and times.
    "train": Command(_train, "--resume", ("adapter_model.safetensors", "adapter_config.json")),
    "finetune": Command(_finetune, "--resume", ("adapter_model.safetensors", "adapter_config.json")),
    "merge": Command(_merge, may_exist=False),
    "data prepare": Command(_prepare),
    "convert": Command(_convert, may_exist=False),
}


@cache
def _uninterrupted(name: str) -> tuple[float, dict[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        output, command = Path(folder), COMMANDS[name]
        seconds = finish(command.arguments(output), output / "log")
        (output / "log").unlink()
        return seconds, contents(output, command.compared)


def _case(name: str) -> Case:
    def run_one(draw: random.Random) -> str:
        seconds, expected = _uninterrupted(name)
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as logs:
            output, log = Path(folder), Path(logs, "log")
            command = COMMANDS[name]
            arguments = command.arguments(output)
            killed, again = 0, list(arguments)
            while not killed or draw.random() < 0.3:
                if not kill(again, log, draw.uniform(0, seconds)):
                    break
                killed += 1
                check_readable(output)
                again = arguments + ([command.resume] if command.resume else [])
                if not command.may_exist and contents(output, command.compared) == expected:
                    return "finished before"
            else:
                finish(again, log)
            found = contents(output, command.compared)
            assert found.keys() == expected.keys(), f"{sorted(found)} and not {sorted(expected)}"
            different = [file for file in found if found[file] != expected[file]]
            assert not different, f"{different} differ from an uninterrupted run's"
            return "killed more than once" if killed > 1 else "killed" if killed else "finished before"

    return run_one


CASES: dict[str, Case] = {name: _case(name) for name in COMMANDS}


def run(count: int = 200, seed: int = 0, first: int = 0) -> Report:
    """Kill `count` times, over all commands."""
    import trainers.tagging  # noqa: F401 (imported once, not in every fork)

    return run_cases("kill", CASES, count, seed, first)
