"""`lion predict` with many images: names of drawings, images that cannot be read, arguments."""

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lion_multimodal import asking
from lion_multimodal.cli.main import main
from lion_multimodal.cli.predict import drawing_files


SCENE = Path(__file__).parents[3] / "docs" / "images" / "scene.png"
FEW = ["--no-tags", "--num-beams", "1", "--max-new-tokens", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def loaded():
    return asking.load_pipeline(device="cpu")


@pytest.fixture(autouse=True)
def loaded_once(loaded, monkeypatch):
    monkeypatch.setattr(asking, "load_pipeline", lambda *args, **kwargs: loaded)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """`a/1.png`, `b/1.png` and a file that is no image."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copyfile(SCENE, tmp_path / name / "1.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_drawings_of_equal_names_lie_in_folders_as_the_images(folder, capsys):
    assert main(["predict", "a/1.png", "b/1.png", "--draw", "out", "--json", *FEW]) == 0
    drawn = [json.loads(line)["drawing"] for line in capsys.readouterr().out.splitlines()]
    assert drawn == [str(Path("out/a/1.png")), str(Path("out/b/1.png"))]
    assert all(Path(file).is_file() for file in drawn)


def test_drawings_of_other_sources_have_names_of_their_own():
    images = ["data:image/png;base64,AAAA", "x/1.png", "data:image/png;base64,BBBB", "https://host/p/1.jpg?x=1"]
    files = drawing_files([*images, "x/1.png"], Path("out"))
    assert files == [Path("out", name) for name in ("image_1.png", "1.png", "image_3.png", "1_2.png", "1_3.png")]


@pytest.mark.parametrize("image", ["a/1.png", "./a/../a/1.png"])
def test_an_image_is_never_drawn_over(folder, capsys, image):
    before = Path("a/1.png").read_bytes()
    for _ in range(2):
        assert main(["predict", image, "--draw", "a", *FEW]) == 0
    assert Path("a/1.png").read_bytes() == before
    assert sorted(file.name for file in Path("a").iterdir()) == ["1.png", "1_2.png"]


def test_an_image_that_was_not_asked_about_is_never_drawn_over(folder, capsys):
    before = Path("b/1.png").read_bytes()
    assert main(["predict", "a/1.png", "--draw", "b", *FEW]) == 0
    assert Path("b/1.png").read_bytes() == before
    with Image.open("b/1_2.png") as drawing:
        assert drawing.size == (96, 96)


@pytest.mark.parametrize("batch_size", ["1", "2"])
def test_an_image_that_cannot_be_read_costs_no_answers(folder, capsys, batch_size):
    status = main(["predict", "a/1.png", "bad.png", "missing.png", "b/1.png", "--batch-size", batch_size, *FEW])
    printed = capsys.readouterr()
    assert status == 1
    assert [line.partition(":")[0] for line in printed.out.splitlines()] == ["a/1.png", "b/1.png"]
    errors = [line for line in printed.err.splitlines() if line.startswith("lion:")]
    assert "bad.png" in errors[0]
    assert "missing.png" in errors[1]
    assert errors[2].startswith("lion: error: 2 of 4 images could not be read")


def test_answers_are_printed_as_they_come(folder, monkeypatch, capsys, loaded):
    from modeling_lion import LionImageToTextPipeline

    printed, call = [], LionImageToTextPipeline.__call__

    def spy(self, *args, **kwargs):
        printed.append(capsys.readouterr().out.count("\n"))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(LionImageToTextPipeline, "__call__", spy)
    assert main(["predict", "a/1.png", "b/1.png", *FEW]) == 0
    assert printed == [0, 1]


def test_a_full_disk_leaves_no_empty_drawing(folder, monkeypatch, capsys):
    def save(self, file, *args, **kwargs):
        Path(file).write_bytes(b"")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    assert main(["predict", "a/1.png", "--draw", "out", *FEW]) == 1
    assert "No space left" in capsys.readouterr().err
    assert list(Path("out").rglob("*.png")) == []


def test_a_long_address_is_shortened(folder, capsys):
    import base64

    buffer = io.BytesIO()
    Image.open(SCENE).save(buffer, "PNG")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert main(["predict", address, "a/1.png", *FEW]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 300


@pytest.mark.parametrize(
    ("option", "value"),
    [("--num-beams", "0"), ("--max-new-tokens", "-3"), ("--batch-size", "x"), ("--num-beams", "1.5")],
)
def test_numbers_that_are_none_are_usage_errors(folder, capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "a/1.png", option, value])
    assert stopped.value.code == 2
    assert f"argument {option}: must be an integer of at least 1, got '{value}'" in capsys.readouterr().err
