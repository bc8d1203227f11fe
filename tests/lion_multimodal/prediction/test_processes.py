"""`accelerate launch -m lion_multimodal.cli.main predict ...`: two processes give the file of one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.lion_multimodal.prediction.conftest import FEW


ROOT = Path(__file__).parents[3]
ARGUMENTS = ["photos", "photos", "photos", "--no-tags", "--batch-size", "2"]


def launch(output: str) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--main_process_port", "0", "--mixed_precision", "no", "-m", "lion_multimodal.cli.main", "predict"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # Processes on processors are launched as those on GPUs are, where no GPU is to be seen.
    environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [*launcher, *ARGUMENTS, *FEW, "--output", output]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_killed_and_repeated_give_the_file_of_one(photos, predict):
    assert predict(*ARGUMENTS, "--output", "alone.jsonl")[0] == 1
    killed = launch("two.jsonl")
    journal = Path("two.jsonl.journal")
    while killed.poll() is None and len(list(journal.glob("part-*"))) < 2:
        time.sleep(0.01)
    launcher = psutil.Process(killed.pid)
    for process in (*launcher.children(recursive=True), launcher):
        process.kill()
    assert killed.communicate()[0] is not None
    assert not Path("two.jsonl").exists()

    again = launch("two.jsonl")
    report = again.communicate(timeout=600)[0]
    assert "two.jsonl is complete: 30 answers" in report, report[-4000:]
    assert "3 of 33 images could not be read" in report
    for end in (".jsonl", ".errors.jsonl", ".jsonl.run.json"):
        assert Path(f"two{end}").read_bytes() == Path(f"alone{end}").read_bytes()
    assert not journal.exists()


def test_several_processes_need_an_output(photos, predict, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    status, _, err = predict(*ARGUMENTS)
    assert status == 1
    assert "2 processes need --output" in err
