"""Images of every kind, and a nano that is loaded once."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from lion_multimodal import asking, checkpoints
from lion_multimodal.cli.main import main


SCENES = Path(checkpoints.__file__).parent / "demo_scenes"
FEW = ["--num-beams", "1", "--max-new-tokens", "4", "--device", "cpu", "--workers", "1"]


@pytest.fixture(scope="session")
def loaded():
    return asking.load_pipeline(device="cpu")


@pytest.fixture
def loaded_once(loaded, monkeypatch):
    """The command loads nothing; and one thread, so that a process can be copied while it runs."""
    monkeypatch.setattr(asking, "load_pipeline", lambda *args, **kwargs: loaded)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def predict(loaded_once, capsys):
    """Runs the command: exit status, output, errors."""

    def run(*arguments) -> tuple[int, str, str]:
        status = main(["predict", *map(str, arguments), *FEW])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Ten scenes in two folders, with one name twice, and a file that is no image."""
    folder = tmp_path / "photos"
    for number in range(10):
        target = folder / ("a" if number < 5 else "b") / f"{number % 6}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SCENES / f"scene_{number}.png", target)
    (folder / "a" / "broken.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return folder


def make_image(size: tuple[int, int] = (8, 8), color: str = "red") -> Image.Image:
    return Image.new("RGB", size, color)
