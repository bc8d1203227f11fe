"""`lion tag` by several processes ahead of training: `accelerate launch -m lion_multimodal.cli.main tag ...`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from configuration_lion import RamConfig
from lion_multimodal.cli.main import main
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionImageProcessor
from tests.trainers.conftest import make_image


ROOT = Path(__file__).parents[2]
NUM_IMAGES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(NUM_IMAGES):
        make_image(i % 50).save(folder / f"{i:03d}.png")
    (folder / "broken.jpg").write_bytes(b"?")
    return folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    """A tagger whose tags differ from image to image."""
    sizes = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
    tags = {"num_tags": 3, "tags": ["cat", "dog", "cup"], "tags_zh": ["猫", "狗", "杯"], "thresholds": 0.5}
    sizes_of_head = {"hidden_size": 16, "intermediate_size": 24, "projection_dim": 12}
    config = RamConfig.from_preset("nano", vision_config=sizes, **sizes_of_head, **tags)
    torch.manual_seed(0)
    model = RamForImageTagging(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        inputs = LionImageProcessor.for_tagging(32)([make_image(i) for i in range(50)], return_tensors="pt")
        probabilities = model(**inputs).logits.sigmoid().sort(dim=0).values
        # In the largest gap near the middle, so that no image hangs on a rounding error.
        gaps = (probabilities[11:40] - probabilities[10:39]).argmax(dim=0) + 10
        columns = torch.arange(3)
        thresholds = (probabilities[gaps, columns] + probabilities[gaps + 1, columns]) / 2
        model.config.thresholds = thresholds.tolist()
    directory = tmp_path_factory.mktemp("tagger")
    model.save_pretrained(directory)
    LionImageProcessor.for_tagging(32).save_pretrained(directory)
    return directory


def arguments(folder: Path, tagger: Path, output: Path) -> list[str]:
    return ["tag", str(folder), "--model", str(tagger), "--output", str(output), "--batch-size", "1"]


def launch(folder: Path, tagger: Path, output: Path) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--main_process_port", "0"]  # any free one, since several suites may run side by side
    command = [
        *launcher,
        "--mixed_precision",
        "no",
        "-m",
        "lion_multimodal.cli.main",
        *arguments(folder, tagger, output),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # Processes on processors are launched as those on GPUs are, where no GPU is to be seen.
    environment["CUDA_VISIBLE_DEVICES"] = ""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)


def lines_in(directory: Path) -> list[bytes]:
    return [line for path in directory.glob("tags.jsonl*") for line in path.read_bytes().splitlines()]


def test_two_processes_killed_and_repeated_give_the_file_of_one(folder, tagger, tmp_path, capsys):
    assert main(arguments(folder, tagger, tmp_path / "alone.jsonl")) == 0
    assert f"{NUM_IMAGES} tagged, 0 already there, 1 unreadable" in capsys.readouterr().out
    expected = (tmp_path / "alone.jsonl").read_bytes()
    assert len({line.split(b'"tags"')[1] for line in expected.splitlines()}) > 2

    (tmp_path / "two").mkdir()
    output = tmp_path / "two" / "tags.jsonl"
    killed = launch(folder, tagger, output)
    while killed.poll() is None and not lines_in(output.parent):
        time.sleep(0.005)
    launcher = psutil.Process(killed.pid)
    for process in (*launcher.children(recursive=True), launcher):
        process.kill()
    killed.communicate()
    done = len(lines_in(output.parent))
    assert 0 < done < NUM_IMAGES

    again = launch(folder, tagger, output)
    report = again.communicate(timeout=600)[0]
    assert again.returncode == 0, report[-4000:]
    assert output.read_bytes() == expected
    assert [path.name for path in output.parent.iterdir()] == ["tags.jsonl"]
    # The main process says what all did. A line that was being written when the run was killed does not count.
    (line,) = [line for line in report.splitlines() if "already there" in line]
    assert done - 2 <= int(line.split(" tagged, ")[1].split(" already")[0]) <= done
