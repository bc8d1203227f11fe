"""The `lion` command, with the checkpoint that ships."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lion_multimodal.cli.main import SUBCOMMANDS, main


SCENE = Path(__file__).parents[3] / "docs" / "images" / "scene.png"


@pytest.mark.parametrize("arguments", [[], *([module.__name__.rpartition(".")[2]] for module in SUBCOMMANDS)])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    assert "usage: lion" in capsys.readouterr().out


def test_demo_of_a_held_out_scene(capsys, tmp_path):
    drawing = tmp_path / "out" / "demo.png"
    assert main(["demo", "--scene", "2", "--output", str(drawing)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("answered") == printed.count("(true:") == 3
    assert f"drawn     {drawing}" in printed
    with Image.open(drawing) as image, Image.open(drawing.with_name("demo_picture.png")) as scene:
        assert image.size == (480, 480)
        assert image.convert("RGB").resize(scene.size).tobytes() != scene.convert("RGB").tobytes()


def test_demo_shows_the_first_held_out_scenes(capsys, tmp_path):
    assert main(["demo", "--output", str(tmp_path / "demo.png")]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("image")] == [
        f"image   held-out scene {number}" for number in range(10)
    ]
    asked, right = printed.count("asked "), int(printed.split("right     ")[1].split()[0])
    assert asked == 30
    assert right <= asked - _differing_answers(printed)
    assert right > 20
    with Image.open(tmp_path / "demo.png") as sheet:
        shown = {color for _, color in sheet.convert("RGB").getcolors(1 << 24)}
    assert (0x1A, 0x7F, 0x37) in shown  # the ink of right answers


def _differing_answers(printed):
    answers = [line.removeprefix("answered  ") for line in printed.splitlines() if line.startswith("answered")]
    pairs = [answer.removesuffix(")").split("   (true: ") for answer in answers]
    return sum(said != true for said, true in pairs if "[" not in true)


def test_demo_of_a_file(capsys, tmp_path):
    assert main(["demo", str(SCENE), "--output", str(tmp_path / "demo.png")]) == 0
    printed = capsys.readouterr().out
    assert "umbrella" in printed.splitlines()[1]  # the tags
    assert "(true:" not in printed


def test_predict(capsys, tmp_path):
    prompt = "In the image <image>, can you locate the blue umbrella and let me know its coordinates?"
    assert main(["predict", str(SCENE), "--prompt", prompt, "--json", "--draw", str(tmp_path)]) == 0
    record = json.loads(capsys.readouterr().out)
    (box,) = record["boxes"]
    assert 0 <= box[0] < box[2] <= 96
    assert Path(record["drawing"]).is_file()


def test_predict_names_the_image_where_there_are_several(capsys):
    question = "Question: What color is the flower? Short answer:"
    assert main(["predict", str(SCENE), str(SCENE), "--prompt", question, "--no-tags", "--batch-size", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{SCENE}: red"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nothing.png"], "nothing.png"),
        (["predict", str(SCENE), "--tags", "cup", "--no-tags"], "--tags and --no-tags"),
        (["demo", "--scene", "-1"], "--scene"),
        (["demo", "--model", "no/such/checkpoint"], "no/such/checkpoint"),
        (["tag", "no-such-folder", "--output", "tags.jsonl"], "no-such-folder"),
        (["train", "all", "--config", "no-such-recipe"], "no-such-recipe"),
    ],
)
def test_an_error_is_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("lion: error: ")
    assert message in line


def test_an_unknown_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sing"])
    assert stopped.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
