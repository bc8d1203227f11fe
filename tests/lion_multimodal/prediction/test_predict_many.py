"""`lion predict` on many images: killed at any time, with images of every kind, and by questions of both levels."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from lion_multimodal.cli.main import main
from lion_multimodal.engine import LionEngine
from lion_multimodal.prediction import outputs
from lion_multimodal.prediction.outputs import Output
from tests.lion_multimodal.prediction.conftest import FEW, SCENES


BATCH = ["--batch-size", "4"]
PROMPTS = ["Question: how many objects are there? Short answer:", "Where is the sun?", "Describe the image."]


@pytest.fixture
def prompts(photos) -> Path:
    file = photos.parent / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return file


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {file.relative_to(path.parent).as_posix()[len(path.stem) :]: file.read_bytes() for file in files}


def killed_after(steps: int, arguments: list[str], monkeypatch) -> None:
    """A copy of this process runs the command, and is killed while it writes, in the middle of what it writes."""
    process = os.fork()
    if process == 0:
        count = 0

        def die_while(write):
            def dying(path, *args):
                nonlocal count
                count += 1
                if count > steps:
                    if Path(path).suffix == ".jsonl" and args:
                        lines = b"".join(map(outputs.encode_line, args[0]))
                        with open(path, "ab") as file:
                            file.write(lines[: len(lines) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return write(path, *args)

            return dying

        outputs.append_lines = die_while(outputs.append_lines)
        outputs.atomic_file = die_while(outputs.atomic_file)
        outputs.atomic_directory = lambda path, replace: die_while(lambda p: None)(path)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        main(["predict", *arguments, *FEW])
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied")
@pytest.mark.parametrize("name", ["answers.jsonl", "answers.parquet", "answers"])
def test_killed_at_several_points_the_output_is_that_of_an_uninterrupted_run(
    photos, prompts, predict, monkeypatch, name
):
    sampling = ["--temperature", "1.5", "--seed", "3"] if name == "answers.jsonl" else []
    arguments = ["photos", "--prompts-file", str(prompts), "--no-tags", *BATCH, *sampling]
    status, out, err = predict(*arguments, "--output", f"whole{Path(name).suffix}")
    assert status == 1
    assert "30 answers" in out
    assert "1 of 11 images could not be read; the first: photos/a/broken.jpg" in err

    # Nine batches, then the errors, then the output; and what was written before it is killed is not written again.
    for steps in (0, 2, 5, 1, 1, 1) if name == "answers.jsonl" else (9, 1):
        killed_after(steps, [*arguments, "--output", name], monkeypatch)
        assert not Path(name).exists()
    asked = []
    answer = LionEngine.answer
    monkeypatch.setattr(LionEngine, "answer", lambda self, *a, **k: asked.append(a) or answer(self, *a, **k))
    status, out, err = predict(*arguments, "--output", name)
    assert (status, asked) == (1, [])  # all that was answered before it was killed is kept
    assert "1 of 11 images could not be read" in err
    assert contents(Path(name)) == contents(Path(f"whole{Path(name).suffix}"))
    assert Path("answers.errors.jsonl").read_bytes() == Path("whole.errors.jsonl").read_bytes()
    assert not Path(f"{name}.journal").exists()

    status, out, err = predict(*arguments, "--output", name)
    assert (status, asked) == (1, [])
    assert "was complete: 30 answers" in out
    status, out, err = predict("photos/b", *arguments[1:], "--output", name)
    assert status == 1
    assert "another command: inputs differ; --overwrite starts anew" in err


def test_an_image_is_encoded_once_whatever_is_asked_of_it(photos, prompts, predict, monkeypatch):
    encoded, answered = [], []
    encode, answer = LionEngine.encode, LionEngine.answer
    monkeypatch.setattr(LionEngine, "encode", lambda self, i: encoded.append(len(i)) or encode(self, i))
    monkeypatch.setattr(LionEngine, "answer", lambda self, i, q, **k: answered.append(q) or answer(self, i, q, **k))
    arguments = ["photos/b", "photos/b/0.png", "--prompts-file", prompts, "--no-tags", "--batch-size", "16"]
    assert predict(*arguments, "--output", "out.jsonl")[0] == 0
    assert encoded == [5]
    assert [len(questions) for questions in answered] == [16, 2]
    assert len({question.prompt for question in answered[0]}) == 3
    records = read(Path("out.jsonl"))
    assert [record["prompt"] for record in records] == PROMPTS * 6
    assert [record["level"] for record in records[:3]] == ["image_level", "region_level", "image_level"]
    assert records[0]["id"] == "photos/b/0.png#0"
    same = [record for record in records if record["image"] == "photos/b/0.png"]
    assert same[:3] == same[3:]


def test_answers_are_those_of_the_pipeline(photos, predict, loaded):
    rows = [
        {"image": "photos/a/0.png", "prompt": PROMPTS[1], "id": "x"},
        {"image": "photos/b/0.png", "prompt": PROMPTS[1], "tags": ["sun", "cup"], "level": "image_level"},
        {"image": "photos/a/1.png", "prompt": PROMPTS[2], "tags": "sun"},
        {"image": "photos/a/2.png"},
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert predict("rows.jsonl", "--output", "out.jsonl")[0] == 0
    records = read(Path("out.jsonl"))
    assert [record["id"] for record in records] == ["x", 1, 2, 3]
    for row, record in zip(rows, records):
        options = {name: row[name] for name in ("prompt", "tags", "level") if name in row}
        (expected,) = loaded(row["image"], num_beams=1, max_new_tokens=4, **options)
        assert record["generated_text"] == expected["generated_text"]
        assert record["boxes"] == expected.get("boxes", [])
    assert records[1]["tags"] == "sun, cup"
    assert records[1]["level"] == "image_level"
    assert records[3]["tags"] == ", ".join(loaded.tagger(rows[3]["image"])[0])


def test_images_of_every_kind(photos, predict, loaded):
    scene = Image.open(SCENES / "scene_0.png").convert("RGB").resize((96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "rgba.png": scene.convert("RGBA"),
        "grey16.png": scene.convert("I").point(lambda value: value * 257).convert("I;16"),
        "turned.jpg": scene,
        "palette.gif": scene.convert("P"),
        "cmyk.jpg": scene.convert("CMYK"),
        "tiny.bmp": scene.resize((1, 1)),
    }
    Path("kinds").mkdir()
    for name, image in kinds.items():
        image.save(Path("kinds") / name, **({"exif": exif} if name == "turned.jpg" else {}))
    question = "In the image <image>, can you locate the red umbrella and let me know its coordinates?"
    arguments = ["kinds", "--prompt", question, "--no-tags", "--max-new-tokens", "30", "--num-beams", "1"]
    assert main(["predict", *arguments, "--device", "cpu", "--output", "out.jsonl", "--draw", "drawn"]) == 0
    records = {Path(record["image"]).name: record for record in read(Path("out.jsonl"))}
    assert sorted(records) == sorted(kinds)
    for name, record in records.items():
        (alone,) = loaded(f"kinds/{name}", prompt=question, tags=False, num_beams=1, max_new_tokens=30)
        assert record["boxes"] == alone.get("boxes", [])
        size = (64, 96) if name == "turned.jpg" else kinds[name].size
        assert all(
            0 <= x <= size[0] and 0 <= y <= size[1] for x, y in (b[i : i + 2] for b in record["boxes"] for i in (0, 2))
        )
        with Image.open(record["drawing"]) as drawing:
            assert drawing.size == size


def test_what_cannot_be_asked_costs_only_itself(photos, predict):
    rows = [
        {"image": "photos/a/0.png", "prompt": "Where is the sun?"},
        {"prompt": "Where?"},
        {"image": "photos/a/missing.png"},
        {"image": "photos/a/1.png", "prompt": "a lone \udc80 surrogate"},
        {"image": "photos/a/1.png", "level": "high"},
        {"image": "photos/a/1.png", "prompt": "Where is the sun?"},
        {"image": "photos/a/missing.png", "prompt": "again"},
    ]
    lines = [json.dumps(row) for row in rows]
    Path("rows.jsonl").write_text("\n".join([*lines, "{torn"]))
    status, out, err = predict("rows.jsonl", "--output", "out.jsonl", *BATCH)
    assert status == 1
    assert [record["id"] for record in read(Path("out.jsonl"))] == [0, 5]
    errors = {record["id"]: record for record in read(Path("out.errors.jsonl"))}
    assert sorted(errors) == [1, 2, 3, 4, 6, 7]
    assert [errors[number]["kind"] for number in (1, 2, 3, 4, 6, 7)] == ["row", "image", "row", "row", "image", "row"]
    assert "rows.jsonl#1: has no image" in err
    assert "1 of 3 images could not be read; the first: photos/a/missing.png" in err
    assert "4 questions could not be asked; the first: rows.jsonl#1" in err
    # Printed, it is the same.
    status, out, err = predict("rows.jsonl", "--json", *BATCH)
    assert [json.loads(line) for line in out.splitlines()] == read(Path("out.jsonl"))
    assert "1 of 3 images could not be read" in err


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_names_that_are_no_utf_8(photos, predict):
    Path("photos/b").joinpath("1.png").rename(os.fsdecode(b"photos/b/\xff.png"))
    status, out, _ = predict("photos/b", "--no-tags")
    assert status == 0
    assert "photos/b/\\udcff.png: " in out
    for name in ("out.jsonl", "out.parquet"):
        assert predict("photos/b", "--no-tags", "--output", name)[0] == 0
    assert os.fsencode(read(Path("out.jsonl"))[-1]["image"]) == b"photos/b/\xff.png"


def test_several_answers_about_an_image_are_drawn_beside_one_another(photos, prompts, predict):
    arguments = ["photos/a/0.png", "photos/b/0.png", "--prompts-file", str(prompts), "--no-tags", "--draw", "drawn"]
    assert predict(*arguments, "--output", "out.jsonl")[0] == 0
    drawn = [record["drawing"] for record in read(Path("out.jsonl"))]
    assert drawn == [f"drawn/{folder}/0{number}.png" for folder in "ab" for number in ("", "_2", "_3")]
    assert all(Path(file).is_file() for file in drawn)
    shutil.rmtree("drawn")
    assert predict(*arguments, "--output", "out.jsonl", "--overwrite")[0] == 0
    assert [record["drawing"] for record in read(Path("out.jsonl"))] == drawn
    assert all(Path(file).is_file() for file in drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give images, or --dataset"),
        (["photos", "--overwrite"], "--overwrite needs --output"),
        (["photos", "--seed", "1"], "--seed needs --temperature"),
        (["photos", "--ray-workers", "1"], "--ray-workers needs --ray"),
        (["photos", "--image-folder", "nowhere"], "--image-folder must be a folder"),
        (["rows.jsonl", "--output", "rows.jsonl", "--overwrite"], "is what is read"),
        (["rows.tar", "--draw", "out"], "holds its images itself"),
        (["photos", "--output", "out.txt"], "--output must end in"),
        (["photos", "--dataset", "no/such"], "can't be read as a dataset"),
        (["hub:no/such:train"], "can't be read as a dataset"),
        (["photos", "--prompts-file", "missing.txt"], "missing.txt"),
    ],
)
def test_what_cannot_work_is_an_error_before_anything_is_loaded(photos, monkeypatch, capsys, arguments, message):
    import tarfile

    Path("rows.jsonl").write_text('{"image": "photos/a/0.png"}\n')
    tarfile.open("rows.tar", "w").close()
    assert main(["predict", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("lion: error: ")
    assert message in line
    assert Path("rows.jsonl").read_text() == '{"image": "photos/a/0.png"}\n'


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--temperature", "0", "a positive number"),
        ("--top-p", "1.2", "a number above 0, up to 1"),
        ("--seed", "-1", "0"),
    ],
)
def test_numbers_that_are_none(photos, capsys, option, value, expected):
    with pytest.raises(SystemExit):
        main(["predict", "photos", option, value])
    assert expected in capsys.readouterr().err


def test_what_needs_no_extra_runs_without_any(photos, prompts, predict, monkeypatch):
    """Files, folders, JSON Lines and CSV; for the others, the extra is named."""
    Path("rows.jsonl").write_text('{"image": "photos/a/0.png"}\n')
    Path("rows.csv").write_text("image,prompt\nphotos/a/0.png,Where is the sun?\n")
    Path("rows.parquet").write_bytes(b"PAR1")
    for name in ("accelerate", "datasets", "pyarrow", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("modeling_lion.extras_lion._is_installed", lambda name: sys.modules.get(name, 1) is not None)
    for source in ("photos/b", "rows.jsonl", "rows.csv"):
        assert predict(source, "--no-tags", "--output", f"out_{Path(source).name}.jsonl")[0] == 0
    for arguments in (
        ["rows.parquet"],
        ["hub:a/b"],
        ["photos/b", "--output", "o.parquet"],
        ["photos/b", "--output", "o"],
    ):
        status, _, err = predict(*arguments)
        assert status == 1
        assert 'pip install "lion-multimodal[evaluation]"' in err
    status, _, err = predict("photos/b", "--ray", "local")
    assert 'pip install "lion-multimodal[ray]"' in err


def test_progress_tells_images_per_second(photos, predict, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    _, _, err = predict("photos/b", "--no-tags", "--output", "out.jsonl", *BATCH)
    assert "5/5" in err
    assert "image/s" in err or "s/image" in err


def test_memory_does_not_grow_with_what_is_read_ahead(photos, loaded):
    """However slowly answers are taken, few images are ready."""
    from lion_multimodal.prediction.inputs import Inputs, open_input
    from lion_multimodal.prediction.runner import Options, Predictor, group_requests

    Path("rows.jsonl").write_text('{"image": "photos/a/0.png", "tags": "sun"}\n' * 300)
    read_ahead = []

    def groups():
        for group in group_requests(Inputs([open_input("rows.jsonl")]).requests(), 1):
            read_ahead.append(group.number)
            yield group

    batches = Predictor(LionEngine(loaded), Options(1, {"max_new_tokens": 1})).run(groups())
    for _ in range(3):
        next(batches)
    assert len(read_ahead) <= 6
    batches.close()
    assert isinstance(Output("a.jsonl", {}).done(), dict)
