"""Rows to examples: from local folders, and from a Hub on this machine."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from PIL import Image

from laboratory.world.scene import IMAGE_SIZE
from lion_multimodal.evaluation import rows as rows_module
from lion_multimodal.evaluation.benchmark import Example, HubDataset
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.benchmarks.row import Row, cell_size
from lion_multimodal.evaluation.rows import DataUnavailableError, load_image, read_examples
from tests.lion_multimodal.evaluation.dataset_hub import SHA, DatasetHub
from tests.lion_multimodal.evaluation.small import benchmark
from trainers.record import fraction_box


ROOT = Path(__file__).parents[3]


def read_row(row: Row) -> Iterator[Example]:
    name = row.text("name")
    yield Example(name, row.image("image"), name, row.text("question"), {"references": row.text("answer")})


SMALL = benchmark(
    "small", sources=(HubDataset("nowhere/small", "test", ("name", "image", "question", "answer"), read_row),)
)
ROW = {"name": "a", "image": "a.png", "question": "What?", "answer": "cat"}


def png(size=(40, 30), color="red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size, color).save(written, format="PNG")
    return written.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Makes the folder of the small benchmark, with an image."""

    def make(rows, name="rows.jsonl"):
        directory = tmp_path / "small"
        (directory / "images").mkdir(parents=True, exist_ok=True)
        (directory / "images" / "a.png").write_bytes(png())
        text = "\n".join(json.dumps(row) for row in rows) if isinstance(rows, list) else rows
        (directory / name).write_text(text)
        return tmp_path

    return make


def test_rows_of_a_folder(folder, caplog):
    rows = [ROW, {**ROW, "name": "b", "answer": None}, ROW, {**ROW, "name": "c", "image": "no.png"}]
    examples = read_examples(SMALL, folder([*rows, {**ROW, "name": "d", "tags": ["cat", "red"]}]))
    assert [(example.id, example.tags) for example in examples] == [("a", None), ("d", "cat, red")]
    assert [(left["row"], left["id"]) for left in examples.unusable] == [(1, "row 1"), (2, "a"), (3, "row 3")]
    reasons = [left["reason"] for left in examples.unusable]
    assert reasons[0] == "'answer' is empty"
    assert reasons[1] == "its id is that of row 0 as well"
    assert reasons[2].startswith("the image 'no.png' is not in")
    assert len(caplog.records) == 3
    assert load_image(examples[0]).size == (40, 30)
    assert examples.source["rows"] == 5
    assert examples.source["files"] == ["rows.jsonl"]
    assert examples.source["schema"] == "nowhere/small"


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv", "parquet", "embedded", "bytes", "base64"])
def test_kinds_of_files_and_images(folder, tmp_path, kind):
    rows = [{**ROW, "name": name} for name in ("x", "y")]
    if kind in ("parquet", "embedded", "bytes", "base64"):
        data_dir = folder([])
        (tmp_path / "small" / "rows.jsonl").unlink()
        noise = io.BytesIO()
        Image.effect_noise((40, 30), 80).save(noise, format="PNG")
        content = {"parquet": "a.png", "embedded": {"bytes": png(), "path": None}, "bytes": png()}
        content["base64"] = base64.b64encode(noise.getvalue()).decode()
        features = {"embedded": datasets.Image(), "bytes": datasets.Value("binary")}.get(kind, datasets.Value("string"))
        schema = datasets.Features({name: datasets.Value("string") for name in ROW} | {"image": features})
        table = datasets.Dataset.from_list([{**row, "image": content[kind]} for row in rows], features=schema)
        table.to_parquet(str(tmp_path / "small" / "rows.parquet"))
    elif kind == "json":
        data_dir = folder(json.dumps(rows), "rows.json")
    elif kind == "jsonl":
        data_dir = folder(rows)
    else:
        separator = "\t" if kind == "tsv" else ","
        lines = [separator.join(ROW), *(separator.join(row.values()) for row in rows)]
        data_dir = folder("\n".join(lines), f"rows.{kind}")
    examples = read_examples(SMALL, data_dir)
    assert [example.id for example in examples] == ["x", "y"]
    assert {load_image(example).size for example in examples} == {(40, 30)}
    assert {load_image(example).mode for example in examples} == {"RGB"}


def test_limit(folder):
    data_dir = folder([{**ROW, "name": str(number)} for number in range(5)])
    assert [example.id for example in read_examples(SMALL, data_dir, 2)] == ["0", "1"]
    assert len(read_examples(SMALL, data_dir, 9)) == 5
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        read_examples(SMALL, data_dir, 0)


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        (
            [{"name": "a", "question": "?"}],
            "rows.jsonl",
            "no schema fits.*lacks the columns answer, image; it has",
        ),
        ("{", "rows.json", "rows.json cannot be read"),
        ("{}\nx", "rows.jsonl", "line 2 is no JSON"),
        ("[1]", "rows.json", "must hold a list of objects"),
        ("1\n2", "rows.jsonl", "line 1 is no object"),
        ("PAR1", "rows.parquet", "cannot be read"),
        ([{**ROW, "answer": ""}], "rows.jsonl", r"has no row that small can use \(the first: row 0: 'answer' is empty"),
        ("", "rows.txt", "holds no annotation file"),
    ],
)
def test_a_folder_that_cannot_be_read(folder, rows, name, message):
    with pytest.raises(DataUnavailableError, match=message):
        read_examples(SMALL, folder(rows, name))


def test_no_folder(tmp_path):
    with pytest.raises(DataUnavailableError, match="there is no folder"):
        read_examples(SMALL, tmp_path)


def test_annotation_files_of_two_kinds(folder, tmp_path):
    folder([ROW])
    with pytest.raises(DataUnavailableError, match=r"must be of one kind, got a.csv, rows.jsonl"):
        read_examples(SMALL, folder("name\na", "a.csv"))


def test_names_of_images_do_not_lead_out_of_their_folder(folder, tmp_path):
    (tmp_path / "outside.png").write_bytes(png())
    examples = read_examples(SMALL, folder([ROW, {**ROW, "name": "b", "image": "../../outside.png"}]))
    assert [example.id for example in examples] == ["a"]
    assert "is not in" in examples.unusable[0]["reason"]


def _not_there():
    raise OSError("nowhere")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "there is no image"),
        ("no/such.png", "no/such.png"),
        (b"no picture", "holds no readable image"),
        ({"bytes": png()[:60], "path": "a.png"}, "truncated"),
        ("!" * 300, "no image file"),
        (3, "cannot load an image from int"),
        (_not_there, "nowhere"),
    ],
)
def test_a_image_that_cannot_be_decoded(image, reason):
    example = Example("seven", image, "7", "What?", {"references": "cat"})
    with pytest.raises(ValueError, match=f"the image of seven cannot be read: .*{reason}"):
        load_image(example)


def test_images_are_decoded_as_the_processor_does():
    """Transparency on white, 16-bit greyscale scaled, EXIF rotation applied, in the size too."""
    clear = io.BytesIO()
    Image.new("RGBA", (4, 2), (0, 0, 0, 0)).save(clear, format="PNG")
    deep = io.BytesIO()
    Image.new("I;16", (4, 2), 257).save(deep, format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = io.BytesIO()
    Image.new("RGB", (4, 2), "red").save(rotated, format="JPEG", exif=exif)
    for content, size, pixel in (
        (clear, (4, 2), (255, 255, 255)),
        (deep, (4, 2), (1, 1, 1)),
        (rotated, (2, 4), (254, 0, 0)),
    ):
        for image in (content.getvalue(), {"bytes": content.getvalue(), "path": None}, Image.open(content)):
            loaded = load_image(Example("seven", image, "7", "What?", {"references": "cat"}))
            assert (loaded.size, loaded.getpixel((0, 0))) == (size, pixel)
            assert cell_size(image) == size


def test_boxes_as_fractions():
    assert fraction_box([-5, 10, 50, 200], 100, 100) == [0.0, 0.1, 0.5, 1.0]
    for box, sides in (([5, 5, 5, 9], (10, 10)), ([20, 0, 30, 5], (10, 10)), ([0, 0, 1, 1], (0, 10))):
        with pytest.raises(ValueError, match="no area|must be positive"):
            fraction_box(box, *sides)


def test_cells():
    row = Row(
        {"text": " a ", "number": "3", "half": 2.5, "flag": True, "nan": float("nan"), "list": ["a", " ", "b"]}, 0
    )
    assert (row.text("text"), row.text("half"), row.integer("number")) == ("a", "2.5", 3)
    assert (row.optional_text("nan"), row.optional_text("none"), row.texts("list")) == ("", "", ["a", "b"])
    for call, message in [
        (lambda: row.text("none"), "no column 'none'"),
        (lambda: row.text("nan"), "'nan' is empty"),
        (lambda: row.text("flag"), "'flag' must be a string"),
        (lambda: row.integer("half"), "'half' must be a whole number"),
        (lambda: row.numbers("list", 2), "'list' must be a list of numbers"),
        (lambda: row.image("text"), "the name of a file, ' a ', that the dataset does not hold"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


# One for each way in which rows and images are kept there, and two whose first dataset is not there.
ON_HUB = ["flickr30k", "coco_caption", "gqa", "vsr", "visdial", "refcoco_val", "refcoco_testB", "refcoco_plus_testB"]
ON_HUB += ["pope", "mmbench"]


def put_on_hub(hub: DatasetHub, synthetic: Path, directory: Path) -> dict[str, HubDataset]:
    """The synthetic benchmarks, as datasets of the Hub; those whose schema is one that the Hub has."""
    sources = {}
    for name in ON_HUB:
        definition = BENCHMARKS[name]
        schema = read_examples(definition, synthetic).source["schema"]
        source = next(source for source in definition.sources if source.path == schema)
        if source.local_only:
            continue
        sources[name] = source
        folder = synthetic / name
        files = {f"{name}/{path.name}": path for path in folder.iterdir() if path.is_file()}
        if (folder / "images").is_dir():
            # There, images are addresses on the web: those of the Hub here.
            (path,) = files.values()
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            column = "url" if "url" in rows[0] else "image_link"
            for row in rows:
                file_name = row[column].rpartition("/")[2]
                row[column] = f"{hub.url}/datasets/{source.path}/resolve/main/pictures/{file_name}"
                files[f"pictures/{file_name}"] = folder / "images" / file_name
            moved = directory / f"{name}.jsonl"
            moved.write_text("\n".join(map(json.dumps, rows)))
            files[f"{name}/{path.name}"] = moved
        if source.folder is not None:
            # A branch that was converted from a script has no card: the split is the name of a folder.
            (path,) = files.values()
            hub.files[source.path] = {f"{source.folder}/{source.split}/0000{path.suffix}": path.read_bytes()}
            continue
        configs: dict[str | None, dict[str, str]]
        if source.image_table is None:
            configs = {source.name: {source.split: f"{name}/*"}}
        else:
            table = source.image_table
            configs = {
                source.name: {source.split: f"{name}/{source.name}*"},
                table.name: {table.split: f"{name}/{table.name}*"},
            }
        hub.add(source.path, files, configs)
    return sources


def test_benchmarks_are_read_from_the_hub(synthetic, tmp_path):
    with DatasetHub() as hub:
        sources = put_on_hub(hub, synthetic, tmp_path)
        assert len(sources) == len(ON_HUB) - 2
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, "-m", "tests.lion_multimodal.evaluation.read_from_hub", ",".join(ON_HUB)]
        run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    for name in ON_HUB:
        if name not in sources:
            # The benchmark's own schema is for local folders, or that of another dataset than the one that is there.
            assert "error" in found[name]
            continue
        assert "error" not in found[name], found[name]["error"]
        local = read_examples(BENCHMARKS[name], synthetic)
        assert found[name]["ids"] == [example.id for example in local]
        assert found[name]["sizes"] == [[IMAGE_SIZE, IMAGE_SIZE]] * 2
        source = found[name]["source"]
        assert (source["dataset"], source["config"], source["split"]) == (
            sources[name].path,
            sources[name].name,
            sources[name].split,
        )
        assert source["revision"] == SHA
        assert source["rows"] == local.source["rows"]
    assert "--data-dir" in found["visdial"]["error"]
    assert "refcoco_plus_unc_testB is not available" in found["refcoco_plus_testB"]["error"]
    shutil.rmtree(tmp_path / "cache")


def test_the_hub_lacks_a_column(monkeypatch):
    data = datasets.Dataset.from_list([{"name": "a", "question": "What?"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: data)
    with pytest.raises(DataUnavailableError, match="nowhere/small, split test lacks the columns answer, image; it has"):
        read_examples(SMALL)


def test_a_byte_order_mark_is_no_part_of_a_column(folder):
    for name, text in (
        ("rows.csv", "name,image,question,answer\na,a.png,What?,cat\n"),
        ("rows.json", json.dumps([ROW])),
        ("rows.jsonl", json.dumps(ROW) + "\n"),
    ):
        data_dir = folder([], name)
        for file in (data_dir / "small").glob("rows.*"):
            file.unlink()
        (data_dir / "small" / name).write_text(text, encoding="utf-8-sig")
        assert [example.instruction for example in read_examples(SMALL, data_dir)] == ["What?"]


@pytest.mark.parametrize("column", ["name", "question", "answer"])
def test_a_row_with_half_a_surrogate_pair_is_a_bad_row(folder, column):
    data_dir = folder([{**ROW, column: "\ud83d what?"}, {**ROW, "name": "b"}])
    examples = read_examples(SMALL, data_dir)
    assert [example.id for example in examples] == ["b"]
    (left_out,) = examples.unusable
    assert left_out["row"] == 0
    assert "lone surrogate, \\ud83d" in left_out["reason"]
    json.dumps(left_out, ensure_ascii=False).encode()


def test_the_first_rows_of_a_parquet_file_are_read_alone(folder, monkeypatch):
    rows = [{**ROW, "name": str(index), "image": {"bytes": png(), "path": None}} for index in range(200)]
    data_dir = folder([], "rows.jsonl")
    (data_dir / "small" / "rows.jsonl").unlink()
    datasets.Dataset.from_list(rows).to_parquet(data_dir / "small" / "rows.parquet")
    whole = read_examples(SMALL, data_dir)

    def refuse(*args, **kwargs):
        raise AssertionError("all rows were converted")

    monkeypatch.setattr(datasets.Dataset, "from_parquet", refuse)
    read, batches = [], rows_module._ParquetRows.__iter__
    monkeypatch.setattr(
        rows_module._ParquetRows, "__iter__", lambda self: (read.append(row) or row for row in batches(self))
    )
    first = read_examples(SMALL, data_dir, limit=3)
    assert len(read) == 3
    assert [(example.id, example.instruction) for example in first] == [
        (example.id, example.instruction) for example in whole[:3]
    ]
    assert first.source == whole.source
    assert [load_image(example).tobytes() for example in first] == [
        load_image(example).tobytes() for example in whole[:3]
    ]
