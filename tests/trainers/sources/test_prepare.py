"""Every source from its files to rows: what is made, what is left out, and that a run survives being killed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from processing_lion import parse_boxes
from tests.trainers.sources import original_files as original
from trainers.datasets_lion import build_dataset
from trainers.recipe import SourceRecipe
from trainers.sources import SOURCES, get_sources
from trainers.sources.inputs import read_plain_pickle
from trainers.sources.locating import MissingFilesError
from trainers.sources.prepare import SourceReport, prepare


# Rows by source, kind and split, when every image of a benchmark is left out.
ROWS = {
    ("coco_captions", "", "train"): 16,
    ("coco_captions", "", "validation"): 2,
    ("textcaps", "", "train"): 4,
    ("vqav2", "", "train"): 7,
    ("vqav2", "", "validation"): 1,
    ("okvqa", "", "train"): 2,
    ("aokvqa", "direct_answer", "train"): 2,
    ("aokvqa", "multiple_choice", "train"): 2,
    ("ocrvqa", "", "train"): 4,
    ("llava_instruct", "", "train"): 4,
    ("refcoco", "rec", "train"): 14,
    ("refcoco", "rec", "validation"): 2,
    ("refcoco", "reg", "train"): 7,
    ("refcoco_plus", "rec", "train"): 14,
    ("refcoco_plus", "rec", "validation"): 2,
    ("refcoco_plus", "reg", "train"): 7,
    ("refcocog", "rec", "train"): 14,
    ("refcocog", "rec", "validation"): 2,
    ("refcocog", "reg", "train"): 7,
    ("visual_genome", "", "train"): 4,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files")
    original.write_all(root)
    return root


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory) -> tuple[Path, dict[str, SourceReport]]:
    output = tmp_path_factory.mktemp("prepared")
    return output, {report.name: report for report in prepare(get_sources("all"), files, output)}


def read_rows(output: Path, source: str, kind: str = "", split: str = "train") -> list[dict[str, Any]]:
    paths = sorted((output / SOURCES[source].row_folder(kind)).glob(f"{split}-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def run(files: Path, output: Path, name: str, **options: Any) -> SourceReport:
    (report,) = prepare(get_sources(name), files, output, **options)
    return report


@pytest.mark.parametrize(("source", "kind", "split"), ROWS)
def test_every_source_makes_its_rows(prepared, source, kind, split):
    output, reports = prepared
    rows = read_rows(output, source, kind, split)
    assert len(rows) == reports[source].splits[split].rows[kind] == ROWS[source, kind, split]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert Path(row["image"]).is_file()
        assert row["prompt"].strip()
        assert "{" not in row["prompt"]
        assert all(row["completion"])
        assert row["level"] == SOURCES[source].kind(kind).level


def test_all_kinds_and_splits_are_there(prepared):
    made = {
        (source.name, kind.name, split) for source in SOURCES.values() for kind in source.kinds for split in kind.splits
    }
    assert made == set(ROWS)


@pytest.mark.parametrize("source", SOURCES)
def test_no_training_image_is_one_that_a_benchmark_tests_on(prepared, source):
    output, reports = prepared
    ids = {row["coco_id"] for kind in SOURCES[source].kinds for row in read_rows(output, source, kind.name)}
    assert not ids & original.HELD_OUT
    report = reports[source].splits["train"]
    assert bool(report.held_out) == (source not in ("textcaps", "ocrvqa"))
    assert sum(report.held_out.values()) >= report.held_out_images


def test_the_report_counts_what_fell_to_each_benchmark(prepared):
    held_out = prepared[1]["refcocog"].splits["train"].held_out
    # Three images with two sentences and one object each. RefCOCO+ tests on the same ones.
    assert held_out == {"refcoco_val": 3, "refcoco_testA": 3, "refcoco_testB": 3}
    lines = prepared[1]["refcocog"].lines()
    assert "14 rows of rec (published: 80,512)" in lines[0]
    assert "3 rows of refcoco_testA's images" in lines[0]


def test_holding_out_can_be_switched_off(files, tmp_path):
    report = run(files, tmp_path, "refcocog", hold_out="none")
    assert report.splits["train"].rows == {"rec": 20, "reg": 10}
    assert not report.splits["train"].held_out


def test_what_rows_say(prepared):
    output, _ = prepared
    captions = {row["id"]: row for row in read_rows(output, "coco_captions")}
    assert captions["1/0"]["completion"] == [original.captions_of(1)[0]]
    assert captions["1/0"]["image"].endswith("train2014/COCO_train2014_000000000001.jpg")
    assert len({row["prompt"] for row in captions.values()}) > 4

    (question,) = [row for row in read_rows(output, "vqav2") if row["coco_id"] == 9]
    assert "What is thing 9?" in question["prompt"]
    assert question["completion"] == ["dog", "dog", "cat"]
    assert read_rows(output, "okvqa")[0]["completion"] == ["dogs", "dogs", "cats"]
    (choice, _) = read_rows(output, "aokvqa", "multiple_choice")
    assert choice["prompt"].endswith("Options: (a) eating (b) riding (c) reading (d) flying. Short answer:")
    assert choice["completion"] == ["riding"]
    assert [row["completion"] for row in read_rows(output, "ocrvqa")[:2]] == [["A. Author"], ["No"]]
    assert read_rows(output, "llava_instruct")[0]["prompt"] == "What is it?"

    locating = {row["id"]: row for row in read_rows(output, "refcoco", "rec")}["701/2"]
    assert "the thing left" in locating["prompt"]
    left, top, width, height = original.coco_box(1)
    assert parse_boxes(locating["completion"][0]) == [
        pytest.approx([left / 64, top / 48, (left + width) / 64, (top + height) / 48], abs=1e-3)
    ]
    naming = {row["id"]: row for row in read_rows(output, "refcoco", "reg")}["701"]
    assert locating["completion"][0] in naming["prompt"]
    assert naming["completion"] == ["the thing left", "the thing near us"]

    regions = read_rows(output, "visual_genome")
    assert {row["completion"][0] for row in regions} == {"a red thing", "the sky"}
    report = prepared[1]["visual_genome"].splits["train"]
    assert list(report.by_rule.values()) == [6]
    assert report.unusable == 3  # without area


def test_a_row_gets_the_same_wording_in_every_run(files, prepared, tmp_path):
    run(files, tmp_path, "vqav2")
    assert read_rows(tmp_path, "vqav2") == read_rows(prepared[0], "vqav2")


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _karpathy_parquet(root: Path) -> None:
    content = json.loads((root / "coco" / "dataset_coco.json").read_text())["images"]
    for split, name in (("train", "train"), ("restval", "restval"), ("val", "validation"), ("test", "test")):
        rows = [
            {**image, "sentences": [sentence["raw"] for sentence in image["sentences"]], "url": "http://x"}
            for image in content
            if image["split"] == split
        ]
        _write_rows(root / "coco" / "data" / f"{name}.parquet", rows)
    (root / "coco" / "dataset_coco.json").unlink()


def _lavis_json(root: Path) -> None:
    content = json.loads((root / "coco" / "dataset_coco.json").read_text())["images"]
    for name, splits in (("train", ("train", "restval")), ("val", ("val",)), ("test", ("test",))):
        images = [image for image in content if image["split"] in splits]
        path = {image["cocoid"]: f"{image['filepath']}/{image['filename']}" for image in images}
        captions = {image["cocoid"]: [s["raw"] for s in image["sentences"]] for image in images}
        if name == "train":
            rows = [
                {"caption": caption, "image": path[i], "image_id": f"coco_{i}"} for i in path for caption in captions[i]
            ]
        else:
            rows = [{"image": path[i], "caption": captions[i]} for i in path]
        original.write_json(root / "coco" / f"coco_karpathy_{name}.json", rows)
    (root / "coco" / "dataset_coco.json").unlink()


def _refer_parquet(root: Path) -> None:
    for name, split_by in original.SPLIT_BY.items():
        instances = json.loads((root / name / "instances.json").read_text())
        objects = {item["id"]: item for item in instances["annotations"]}
        images = {item["id"]: item for item in instances["images"]}
        parts: dict[str, list[dict[str, Any]]] = {}
        for reference in original.references(name):
            annotation = objects[reference["ann_id"]]
            left, top, width, height = annotation["bbox"]
            row = {
                **reference,
                "raw_anns": json.dumps(annotation),
                "raw_image_info": json.dumps(images[reference["image_id"]]),
                "raw_sentences": json.dumps(reference["sentences"]),
                "image_path": "coco/train2014/x.jpg",
                "bbox": [left, top, left + width, top + height],
                "captions": ["x"],
                "global_image_id": f"coco.{reference['image_id']}",
                "anns_id": "1",
            }
            part = {"val": "validation", "testA": "test"}.get(reference["split"], reference["split"])
            parts.setdefault(part, []).append(row)
        for part, rows in parts.items():
            _write_rows(root / name / "data" / f"{part}-00000-of-00001-0123456789abcdef.parquet", rows)
        (root / name / f"refs({split_by}).p").unlink()
        (root / name / "instances.json").unlink()


def _refer_json(root: Path) -> None:
    for name, split_by in original.SPLIT_BY.items():
        original.write_json(root / name / f"refs({split_by}).json", original.references(name))
        (root / name / f"refs({split_by}).p").unlink()


def _embedded_images(root: Path) -> None:
    """TextCaps and OCR-VQA as the Hub has them, images within."""
    captions: dict[str, list[str]] = {}
    for row in json.loads((root / "textcaps" / "TextCaps_0.1_train.json").read_text())["data"]:
        captions.setdefault(row["image_id"], []).append(row["caption_str"])
    rows = [
        {
            "image_id": name,
            "caption_str": texts,
            "image": {"bytes": (root / "textvqa" / "train_images" / f"{name}.jpg").read_bytes(), "path": None},
        }
        for name, texts in captions.items()
    ]
    _write_rows(root / "textcaps" / "data" / "train-00000-of-00013.parquet", rows)
    (root / "textcaps" / "TextCaps_0.1_train.json").unlink()
    books = json.loads((root / "OCR-VQA" / "dataset.json").read_text())
    rows = [
        {
            "image": {"bytes": (root / "OCR-VQA" / "images" / f"{name}.jpg").read_bytes(), "path": f"{name}.jpg"},
            "image_id": name,
            "questions": book["questions"],
            "answers": book["answers"],
            "set_name": "train",
        }
        for name, book in books.items()
        if book["split"] == 1
    ]
    _write_rows(root / "OCR-VQA" / "data" / "train-00000-of-00016.parquet", rows)
    (root / "OCR-VQA" / "dataset.json").unlink()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_karpathy_parquet, ["coco_captions"]),
        (_lavis_json, ["coco_captions"]),
        (_refer_parquet, ["refcoco", "refcoco_plus", "refcocog"]),
        (_refer_json, ["refcoco", "refcocog"]),
        (_embedded_images, ["textcaps", "ocrvqa"]),
    ],
)
def test_other_forms_of_a_source_make_the_same_rows(prepared, tmp_path, change, names):
    root, output = tmp_path / "files", tmp_path / "rows"
    original.write_all(root)
    change(root)
    for name in names:
        report = run(root, output, name)
        assert report.form != prepared[1][name].form or change is _refer_json
        for kind in SOURCES[name].kinds:
            for split in kind.splits:
                rows, expected = (read_rows(place, name, kind.name, split) for place in (output, prepared[0]))
                columns = ["prompt", "completion", "level", "coco_id"]
                if change in (_lavis_json, _embedded_images) and name != "ocrvqa":  # which name captions otherwise
                    columns.remove("prompt")
                assert [[row[c] for c in columns] for row in rows] == [[row[c] for c in columns] for row in expected]
                if change is _embedded_images:
                    assert all(row["image"].startswith(f"images/{name}/") for row in rows)
                    assert all((output / row["image"]).is_file() for row in rows)


def test_captions_of_2017_lose_karpathys_test_images(tmp_path):
    root = tmp_path / "files"
    original.write_all(root)
    _lavis_json(root)
    (root / "coco" / "coco_karpathy_train.json").unlink()
    original.write_coco_2017(root)
    report = run(root, tmp_path / "rows", "coco_captions")
    assert report.form == "COCO's captions_*2017.json"
    assert report.splits["train"].held_out["karpathy_test"] == 2
    assert report.splits["train"].held_out["karpathy_val"] == 2  # both files are read
    assert report.splits["train"].rows[""] == 16
    assert report.splits["validation"].rows[""] == 2


def test_from_the_hub(files, tmp_path, monkeypatch):
    """Files that the Hub has, under the names that it has them."""
    root = tmp_path / "files"
    original.write_all(root)
    for change in (_karpathy_parquet, _refer_parquet, _embedded_images):
        change(root)
    places = {
        "yerevann/coco-karpathy": "coco",
        "jxu124/refcoco": "refcoco",
        "jxu124/refcocoplus": "refcoco+",
        "jxu124/refcocog": "refcocog",
        "lmms-lab/TextCaps": "textcaps",
        "liuhaotian/LLaVA-Instruct-150K": "llava",
    }
    asked = []

    def snapshot_download(repo, repo_type, allow_patterns):
        asked.append((repo, tuple(allow_patterns)))
        assert repo_type == "dataset"
        return str(root / places[repo])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for name, count in (("textcaps", 4), ("llava_instruct", 4), ("refcoco", 14)):
        report = run("hub", tmp_path / "rows", name, images=files)
        assert next(iter(report.splits["train"].rows.values())) == count
    assert ("liuhaotian/LLaVA-Instruct-150K", ("llava_instruct_150k.json", "*/llava_instruct_150k.json")) in asked
    with pytest.raises(MissingFilesError, match=r"vqav2 cannot be read from the Hub, but from files \(v2_OpenEnded"):
        run("hub", tmp_path / "rows", "vqav2", images=files)
    with pytest.raises(ValueError, match="none of its images is there.* Give the folder that holds them as `images`"):
        run("hub", tmp_path / "other", "llava_instruct")


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    root = tmp_path / "files"
    original.write_all(root)
    path = root / "refcoco" / "refs(unc).p"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps([_Malicious(tmp_path / "touched")], protocol=protocol))
        with pytest.raises(ValueError, match=r"refs\(unc\).p is no pickle of plain values: asks for posix.system"):
            list(prepare(get_sources("refcoco"), root, tmp_path / "rows"))
    assert not (tmp_path / "touched").exists()


def test_pickles_of_python_2_are_read(tmp_path):
    path = tmp_path / "refs.p"
    # What Python 2 writes for [{'sent': 'caf\xe9', 'n': 3L}] and for the same in UTF-8.
    for content, text in ((b"caf\xe9", "café"), ("café".encode(), "café")):
        path.write_bytes(b"\x80\x02]q\x00}q\x01(U\x04sentq\x02U" + bytes([len(content)]) + content + b"U\x01nK\x03ua.")
        assert read_plain_pickle(path) == [{"sent": text, "n": 3}]
    path.write_bytes(b"\x80\x02]q\x00}q")
    with pytest.raises(ValueError, match="is no pickle of plain values"):
        read_plain_pickle(path)


def test_missing_and_broken_images_are_named_and_left_out(tmp_path):
    root, output = tmp_path / "files", tmp_path / "rows"
    original.write_all(root)
    broken, cut = (root / "coco" / "train2014" / original.coco_name(coco_id) for coco_id in (1, 2))
    broken.write_bytes(b"no image")
    content = (root / "coco" / "train2014" / original.coco_name(8)).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    (root / "coco" / "train2014" / original.coco_name(9)).unlink()
    report = run(root, output, "coco_captions").splits["train"]
    assert (report.broken_images, report.missing_images, report.without_image) == (2, 1, 6)
    assert report.rows[""] == ROWS["coco_captions", "", "train"] - 6
    notes = (output / "reports" / "coco_captions.train.left_out.jsonl").read_text()
    assert len(notes.splitlines()) == 3  # each image once
    assert all(name in notes for name in (broken.name, cut.name, "COCO's image 9"))
    assert "2 broken images" in run(root, output, "coco_captions").lines()[0]

    report = run(root, tmp_path / "unchecked", "coco_captions", check_images="exists").splits["train"]
    assert (report.broken_images, report.missing_images) == (0, 1)


def test_records_that_cannot_be_used_are_named_and_left_out(tmp_path):
    root, output = tmp_path / "files", tmp_path / "rows"
    original.write_all(root)
    path = root / "aokvqa" / "aokvqa_v1p0_train.json"
    rows = json.loads(path.read_text())
    good = rows[0]
    bad = [{**good, "image_id": None}, {**good, "direct_answers": "riding"}, {**good, "question": " "}, "text", None]
    bad.append({**good, "correct_choice_idx": 4})
    original.write_json(path, [good, *bad])
    report = run(root, output, "aokvqa").splits["train"]
    assert report.rows == {"direct_answer": 1, "multiple_choice": 1}
    assert report.unusable == len(bad)
    notes = [json.loads(line) for line in (output / "reports" / "aokvqa.train.left_out.jsonl").read_text().splitlines()]
    assert [note["record"] for note in notes] == [1, 2, 3, 4, 5, 6]
    assert notes[1]["reason"] == "'direct_answers' must be a list of strings, got 'riding'"


@pytest.mark.parametrize("format", ["parquet", "jsonl", "webdataset"])
def test_rows_of_every_format_are_read_by_recipes(files, tmp_path, format):
    run(files, tmp_path, "refcoco", format=format)
    columns = {"webdataset": {"image": "jpg", **{c: f"{c}.txt" for c in ("prompt", "level")}}}.get(format, {})
    if columns:
        columns["completion"] = "completion.json"
    recipe = SourceRecipe(path=str(tmp_path / "refcoco" / "rec"), columns=columns, level="column", name="rec")
    rows = build_dataset([recipe])
    assert len(rows) == 14
    assert {row["level"] for row in rows} == {"region_level"}
    assert all(len(parse_boxes(row["completion"][0])) == 1 for row in rows)
    if format == "webdataset":
        assert all(row["image"]["bytes"][:2] == b"\xff\xd8" for row in rows)
    recipe = SourceRecipe(
        path=str(tmp_path / "refcoco" / "rec"), columns=columns, level="column", name="rec", split="validation"
    )
    assert len(build_dataset([recipe])) == 2


_PREPARE = """
import sys
from trainers.sources import get_sources
from trainers.sources.prepare import prepare
list(prepare(get_sources("coco_captions"), sys.argv[1], sys.argv[2], shard_rows=100))
"""


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path):
    root = tmp_path / "files"
    original.write_all(root)
    path = root / "coco" / "dataset_coco.json"
    content = json.loads(path.read_text())
    # Many records on few images, some of them broken or left out.
    (root / "coco" / "train2014" / original.coco_name(1)).write_bytes(b"no image")
    content["images"] = content["images"] * 200
    original.write_json(path, content)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    shard = killed / "coco_captions" / "train-00002.parquet"
    process = subprocess.Popen([sys.executable, "-c", _PREPARE, str(root), str(killed)], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 120
    while not shard.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = sorted(path.name for path in (killed / "coco_captions").glob("train-*"))
    assert not json.loads((killed / "reports" / "coco_captions.json").read_text())["splits"]["train"]["done"]
    times = {name: (killed / "coco_captions" / name).stat().st_mtime_ns for name in finished[:-1]}

    report = run(root, killed, "coco_captions", shard_rows=100)
    assert report == run(root, whole, "coco_captions", shard_rows=100)
    assert report.splits["train"].rows == {"": 2_800}
    assert report.splits["train"].broken_images == 1
    for place in ("coco_captions", "reports"):
        names = [sorted(path.name for path in (folder / place).iterdir()) for folder in (killed, whole)]
        assert names[0] == names[1]
    for name in finished[:-1]:  # kept, not written again
        assert (killed / "coco_captions" / name).stat().st_mtime_ns == times[name]
    for split in ("train", "validation"):
        assert read_rows(killed, "coco_captions", split=split) == read_rows(whole, "coco_captions", split=split)
    notes = [(f / "reports" / "coco_captions.train.left_out.jsonl").read_text() for f in (killed, whole)]
    assert notes[0] == notes[1]


def test_finished_sources_are_left_alone_and_others_need_permission(files, tmp_path):
    run(files, tmp_path, "okvqa")
    path = tmp_path / "okvqa" / "train-00000.parquet"
    written = path.stat().st_mtime_ns
    assert run(files, tmp_path, "okvqa").splits["train"].rows == {"": 2}
    assert path.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="prepared otherwise .*held_out.* differ.: overwrite them"):
        run(files, tmp_path, "okvqa", hold_out="none")
    assert run(files, tmp_path, "okvqa", hold_out="none", overwrite=True).splits["train"].rows == {"": 4}


def test_errors_say_what_is_missing(files, tmp_path):
    root = tmp_path / "files"
    original.write_okvqa(root)
    original.write_coco_images(root)
    output = tmp_path / "rows"
    with pytest.raises(MissingFilesError, match=r"COCO Captions tests on are not known.* holds dataset_coco.json; or"):
        run(root, output, "okvqa")
    original.write_coco_captions(root)
    with pytest.raises(MissingFilesError, match=r"RefCOCO tests on .* holds refs\(unc\)"):
        run(root, output, "okvqa")
    assert run(root, output, "okvqa", hold_out="karpathy").splits["train"].rows == {"": 4}
    with pytest.raises(MissingFilesError, match=r"vqav2: no folder vqav2 or .* holds v2_OpenEnded_mscoco_train2014"):
        run(root, output, "vqav2")
    with pytest.raises(MissingFilesError, match="skip_missing"):
        list(prepare(get_sources("stage1"), root, output, hold_out="karpathy"))
    names = [r.name for r in prepare(get_sources("stage1"), root, output, hold_out="karpathy", skip_missing=True)]
    assert names == ["coco_captions", "okvqa"]
    for options, problem in (
        ({"format": "csv"}, "`format` must be one of parquet, jsonl, webdataset, got 'csv'"),
        ({"check_images": "no"}, "`check_images` must be one of decode, exists, got 'no'"),
        ({"shard_rows": 0}, "`shard_rows` must be at least 1, got 0"),
        ({"hold_out": "flickr30k"}, "`hold_out` must be 'all', 'none' or among karpathy, .*, got 'flickr30k'"),
        ({"images": tmp_path / "no"}, "`images` must be a folder, got .*no', which is none"),
    ):
        with pytest.raises(ValueError, match=problem):
            run(root, output, "okvqa", **options)
    with pytest.raises(ValueError, match="`source` must be a folder"):
        run(tmp_path / "nowhere", output, "okvqa")
    with pytest.raises(ValueError, match="unknown training source 'vqa2'; did you mean vqav2"):
        get_sources("vqa2")


def test_a_damaged_file_is_named(tmp_path):
    root = tmp_path / "files"
    original.write_all(root)
    path = root / "aokvqa" / "aokvqa_v1p0_train.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=r"aokvqa_v1p0_train.json is no JSON: .*EOF"):
        run(root, tmp_path / "rows", "aokvqa")
