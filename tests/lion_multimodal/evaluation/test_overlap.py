"""Images of benchmarks in training sets: found by their number and by what they look like."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lion_multimodal.cli.main import main
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.overlap import MOST_DIFFERENT_BITS, find_overlap, read_training_images
from tests.trainers.sources import original_files as original
from trainers.sources import get_sources
from trainers.sources.images import perceptual_hash, read_coco_id
from trainers.sources.prepare import prepare


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("files")
    original.write_all(root)
    return root


@pytest.fixture(scope="module")
def data_dir(files, tmp_path_factory) -> Path:
    """Three benchmarks: Karpathy's test image, OK-VQA on an image of train2014, and TextCaps on a copy of another."""
    root = tmp_path_factory.mktemp("benchmarks")
    coco = root / "coco_caption"
    original.save_image(coco / "images" / original.coco_name(original.KARPATHY_TEST), original.KARPATHY_TEST)
    original.write_json(coco / "dataset_coco.json", json.loads((files / "coco" / "dataset_coco.json").read_text()))
    okvqa = root / "okvqa"
    original.save_image(okvqa / "images" / "COCO_val2014_000000000009.jpg", 999)  # another picture, the same number
    original._write_vqa(okvqa, "", "val", (9,), raw=True)
    textcaps = root / "textcaps"
    rows = []
    for name, seed in (("copy", 8), ("other", 777)):
        (textcaps / "images").mkdir(parents=True, exist_ok=True)
        changed = original.image(seed).resize((original.WIDTH * 2, original.HEIGHT * 2), Image.Resampling.BICUBIC)
        changed.save(textcaps / "images" / f"{name}.jpg", quality=60)
        rows.append({"image": f"{name}.jpg", "image_id": name, "caption_str": ["a sign"]})
    textcaps.joinpath("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


NAMES = ("coco_caption", "okvqa", "textcaps")


def compare(data, output, data_dir):
    found = find_overlap([BENCHMARKS[name] for name in NAMES], str(data), output, data_dir=data_dir)
    assert [overlap.benchmark for overlap in found] == list(NAMES)
    return found


@pytest.mark.parametrize("format", ["parquet", "jsonl", "webdataset"])
def test_prepared_rows_do_not_hold_what_is_held_out(files, data_dir, tmp_path, format):
    for hold_out, karpathy in (("all", 0), ("none", 1)):
        rows = tmp_path / hold_out
        # OCR-VQA's rows are of no image of COCO.
        for name in ("llava_instruct", "vqav2", "ocrvqa"):
            list(prepare(get_sources(name), files, rows, hold_out=hold_out, format=format))
        captions, okvqa, textcaps = compare(rows, tmp_path / f"out_{hold_out}", data_dir)
        assert (captions.images, captions.with_coco_id) == (1, 1)
        assert (captions.by_coco_id, captions.by_hash) == (karpathy, karpathy)
        assert (okvqa.by_coco_id, okvqa.by_hash, len(okvqa.found)) == (1, 0, 1)
        assert (textcaps.images, textcaps.with_coco_id, textcaps.by_coco_id, textcaps.by_hash) == (2, 0, 0, 1)
        (found,) = textcaps.found
        assert (found["image"], found["by"]) == ("copy", ["hash"])
        assert found["bits"] <= MOST_DIFFERENT_BITS
        if format != "webdataset":
            assert found["training_image"].endswith(original.coco_name(8))


def test_a_folder_of_images_and_a_file_of_rows(files, data_dir, tmp_path):
    captions, okvqa, textcaps = compare(files / "coco" / "train2014", tmp_path / "folder", data_dir)
    assert [len(overlap.found) for overlap in (captions, okvqa, textcaps)] == [0, 1, 1]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": str(files / "coco" / "train2014" / original.coco_name(9)), "prompt": "x"}))
    captions, okvqa, textcaps = compare(rows, tmp_path / "file", data_dir)
    assert [len(overlap.found) for overlap in (captions, okvqa, textcaps)] == [0, 1, 0]
    table = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["x"]}), table)
    images = read_training_images(str(table))
    with pytest.raises(ValueError, match="no column `image`"):
        next(images)


def test_hashes_are_made_once(files, data_dir, tmp_path, monkeypatch):
    folder = files / "coco" / "train2014"
    first = compare(folder, tmp_path, data_dir)
    monkeypatch.setattr("lion_multimodal.evaluation.overlap._hash", None)
    assert compare(folder, tmp_path, data_dir) == first


def test_images_that_are_not_there_are_compared_by_number(files, data_dir, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": "nowhere/COCO_train2014_000000000009.jpg"}) + "\n")
    _, okvqa, _ = compare(rows, tmp_path / "out", data_dir)
    assert (okvqa.by_coco_id, okvqa.by_hash) == (1, 0)
    assert json.loads((tmp_path / "out" / "overlap.json").read_text())["training_images_not_hashed"] == 1


def test_the_command(files, data_dir, tmp_path, capsys):
    arguments = ["--benchmark", "textcaps,vsr", "--data-dir", str(data_dir), "--output", str(tmp_path)]
    assert main(["eval", "--check-overlap", str(files / "coco"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "| textcaps | 2 | 0 | 0 | 1 | 1 |" in printed
    assert "| vsr | not compared: vsr: there is no folder" in printed
    assert main(["eval", *arguments]) == 1
    assert "needs --model, or --check-overlap" in capsys.readouterr().err
    assert main(["eval", "--check-overlap", str(tmp_path / "empty"), *arguments]) == 1


def photograph(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Noise whose low frequencies are the strongest, as in photographs."""
    rng = np.random.default_rng(seed)
    total = np.zeros(size[::-1])
    for side, strength in ((2, 3.0), (4, 2.0), (8, 1.5), (16, 1.0), (64, 0.4)):
        grid = Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8))
        total += strength * np.asarray(grid.resize(size, Image.Resampling.BICUBIC), dtype=float)
    total -= total.min()
    return Image.fromarray((total * 255 / total.max()).astype(np.uint8)).convert("RGB")


def test_a_hash_survives_scaling_and_compression_and_tells_images_apart():
    hashes = []
    for seed in range(20):
        image = photograph(seed)
        value = perceptual_hash(image)
        hashes.append(value)
        for size, quality in (((640, 480), 90), ((160, 120), 50), ((336, 336), 70), ((320, 240), 30)):
            buffer = io.BytesIO()
            image.resize(size, Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=quality)
            assert (perceptual_hash(Image.open(buffer)) ^ value).bit_count() <= MOST_DIFFERENT_BITS
    differences = [(one ^ other).bit_count() for number, one in enumerate(hashes) for other in hashes[:number]]
    assert min(differences) > 2 * MOST_DIFFERENT_BITS


def test_images_without_contrast_have_no_hash():
    assert perceptual_hash(Image.new("RGB", (64, 48), "white")) is None
    noise = np.random.default_rng(0).integers(100, 103, (48, 64, 3), dtype=np.uint8)
    assert perceptual_hash(Image.fromarray(noise)) is None


@pytest.mark.parametrize(
    ("name", "coco_id"),
    [
        ("COCO_train2014_000000581857.jpg", 581857),
        ("COCO_train2014_000000581857_16.jpg", 581857),
        ("http://images.cocodataset.org/val2017/000000000139.jpg", 139),
        ("COCO_val2014_000000310196", 310196),
        ("1000092795.jpg", None),
        ("VisualDialog_val2018_000000185565.jpg", None),
        ("185565", None),
        ("0000000001390.jpg", None),
    ],
)
def test_coco_ids_are_read_from_names(name, coco_id):
    assert read_coco_id(name) == coco_id
