import argparse
import io
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configuration_lion.configuration_ram import RamConfig
from lion_multimodal.cli import tag as command
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion.image_processing_lion import LionImageProcessor
from trainers.resumable_jsonl import ResumableJsonl
from trainers.tagging import ImageColumn, ImageFolder, Tagger, open_images, tag_images, tag_to_dataset


TAGS = ["anchor", "bell", "cup", "dice", "eye"]
NAMES = ["a.png", "b c.jpg", "sub/d.PNG", "sub/e.webp", "ünï/猫.png"]


@pytest.fixture(scope="module")
def tagger_directory(tmp_path_factory):
    sizes = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}
    torch.manual_seed(0)
    config = RamConfig.from_preset("nano", vision_config=sizes, hidden_size=16, intermediate_size=24, projection_dim=12)
    model = RamForImageTagging(
        RamConfig(
            **{
                **config.to_dict(),
                "num_tags": 5,
                "tags": TAGS,
                "tags_zh": ["锚 ", "铃 ", "杯", "骰子", "眼"],
                "thresholds": 0.5,
            }
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        # Between the second and third of five images, so that every tag separates them.
        inputs = LionImageProcessor.for_tagging(32)([picture(i) for i in range(5)], return_tensors="pt")
        probabilities = model(**inputs).logits.sigmoid().sort(dim=0).values
        model.config.thresholds = probabilities[1:3].mean(dim=0).tolist()
    directory = tmp_path_factory.mktemp("tagger")
    model.save_pretrained(directory)
    LionImageProcessor.for_tagging(32).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tagger(tagger_directory) -> Tagger:
    return Tagger.from_pretrained(tagger_directory, device="cpu")


def picture(seed: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for index, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(root / name, lossless=True)
    (root / "notes.txt").write_text("no picture")
    (root / "._a.png").write_bytes(b"junk of a file system")
    (root / ".cache").mkdir()
    picture(9).save(root / ".cache" / "x.png")
    return root


@pytest.fixture
def dataset(tmp_path) -> datasets.Dataset:
    images = [{"bytes": encoded(index), "path": None} for index in range(5)]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    return datasets.Dataset.from_dict(
        {"image": images, "caption": [f"caption {i}" for i in range(5)]}, features=features
    )


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "png")
    return buffer.getvalue()


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_hand(tagger: Tagger, images) -> list[list[str]]:
    """One image at a time, straight through processor and model."""
    return [
        tagger.model.generate_tags(tagger.image_processor(image, return_tensors="pt")["pixel_values"])[0]
        for image in images
    ]


def test_folder_is_tagged_in_order(tagger, folder, tmp_path):
    output = tmp_path / "new" / "tags.jsonl"
    report = tag_images(tagger, ImageFolder(folder), output, batch_size=2)
    assert (report.tagged, report.present, report.broken) == (5, 0, [])
    wanted = by_hand(tagger, [folder / name for name in NAMES])
    assert records(output) == [{"file_name": name, "tags": tags} for name, tags in zip(NAMES, wanted)]
    assert len({tuple(tags) for tags in wanted}) > 1


def test_workers_and_batch_size_change_nothing(tagger, folder, tmp_path):
    tag_images(tagger, ImageFolder(folder), tmp_path / "one.jsonl", batch_size=1)
    tag_images(tagger, ImageFolder(folder), tmp_path / "all.jsonl", batch_size=8, num_workers=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "all.jsonl").read_bytes()


def test_a_tagged_folder_is_a_data_set(tagger, folder):
    tag_images(tagger, ImageFolder(folder), folder / "metadata.jsonl")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    assert sorted(loaded["tags"]) == sorted(record["tags"] for record in records(folder / "metadata.jsonl"))


def test_broken_images_are_named_skipped_and_counted(tagger, folder, tmp_path, caplog):
    (folder / "sub" / "d.PNG").write_bytes((folder / "sub" / "d.PNG").read_bytes()[:200])
    (folder / "empty.gif").touch()
    report = tag_images(tagger, ImageFolder(folder), tmp_path / "tags.jsonl", batch_size=2)
    assert (report.tagged, report.broken) == (4, ["empty.gif", "sub/d.PNG"])
    assert "empty.gif" in caplog.text
    assert "sub/d.PNG" in caplog.text
    assert [record["file_name"] for record in records(tmp_path / "tags.jsonl")] == [
        n for n in NAMES if n != "sub/d.PNG"
    ]

    picture(2).save(folder / "sub" / "d.PNG", "png")  # once repaired, the next run takes it
    report = tag_images(tagger, ImageFolder(folder), tmp_path / "tags.jsonl")
    assert (report.tagged, report.present, report.broken) == (1, 4, ["empty.gif"])


def test_nothing_readable_is_an_error(tagger, tmp_path):
    (tmp_path / "x.png").touch()
    with pytest.raises(ValueError, match="none of the 1 images"):
        tag_images(tagger, ImageFolder(tmp_path), tmp_path / "tags.jsonl")


def test_a_run_cut_off_at_any_byte_goes_on(tagger, folder, tmp_path):
    tag_images(tagger, ImageFolder(folder), tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    seen = set()
    for size in range(0, len(whole), 7):
        output = tmp_path / "cut.jsonl"
        output.write_bytes(whole[:size])
        report = tag_images(tagger, ImageFolder(folder), output)
        assert output.read_bytes() == whole
        assert report.tagged + report.present == 5
        assert report.present == whole[:size].count(b"\n")
        seen.add(report.present)
    assert seen == {0, 1, 2, 3, 4}


def test_tags_of_finished_batches_survive_a_crash(tagger, folder, tmp_path, monkeypatch):
    calls = []

    def fail_on_the_second(pixel_values, *arguments):
        calls.append(len(pixel_values))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return Tagger.tag_pixel_values(tagger, pixel_values, *arguments)

    monkeypatch.setattr(tagger, "tag_pixel_values", fail_on_the_second, raising=False)
    with pytest.raises(RuntimeError, match="out of memory"):
        tag_images(tagger, ImageFolder(folder), tmp_path / "tags.jsonl", batch_size=2)
    assert len(records(tmp_path / "tags.jsonl")) == 2
    report = tag_images(tagger, ImageFolder(folder), tmp_path / "tags.jsonl", batch_size=2)
    assert calls == [2, 2, 2, 1]
    assert (report.tagged, report.present) == (3, 2)
    assert [record["file_name"] for record in records(tmp_path / "tags.jsonl")] == NAMES


@pytest.mark.parametrize(
    "content", ["some text", '{"caption": "mine"}\n', '{"file_name": "a.png", "text": "mine"}\n', "[1]\n", "\n"]
)
def test_a_file_that_is_not_ours_is_left_alone(tagger, folder, tmp_path, content):
    output = tmp_path / "notes.jsonl"
    output.write_text(content)
    with pytest.raises(ValueError, match=r"notes\.jsonl"):
        tag_images(tagger, ImageFolder(folder), output)
    assert output.read_text() == content


def test_data_set_rows_get_a_column(tagger, dataset, tmp_path):
    report = tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "tagged", batch_size=2)
    assert report.tagged == 5
    tagged = datasets.load_from_disk(tmp_path / "tagged")
    assert tagged.column_names == ["image", "caption", "tags"]
    assert list(tagged["tags"]) == by_hand(tagger, [picture(i) for i in range(5)])
    assert list(tagged["caption"]) == list(dataset["caption"])
    assert tagged[3]["image"].tobytes() == picture(3).tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tagged"]


def test_unreadable_rows_are_left_out_of_the_data_set(tagger, tmp_path, caplog):
    images = [
        {"bytes": encoded(0), "path": None},
        {"bytes": b"junk", "path": None},
        None,
        {"bytes": encoded(3), "path": None},
    ]
    broken = datasets.Dataset.from_dict({"picture": images}, features=datasets.Features({"picture": datasets.Image()}))
    report = tag_to_dataset(tagger, ImageColumn(broken), tmp_path / "tagged", tags_column="words")
    assert report.broken == [1, 2]
    assert "row=1" in caplog.text
    tagged = datasets.load_from_disk(tmp_path / "tagged")
    assert list(tagged["words"]) == by_hand(tagger, [picture(0), picture(3)])
    assert tagged[1]["picture"].tobytes() == picture(3).tobytes()


def test_an_interrupted_data_set_goes_on(tagger, dataset, tmp_path):
    (tmp_path / "tagged.tags.jsonl").write_text('{"row": 0, "tags": ["from before"]}\n{"row": 3, "tags": ["torn')
    (tmp_path / "tagged.partial").mkdir()
    report = tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "tagged")
    assert (report.tagged, report.present) == (4, 1)
    tags = list(datasets.load_from_disk(tmp_path / "tagged")["tags"])
    assert tags == [["from before"], *by_hand(tagger, [picture(i) for i in range(1, 5)])]


def test_a_data_set_interrupted_before_the_cleaning_up_is_finished(tagger, dataset, tmp_path, monkeypatch):
    progress = tmp_path / "tagged.tags.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda self, **kwargs: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "tagged")
    assert progress.exists()
    report = tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "tagged")
    assert (report.tagged, report.present) == (0, len(dataset))
    assert not progress.exists()
    with pytest.raises(ValueError, match="exists already"):
        tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "tagged")
    # Another's directory beside somebody's progress is no result.
    progress.write_text('{"row": 0, "tags": []}\n')
    with pytest.raises(ValueError, match="is not the dataset whose tags are in"):
        tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "tagged")


def test_nothing_is_overwritten(tagger, dataset, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists"):
        tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "there")
    with pytest.raises(ValueError, match="caption"):
        tag_to_dataset(tagger, ImageColumn(dataset), tmp_path / "new", tags_column="caption")
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


def test_a_folder_becomes_a_data_set_of_its_own(tagger, folder, tmp_path):
    tag_to_dataset(tagger, ImageFolder(folder), tmp_path / "tagged")
    (folder / "a.png").unlink()  # the images are inside
    tagged = datasets.load_from_disk(tmp_path / "tagged")
    assert tagged[0]["image"].tobytes() == picture(0).tobytes()
    assert len(tagged) == 5


def test_sources(folder, dataset, tmp_path):
    assert list(open_images(folder).names) == NAMES

    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "data").mkdir()
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    paths = tmp_path / "paths.csv"
    paths.write_text("image,caption\n" + "".join(f"{folder / name},x\n" for name in NAMES), encoding="utf-8")

    assert len(open_images(tmp_path / "saved").names) == 5
    assert len(open_images(tmp_path / "splits", split="test").names) == 1
    assert len(open_images(tmp_path / "data").names) == 5
    assert len(open_images(tmp_path / "data" / "train.parquet", image_column="image").names) == 5
    assert open_images(paths)[1] == str(folder / NAMES[1])

    with pytest.raises(ValueError, match="split must be one of"):
        open_images(tmp_path / "splits")
    with pytest.raises(ValueError, match="split must be one of"):
        open_images(tmp_path / "splits", split="validation")
    with pytest.raises(ValueError, match="image_column 'picture'"):
        open_images(tmp_path / "saved", image_column="picture")
    with pytest.raises(ValueError, match="image_column must be given"):
        ImageColumn(dataset.remove_columns("image"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected a folder"):
        open_images(folder / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        ImageFolder(tmp_path / "empty")


def test_tagger_in_the_subfolder_of_a_lion(tagger, tagger_directory, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "lion"}')
    with pytest.raises(OSError, match="has no tagger"):
        Tagger.from_pretrained(tmp_path)
    (tmp_path / "tagger").symlink_to(tagger_directory)
    image = picture(1)
    assert Tagger.from_pretrained(tmp_path, device="cpu")(image) == tagger(image) == by_hand(tagger, [image])


def test_tags_have_no_spaces_around_them(tagger):
    tags = {tag for image_tags in tagger([picture(i) for i in range(5)], language="zh") for tag in image_tags}
    assert tags <= {"锚", "铃", "杯", "骰子", "眼"}
    assert tags & {"锚", "铃"}


def test_unusable_device(tagger_directory):
    with pytest.raises(ValueError, match="device 'nonsense'"):
        Tagger.from_pretrained(tagger_directory, device="nonsense")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["tag", *arguments])


def test_command(tagger, tagger_directory, folder, dataset, tmp_path, capsys, monkeypatch):
    (folder / "broken.jpg").touch()
    args = parse(
        str(folder), "--model", str(tagger_directory), "--output", str(tmp_path / "t.jsonl"), "--device", "cpu"
    )
    assert args.run(args) == 0
    assert "5 tagged, 0 already there, 1 unreadable" in capsys.readouterr().out
    assert args.run(args) == 0
    assert "0 tagged, 5 already there, 1 unreadable" in capsys.readouterr().out

    dataset.save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(command, "_shipped_checkpoint", lambda: str(tagger_directory))
    args = parse(
        *(str(tmp_path / "saved"), "--output-dataset", str(tmp_path / "tagged"), "--tags-column", "words"),
        *("--batch-size", "3", "--image-column", "image", "--language", "zh", "--device", "cpu"),
    )
    assert args.run(args) == 0
    wanted = tagger([picture(i) for i in range(5)], language="zh")
    assert list(datasets.load_from_disk(tmp_path / "tagged")["words"]) == wanted


def test_command_needs_exactly_one_output(capsys):
    for arguments in (["x"], ["x", "--output", "a", "--output-dataset", "b"]):
        with pytest.raises(SystemExit) as error:
            parse(*arguments)
        assert error.value.code == 2
    capsys.readouterr()


class Process:
    """One of several that run at once: what `accelerate` tells `tag_images`, with threads in place of processes."""

    current = threading.local()

    def __init__(self, process_index: int, barrier: threading.Barrier, gathered: dict[int, list]) -> None:
        self.process_index = process_index
        self.num_processes = barrier.parties
        self.is_main_process = process_index == 0
        self.barrier = barrier
        self.gathered = gathered

    def wait_for_everyone(self) -> None:
        self.barrier.wait(timeout=60)

    def gather(self, items: list) -> list:
        self.gathered[self.process_index] = items
        self.wait_for_everyone()
        everything = [item for index in range(self.num_processes) for item in self.gathered[index]]
        self.wait_for_everyone()
        return everything

    def run(self, work: Callable[[], Any]) -> Any:
        self.current.process = self
        return work()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_work(tagger, folder, tmp_path, monkeypatch, processes):
    tag_images(tagger, ImageFolder(folder), tmp_path / "alone.jsonl")
    lines = (tmp_path / "alone.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "broken.jpg").touch()
    # Left behind by an earlier run of more processes, one line torn.
    output = tmp_path / "tags.jsonl"
    (tmp_path / "tags.jsonl.part5").write_bytes(lines[2] + lines[4][:30])
    left = threading.Semaphore(4)

    def count(pixel_values, *arguments):
        assert all(left.acquire(blocking=False) for _ in pixel_values)
        return Tagger.tag_pixel_values(tagger, pixel_values, *arguments)

    monkeypatch.setattr(tagger, "tag_pixel_values", count, raising=False)
    monkeypatch.setattr("trainers.tagging._process_state", lambda: Process.current.process)
    monkeypatch.setattr("trainers.tagging.gather_object", lambda items: Process.current.process.gather(items))
    barrier, gathered = threading.Barrier(processes), {}
    with ThreadPoolExecutor(processes) as pool:
        runs = [
            pool.submit(Process(index, barrier, gathered).run, lambda: tag_images(tagger, ImageFolder(folder), output))
            for index in range(processes)
        ]
        for run in runs:
            report = run.result()
            assert (report.tagged, report.present, report.broken) == (4, 1, ["broken.jpg"])
    assert output.read_bytes().splitlines(keepends=True) == lines
    assert sorted(path.name for path in tmp_path.glob("tags.jsonl*")) == ["tags.jsonl"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.text(), st.lists(st.text(), max_size=3)), max_size=6, unique_by=lambda entry: entry[0]),
    st.integers(1, 3),
    st.randoms(),
)
def test_no_record_is_lost_or_repeated(tmp_path_factory, entries, processes, random):
    """Any split of the work over processes, any interruption, any number of processes afterwards."""
    path = tmp_path_factory.mktemp("jsonl") / "[x] tags.jsonl"
    entries = [
        {"name": name.encode("utf-8", "surrogatepass").decode("utf-8", "replace"), "tags": tags}
        for name, tags in entries
    ]
    entries = list({entry["name"]: entry for entry in entries}.values())
    for index in range(processes):
        part = ResumableJsonl(path, "name", ["tags"], index, processes)
        part.append(entries[index::processes])
        if part.own_part.exists() and random.random() < 0.5:
            os.truncate(part.own_part, random.randrange(part.own_part.stat().st_size + 1))

    file = ResumableJsonl(path, "name", ["tags"])
    file.recover()
    kept = {record["name"] for record in file.records()}
    file.append(entry for entry in entries if entry["name"] not in kept)
    found = file.records()
    assert len(found) == len(entries)
    assert {record["name"]: record for record in found} == {entry["name"]: entry for entry in entries}
    assert [item.name for item in path.parent.iterdir()] in ([path.name], [])


def test_images_of_every_suffix_and_in_linked_folders_are_found(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "sub", elsewhere):
        folder.mkdir(parents=True)
    for name in ("a.jfif", "b.AVIF", "c.jpe", "sub/d.png"):
        (root / name).touch()
    (elsewhere / "e.png").touch()
    (root / "linked").symlink_to(elsewhere)
    (root / "sub" / "upwards").symlink_to(root)
    assert list(ImageFolder(root).names) == ["a.jfif", "b.AVIF", "c.jpe", "linked/e.png", "sub/d.png"]


def test_thresholds_and_scores(tagger, folder, tmp_path):
    images = ImageFolder(folder)
    output = tmp_path / "tags.jsonl"
    tag_images(tagger, images, output, thresholds=0.0, scores_column="scores", batch_size=2)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(records) == len(NAMES)
    for record, index in zip(records, range(len(NAMES))):
        (expected,) = tagger.scores(image_as_saved(folder, record["file_name"]), thresholds=0.0)
        assert record["tags"] == list(expected)
        assert set(record["tags"]) == {tag.strip() for tag in TAGS}, index
        assert record["scores"] == pytest.approx(list(expected.values()), abs=1e-3)
    tag_to_dataset(tagger, images, tmp_path / "set", thresholds=1.0, scores_column="scores")
    assert datasets.load_from_disk(str(tmp_path / "set"))["scores"][:] == [[]] * len(NAMES)


def image_as_saved(folder, name):
    with PIL.Image.open(folder / name) as image:
        return image.convert("RGB")
