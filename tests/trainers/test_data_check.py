import json

import PIL.Image
import pytest

from lion_multimodal.cli.main import main
from tests.trainers.conftest import make_image


@pytest.fixture
def rows(tmp_path):
    for index in range(3):
        make_image(index).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    rows = [
        {"image": "0.png", "prompt": "what is this?", "completion": "a cat"},
        {"image": "0.png", "prompt": "what is this?", "completion": "a cat"},
        {"image": "0.png", "prompt": "what is this?", "completion": "a dog"},
        {"image": "1.png", "prompt": "where is the cat?", "completion": "[0.1,0.2,1.3,0.4]", "tags": "cat"},
        {"image": "2.png", "prompt": "why? " * 200, "completion": "so"},
        {"image": "9.png", "prompt": "what is this?", "completion": "a cat"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_in_a_file_is_told_and_drawn(rows, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(rows), "--sheet", str(sheet)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == ("read as prompt and completion: 5 rows, 1 left out: 1 × its image file does not exist")
    assert printed[1] == "levels: 4 image_level, 1 region_level"
    text = "\n".join(printed)
    assert "prompts that are too long and lose their head: 1" in text
    assert "rows with boxes: 1; wrong: 1 × box … reaches outside" in text
    assert "duplicates: 1 of 5; same image and prompt, other answer: 1" in text
    assert "images that can't be opened: 1: " in text
    assert "rows with tags: 1" in text
    with PIL.Image.open(sheet) as image:
        assert image.width == 4 * 300 + 12


def test_good_rows_end_well_and_bad_options_in_a_line(tmp_path, capsys):
    make_image(0).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a cat")
    assert main(["data", "check", str(tmp_path), "--sheet", str(tmp_path / "sheets" / "sheet.png")]) == 0
    assert "captions in text files beside the images: 1 rows" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path), "--sheet", "sheet.txt"]) == 1
    assert "--sheet must be a .png file" in capsys.readouterr().err
    assert main(["data", "check", "nowhere.json"]) == 1
    assert "nowhere.json" in capsys.readouterr().err
