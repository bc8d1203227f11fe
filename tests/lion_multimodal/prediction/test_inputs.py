"""Whatever images and questions come from, the same rows are read in the same order."""

import base64
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import datasets
import pytest

from lion_multimodal.prediction import inputs
from lion_multimodal.prediction.inputs import DatasetRows, Inputs, Prompt, find_images, open_input, read_prompts
from processing_lion import load_image
from tests.lion_multimodal.prediction.conftest import make_image


def png(color: str = "red") -> bytes:
    content = io.BytesIO()
    make_image(color=color).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in ("b/2.PNG", "b/1.webp", "a.jpg", "c/x.tif", "c/y.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make_image().save(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", "c/z.pdf"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / ".cache").mkdir()
    make_image().save(tmp_path / ".cache" / "1.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(source) -> list[str]:
    return [row.image for row in source]


def test_a_folder_is_searched_in_order(folder):
    assert names(open_input(".")) == ["./a.jpg", "./b/1.webp", "./b/2.PNG", "./c/x.tif", "./c/y.gif"]
    assert names(open_input("b")) == names(open_input("b/")) == ["b/1.webp", "b/2.PNG"]


def test_linked_folders_are_followed_and_end_somewhere(folder):
    (folder / "b" / "up").symlink_to(folder)
    (folder / "d").symlink_to(folder / "c")
    (folder / "b" / "lost.png").symlink_to(folder / "nothing.png")
    found = [os.path.relpath(file, folder) for file in find_images(str(folder))]
    assert found == ["a.jpg", "b/1.webp", "b/2.PNG", "b/lost.png", "c/x.tif", "c/y.gif"]


def test_only_suffixes_that_are_decoded_count():
    assert {".png", ".jpg", ".jpeg", ".tif", ".webp", ".bmp", ".gif", ".ppm", ".tga"} <= inputs.image_suffixes()
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt"} & inputs.image_suffixes()


def test_a_pattern_stands_for_all_that_matches(folder):
    rows = [{"image": "a.jpg", "prompt": "What?"}, {"image": "b/1.webp"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert names(open_input("b/*")) == ["b/1.webp", "b/2.PNG"]
    assert names(open_input("**/*.tif")) == ["c/x.tif"]
    assert names(open_input("*.jsonl")) == ["a.jpg", "b/1.webp"]
    make_image().save("odd[1].png")
    assert names(open_input("odd[1].png")) == ["odd[1].png"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("empty", "the folder empty holds no image$"),
        ("tables", r"the folder tables holds no image; for its rows, give 'tables/\*\.csv'"),
        ("*.bmp", "no file matches"),
        ("missing.jsonl", "there is no file or folder missing.jsonl"),
        ("missing/", "there is no file or folder missing/"),
        ("no_image.csv", "no_image.csv: no image column among"),
        ("latin.csv", "latin.csv: not UTF-8"),
        ("broken.tar", "broken.tar: no tar file"),
        ("broken.parquet", "broken.parquet: cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_read_at_all_is_an_error_at_once(folder, argument, message):
    (folder / "empty").mkdir()
    (folder / "tables").mkdir()
    (folder / "tables" / "rows.csv").write_text("image\n")
    (folder / "no_image.csv").write_text("name,prompt\n")
    (folder / "latin.csv").write_bytes("image,prömpt\n".encode("latin-1"))
    for name in ("broken.tar", "broken.parquet"):
        (folder / name).write_bytes(b"?" * 600)
    with pytest.raises((ValueError, OSError), match=message):
        open_input(argument)


ROWS = [
    {"image": "a.jpg", "prompt": "What?", "tags": ["cat", "dog"], "level": "region_level", "id": "first"},
    {"image": "b/1.webp", "question": "What color is it?", "id": 7},
    {"image": "c/x.tif"},
    {"image": "", "prompt": "What?"},
]


def check_rows(source, names_of_ids=("first", 7, 2, 3)) -> None:
    rows = list(source)
    assert [row.id for row in rows] == list(names_of_ids)
    assert rows[0].question == Prompt("What?", ["cat", "dog"], "region_level")
    assert rows[1].question.prompt == "Question: What color is it? Short answer:"
    assert rows[2].question == Prompt()
    assert [row.error is None for row in rows] == [True, True, True, False]
    assert "has no image" in rows[3].error
    assert rows[3].image.endswith("#3")
    for row in rows[:3]:
        assert load_image(row.source).size == (8, 8)
    assert list(source) == rows


def test_json_lines(folder):
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(row).encode() for row in ROWS))
    check_rows(open_input("rows.jsonl"))


def test_a_line_that_is_no_object_costs_only_itself(folder):
    (folder / "rows.jsonl").write_text('{"image": "a.jpg"}\n{"image": \n[1]\n{"image": "a.jpg", "level": "high"}\n')
    rows = list(open_input("rows.jsonl"))
    assert [row.id for row in rows] == [0, 1, 2, 3]
    assert rows[0].error is None
    assert "is no JSON" in rows[1].error
    assert "is no JSON object" in rows[2].error
    assert "has the level 'high'" in rows[3].error


def test_a_list_in_json(folder):
    (folder / "rows.json").write_text(json.dumps(ROWS))
    check_rows(open_input("rows.json"))


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_tables(folder, suffix, delimiter):
    lines = [
        ["id", "file_name", "prompt", "question", "tags", "level"],
        ["first", "a.jpg", "What?", "", '"[""cat"", ""dog""]"', "region_level"],
        ["7", "b/1.webp", "", "What color is it?", "", ""],
        ["", "c/x.tif", "", "", "", ""],
        ["", "", "What?", "", "", ""],
    ]
    (folder / f"rows{suffix}").write_text("\n".join(delimiter.join(line) for line in lines))
    check_rows(open_input(f"rows{suffix}"), ("first", "7", 2, 3))


@pytest.mark.parametrize("embedded", [False, True])
def test_parquet_and_saved_datasets(folder, embedded):
    rows = {name: [row.get(name) for row in ROWS] for name in ("prompt", "question", "tags", "level")}
    images = [row["image"] for row in ROWS]
    if embedded:
        images = [{"bytes": png(), "path": name} if name else None for name in images]
    rows["image"] = images
    feature = datasets.Image(decode=False) if embedded else datasets.Value("string")
    dataset = datasets.Dataset.from_dict({**rows, "unused": [object.__name__] * 4}).cast_column("image", feature)
    dataset.to_parquet(folder / "rows.parquet")
    dataset.save_to_disk(folder / "saved")
    for source in (open_input("rows.parquet"), open_input("saved"), DatasetRows("saved", str(folder))):
        assert source.total == 4
        check_rows(source, (0, 1, 2, 3))


def test_a_dataset_is_streamed_undecoded(folder):
    """As one on the Hub is."""
    (folder / "images").mkdir()
    for split in ("train", "test"):
        images = [{"bytes": b"no image", "path": None}, {"bytes": png(), "path": f"{split}.png"}]
        columns = {"image": images, "question": ["Why?", "What?"]}
        dataset = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        dataset.to_parquet(folder / "images" / f"{split}-0.parquet")
    rows = list(DatasetRows("images:test"))
    assert [(row.id, row.image) for row in rows] == [(0, "images:test#0"), (1, "test.png")]
    assert rows[1].question.prompt == "Question: What? Short answer:"
    assert load_image(rows[1].source).size == (8, 8)
    with pytest.raises(ValueError, match="choose a split as NAME:SPLIT; there are"):
        DatasetRows("images")
    with pytest.raises(ValueError, match="can't be read as a dataset"):
        DatasetRows("images:validation")


def test_images_and_texts_in_a_shard(folder):
    def add(tar, name, content):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))

    for number in range(2):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            add(tar, f"x/{number}.jpg", png())
            add(tar, f"x/{number}.json", json.dumps({"prompt": "What?", "file_name": "old.jpg"}).encode())
            add(tar, f"y{number}.prompt.txt", b"Where?")
            add(tar, f"y{number}.level.txt", b"region_level")
            add(tar, f"y{number}.input.png", png())
            add(tar, f"z{number}.txt", b"a caption")
    rows = list(open_input("*.tar"))
    assert [row.id for row in rows] == ["x/0", "y0", "z0", "x/1", "y1", "z1"]
    assert [row.image for row in rows[:2]] == ["x/0.jpg", "y0.input.png"]
    assert [row.question for row in rows[:2]] == [Prompt("What?"), Prompt("Where?", None, "region_level")]
    assert load_image(rows[1].source).size == (8, 8)
    assert "has no image" in rows[2].error


def test_the_end_of_a_torn_shard_is_an_error(folder):
    with tarfile.open("1.tar", "w") as tar:
        for name in ("a.jpg", "b/1.webp"):
            tar.add(name)
    content = Path("1.tar").read_bytes()
    Path("1.tar").write_bytes(content[:1700])
    with pytest.raises((ValueError, OSError), match=r"1\.tar"):
        list(open_input("1.tar"))


def test_every_question_of_a_conversation_is_asked_about_one_image(folder):
    turns = [("human", "<image>\nWhat is it?"), ("gpt", "A cat."), ("human", "Where?")]
    llava = {"id": "x", "image": "a.jpg", "conversations": [{"from": who, "value": text} for who, text in turns]}
    messages = {
        "messages": [
            {"role": "user", "content": [{"type": "image", "path": "a.jpg"}, {"type": "text", "text": "Who?"}]}
        ]
    }
    (folder / "rows.jsonl").write_text(json.dumps(llava) + "\n" + json.dumps(messages) + "\n")
    requests = list(Inputs([open_input("rows.jsonl")]).requests())
    assert [(r.row.id, r.question.prompt) for r in requests] == [("x:0", "What is it?"), ("x:1", "Where?"), (1, "Who?")]
    assert len({request.key for request in requests}) == 1


def test_paths_are_relative_to_the_file_or_to_the_given_folder(folder):
    (folder / "c" / "rows.jsonl").write_text('{"image": "x.tif"}\n{"image": "http://host/1.png"}\n')
    assert [str(row.source) for row in open_input("c/rows.jsonl")] == ["c/x.tif", "http://host/1.png"]
    assert [str(row.source) for row in open_input("c/rows.jsonl", "b")][0] == "b/x.tif"


def test_an_image_in_base64_is_called_by_its_place(folder):
    content = io.BytesIO()
    make_image((64, 64)).effect_spread(30).save(content, "BMP")
    (folder / "rows.jsonl").write_text(json.dumps({"image": base64.b64encode(content.getvalue()).decode()}))
    (row,) = open_input("rows.jsonl")
    assert row.image == "rows.jsonl#0"
    assert load_image(row.source).size == (64, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_is_no_utf_8(folder):
    (folder / "b").joinpath("1.webp").rename(os.fsdecode(b"b/\xff.webp"))
    row = next(iter(open_input("b")))
    assert os.fsencode(row.image) == b"b/2.PNG"
    row = list(open_input("b"))[1]
    assert os.fsencode(row.image) == b"b/\xff.webp"
    assert load_image(row.source).size == (8, 8)


def test_questions_that_are_all_asked_of_every_image(folder):
    (folder / "prompts.txt").write_text("What?\n\n  Where?  \n", encoding="utf-8")
    (folder / "prompts.jsonl").write_text(
        '{"prompt": "What?", "id": "what", "tags": ["cat"]}\n{"prompt": "Where?", "level": "region_level"}\n'
    )
    assert read_prompts("prompts.txt") == [Prompt("What?", id=0), Prompt("Where?", id=1)]
    prompts = read_prompts("prompts.jsonl")
    assert prompts == [Prompt("What?", ["cat"], None, "what"), Prompt("Where?", None, "region_level", 1)]
    (folder / "rows.jsonl").write_text('{"image": "a.jpg", "prompt": "Who?", "tags": "dog", "id": "x"}\n')
    requests = list(Inputs([open_input("rows.jsonl")], Prompt("Why?", "bird", "image_level"), prompts).requests())
    assert [request.row.id for request in requests] == ["x#what", "x#1"]
    assert [(r.question.prompt, r.question.tags, r.question.level) for r in requests] == [
        ("What?", ["cat"], "image_level"),
        ("Where?", "dog", "region_level"),
    ]


def test_what_rows_leave_open_is_asked_as_the_command_says(folder):
    (folder / "rows.jsonl").write_text('{"image": "a.jpg", "prompt": "Who?"}\n{"image": "a.jpg", "tags": "dog"}\n')
    default = Prompt("Why?", "bird", "image_level")
    asked = [request.question for request in Inputs([open_input("rows.jsonl")], default).requests()]
    assert [(q.prompt, q.tags, q.level) for q in asked] == [
        ("Who?", "bird", "image_level"),
        ("Why?", "dog", "image_level"),
    ]
    asked = [request.question for request in Inputs([open_input("rows.jsonl")], default, no_tags=True).requests()]
    assert [question.tags for question in asked] == [False, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "\n \n", "holds no prompt"),
        ("p.jsonl", '{"text": "What?"}', "line 1: expected `prompt`"),
        ("p.jsonl", '{"prompt": "What?", "level": "high"}', "line 1 has the level 'high'"),
        ("p.jsonl", '{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}', "several prompts have the id"),
        ("p.jsonl", '{"prompt": "a"', "line 1 is no JSON"),
    ],
)
def test_a_file_of_prompts_that_is_none(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(name)


def test_what_changes_in_the_inputs_is_noticed(folder):
    (folder / "rows.jsonl").write_text('{"image": "a.jpg"}\n')
    (folder / "prompts.txt").write_text("What?")

    def described():
        return Inputs([open_input("b"), open_input("rows.jsonl")], None, read_prompts("prompts.txt")).describe()

    before = described()
    assert described() == before
    (folder / "rows.jsonl").write_text('{"image": "b.jpg"}\n')
    assert described() != before
    (folder / "rows.jsonl").write_text('{"image": "a.jpg"}\n')
    assert described() == before
    make_image().save(folder / "b" / "3.png")
    assert described() != before
    (folder / "b" / "3.png").unlink()
    (folder / "prompts.txt").write_text("Where?")
    assert described() != before
