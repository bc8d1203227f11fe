"""Where models run where nobody says so: PyTorch from PyPI is built for CUDA, whether or not there is a GPU."""

import json
from pathlib import Path

import pytest
import torch

from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from lion_multimodal.evaluation import runner
from lion_multimodal.evaluation.answering import Answerer
from modeling_lion.device_lion import default_device
from trainers import tagging
from trainers.tagging import Tagger


SCENE = Path(__file__).parents[2] / "docs" / "images" / "scene.png"


def accelerator(monkeypatch, available: bool) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(
        torch.accelerator,
        "current_accelerator",
        lambda check_available=False: device if available or not check_available else None,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)


@pytest.fixture
def cuda_without_gpu(monkeypatch):
    """What a build for CUDA says on a machine without a driver."""
    accelerator(monkeypatch, available=False)
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert not torch.accelerator.is_available()


def test_an_accelerator_is_taken_where_there_is_one(monkeypatch):
    accelerator(monkeypatch, available=True)
    assert default_device() == torch.device("cuda")


def test_no_accelerator_is_taken_that_cannot_be_used(cuda_without_gpu):
    assert default_device() == torch.device("cpu")


def test_no_accelerator_is_taken_from_a_build_for_cpus(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert default_device() == torch.device("cpu")


def test_commands_run_without_a_gpu(cuda_without_gpu, capsys, tmp_path):
    assert main(["demo", "--scene", "0", "--output", str(tmp_path / "demo.png")]) == 0
    assert main(["predict", str(SCENE), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["generated_text"]


def test_evaluation_and_tagging_run_without_a_gpu(cuda_without_gpu):
    answerer = Answerer.from_pretrained(checkpoints.path("nano"))
    assert answerer.model.device.type == answerer.tagger.model.device.type == "cpu"
    assert runner.process_state().device.type == "cpu"
    assert Tagger.from_pretrained(checkpoints.path("nano")).model.device.type == "cpu"
    assert tagging._process_state().device.type == "cpu"
