import csv
import json
from pathlib import Path

import datasets
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.row_formats import BOX_FORMATS, convert_box, read_rows, tell_box_format


SIZE = (200, 100)  # width, height


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("1.jpg", "2.jpg", "COCO_train2014_000000000003.jpg", "VG_100K/4.jpg"):
        file = tmp_path / "images" / name
        file.parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", SIZE, "red").save(file)
    return tmp_path


def write(path: Path, content) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in content))
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, content[0])
            writer.writeheader()
            writer.writerows(content)
    else:
        path.write_text(json.dumps(content))
    return path


def read(folder, name, content, **options):
    return read_rows(write(folder / name, content), image_folder=folder / "images", **options)


CAPTION = "Please describe the image using a single short sentence."
REC = "In the image <image>, can you locate the dog and let me know its coordinates?"
REG = "For the given image <image>, can you provide a unique description of the area [0.100,0.200,0.500,0.800]?"
# Records, and the first row they make: prompt, answers, level.
TABLES = {
    "prompt and completion": (
        [{"image": "1.jpg", "prompt": "Is it red?", "completion": "yes", "tags": "cat, dog"}],
        ("Is it red?", ["yes"], "image_level"),
    ),
    "questions and answers": (
        [{"image": "1.jpg", "question": "What colour?", "answer": "red"}],
        ("Question: What colour? Short answer:", ["red"], "image_level"),
    ),
    "captions": ([{"file_name": "1.jpg", "text": "a dog"}], (CAPTION, ["a dog"], "image_level")),
    "messages": (
        [
            {
                "images": ["1.jpg"],
                "messages": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "yes"}],
            }
        ],
        ("Is it?", ["yes"], "image_level"),
    ),
    "LLaVA conversations": (
        [
            {
                "image": "1.jpg",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat is it?"},
                    {"from": "gpt", "value": "A dog."},
                    {"from": "human", "value": "Which?"},
                    {"from": "gpt", "value": "Mine."},
                ],
            }
        ],
        ("What is it?", ["A dog."], "image_level"),
    ),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("name", TABLES)
def test_rows_are_recognised_by_their_columns(folder, name, suffix):
    records, (prompt, answers, level) = TABLES[name]
    found = read(folder, f"rows{suffix}", records)
    row = found.rows[0]
    assert (row["prompt"], row["completion"], row["level"]) == (prompt, answers, level)
    assert found.summary() == f"read as {name}: {len(found.rows)} rows"
    dataset = found.to_dataset()
    assert dataset[0]["image"]["path"] == str(folder / "images" / "1.jpg")
    assert dataset[0]["completion"] == answers
    assert len(found.rows) == (2 if "conversations" in records[0] else 1)


def test_a_csv_with_a_byte_order_mark_and_lists(folder):
    rows = [{"file_name": "1.jpg", "question": "What?", "answers": '["a", "b", "a"]', "tags": "cat"}]
    (row,) = read(folder, "rows.csv", rows).rows
    assert (row["completion"], row["tags"]) == (["a", "b", "a"], "cat")


def test_what_is_left_out_is_counted(folder):
    rows = [
        {"image": "1.jpg", "question": "What?", "answer": "a"},
        {"image": "9.jpg", "question": "What?", "answer": "a"},
        {"image": None, "question": "What?", "answer": "a"},
        {"image": "1.jpg", "question": "", "answer": "a"},
        {"image": "1.jpg", "question": "What?", "answer": " "},
        {"image": "1.jpg", "question": "What? \ud83d", "answer": "a"},
        {"image": ["1.jpg", "2.jpg"], "question": "What?", "answer": "a"},
    ]
    path = write(folder / "rows.jsonl", rows)
    path.write_text(path.read_text() + '{"image": "1.jp')
    found = read_rows(path, image_folder=folder / "images")
    assert len(found.rows) == 1
    assert found.left_out == {
        "its image file does not exist": 1,
        "has no image": 1,
        "has an empty question": 1,
        "has an empty answer": 1,
        "has a lone surrogate (U+D83D) in its texts": 1,
        "has 2 images; LION reads one": 1,
        "is no JSON record": 1,
    }
    assert "1 rows, 7 left out: 1 × " in found.summary()


def test_folders(folder):
    with pytest.raises(ValueError, match="no usable row.*has no text file beside the image"):
        read_rows(folder / "images")
    (folder / "images" / "1.txt").write_text("a dog, on grass\n")
    (row,) = read_rows(folder / "images").rows
    assert (row["prompt"], row["completion"]) == (CAPTION, ["a dog, on grass"])
    write(folder / "images" / "metadata.jsonl", [{"file_name": "2.jpg", "text": "a cat"}])
    (row,) = read_rows(folder / "images").rows
    assert row["image"].endswith("2.jpg")


def test_datasets_keep_their_images(folder, tmp_path):
    images = [str(folder / "images" / f"{i}.jpg") for i in (1, 2)]
    dataset = datasets.Dataset.from_dict({"image": images, "question": ["What?", ""], "answer": ["a", "b"]})
    dataset = dataset.cast_column("image", datasets.Image())
    dataset.to_parquet(tmp_path / "rows.parquet")
    for source in (dataset, tmp_path / "rows.parquet"):
        found = read_rows(source)
        assert found.left_out == {"has an empty question": 1}
        row = found.to_dataset().cast_column("image", datasets.Image())[0]
        assert row["image"].size == SIZE
        assert row["completion"] == ["a"]


COCO_BOX, FRACTIONS = [20, 20, 80, 60], [0.1, 0.2, 0.5, 0.8]


def test_coco_captions(folder):
    content = {
        "images": [{"id": 3, "file_name": "COCO_train2014_000000000003.jpg"}, {"id": 8, "file_name": "8.jpg"}],
        "annotations": [{"image_id": 3, "caption": c} for c in ("a dog", "one dog")]
        + [{"image_id": 8, "caption": "x"}],
    }
    found = read(folder, "captions.json", content)
    assert [(row["prompt"], row["completion"]) for row in found.rows] == [(CAPTION, ["a dog", "one dog"])]
    assert found.left_out == {"its image file does not exist": 1}


def test_coco_detection_makes_rec_and_reg(folder):
    def annotation(category, box, **more):
        return {"image_id": 1, "category_id": category, "bbox": box, **more}

    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "apple"}],
        "annotations": [
            annotation(1, COCO_BOX),
            annotation(2, [0, 0, 10, 10]),
            annotation(2, [50, 0, 10, 10]),
            annotation(2, [0, 0, 100, 50], iscrowd=1),
            annotation(1, [150, 0, 100, 50], image_id=2),
            annotation(1, [190, 90, 50, 50]) | {"category_id": 3},
        ],
    }
    content["images"].append({"id": 2, "file_name": "2.jpg"})
    found = read(folder, "instances.json", content)
    rows = [(row["prompt"], row["completion"]) for row in found.rows]
    assert rows[:2] == [(REC, ["[0.100,0.200,0.500,0.800]"]), (REG, ["the dog"])]
    # Which of two apples is meant nobody could tell.
    assert [completion for _, completion in rows[2:]] == [["an apple"], ["an apple"]]
    assert {row["level"] for row in found.rows} == {"region_level"}
    assert found.left_out == {
        "is a crowd": 1,
        "has a box outside of the image": 1,
        "has an unknown category": 1,
    }


def test_vqa_questions_find_their_annotations(folder):
    questions = {
        "data_subtype": "train2014",
        "questions": [{"image_id": 3, "question_id": i, "question": "What is it?"} for i in (30, 31)],
    }
    answers = [{"answer": "dog"}, {"answer": "dog"}, {"answer": "cat"}]
    annotations = {"annotations": [{"question_id": 30, "answers": answers, "multiple_choice_answer": "dog"}]}
    name = "v2_OpenEnded_mscoco_train2014_questions.json"
    with pytest.raises(ValueError, match="name the file"):
        read(folder, name, questions)
    write(folder / "v2_mscoco_train2014_annotations.json", annotations)
    found = read(folder, name, questions)
    assert [row["completion"] for row in found.rows] == [["dog", "dog", "cat"]]
    assert found.left_out == {"has no annotation": 1}
    with pytest.raises(ValueError, match="give the file of questions"):
        read_rows(folder / "v2_mscoco_train2014_annotations.json")


def test_visual_genome_regions(folder):
    region = {"region_id": 7, "x": 20, "y": 20, "width": 80, "height": 60, "phrase": "the dog."}
    content = [{"id": 4, "url": "https://cs.stanford.edu/people/rak248/VG_100K/4.jpg", "regions": [region]}]
    found = read(folder, "region_descriptions.json", content)
    assert [(row["prompt"], row["completion"]) for row in found.rows] == [
        (REC, ["[0.100,0.200,0.500,0.800]"]),
        (REG, ["the dog"]),
    ]


def test_shikra_boxes_stand_in_the_text(folder):
    record = {
        "image": {"path": "1.jpg", "width": 200, "height": 100},
        "target": {"boxes": [[20, 20, 100, 80], [0, 0, 20, 10]]},
        "conversations": [
            {"from": "human", "value": "Is the dog <boxes> near <boxes>?", "boxes_seq": [[0], [0, 1]]},
            {"from": "gpt", "value": "yes", "boxes_seq": []},
        ],
    }
    (row,) = read(folder, "shikra.jsonl", [record]).rows
    assert row["prompt"] == (
        "Is the dog [0.100,0.200,0.500,0.800] near [0.100,0.200,0.500,0.800;0.000,0.000,0.100,0.100]?"
    )
    assert row["level"] == "region_level"
    record["conversations"][0]["boxes_seq"] = [[0]]
    with pytest.raises(ValueError, match="another number of `<boxes>`"):
        read(folder, "shikra.jsonl", [record])


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("xyxy_pixels", [20, 20, 100, 80]),
        ("xywh_pixels", COCO_BOX),
        ("xyxy_fractions", FRACTIONS),
        ("xywh_fractions", [0.1, 0.2, 0.4, 0.6]),
        ("xyxy_1000", [100, 200, 500, 800]),
    ],
)
def test_refcoco_rows_with_boxes_of_every_format(folder, box_format, box):
    rows = [{"file_name": "1.jpg", "bbox": box, "sentences": ["the dog", {"sent": "left dog"}]}]
    found = read(folder, "refcoco.jsonl", rows, box_format=box_format)
    assert [row["completion"] for row in found.rows] == [["[0.100,0.200,0.500,0.800]"]] * 2 + [["the dog", "left dog"]]
    assert f"boxes as {box_format}" in found.summary()


def boxes_of(box_format, corners):
    corners_name, unit = box_format.split("_")
    scale = {"pixels": (*SIZE, *SIZE), "1000": (1000,) * 4, "fractions": (1,) * 4}[unit]
    boxes = [[value * s for value, s in zip(box, scale)] for box in corners]
    return [[x1, y1, x2 - x1, y2 - y1] if corners_name == "xywh" else [x1, y1, x2, y2] for x1, y1, x2, y2 in boxes]


SPREAD = [
    [x / 10, y / 10, min(1.0, x / 10 + w), min(1.0, y / 10 + w)]
    for x in range(8)
    for y in range(8)
    for w in (0.15, 0.3)
]


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_the_format_of_many_boxes_is_told_by_rule(box_format):
    boxes = boxes_of(box_format, SPREAD)
    assert tell_box_format(boxes, [SIZE] * len(boxes)) == box_format
    broken = [*boxes, [5000, 5000, 9000, 9000]] if not box_format.endswith("fractions") else boxes
    assert tell_box_format(broken, [SIZE] * len(broken)) == box_format


@pytest.mark.parametrize(
    ("boxes", "size"),
    [
        ([[1, 1, 30, 30]], (40, 40)),  # pixels, or 0 to 1000
        ([[10, 10, 300, 300]] * 100, (1000, 1000)),
        ([[0.1, 0.1, 0.3, 0.3]] * 100, (40, 40)),  # corners, or corner and size
        ([[5000, 1, 2, 3]] * 100, (40, 40)),  # nothing
        ([[30, 30, 40, 40]] * 50 + [[30, 30, 5, 5]] * 50, (60, 60)),  # both kinds
    ],
)
def test_the_format_is_never_guessed(boxes, size):
    with pytest.raises(ValueError, match="can't be told.*name it"):
        tell_box_format(boxes, [size] * len(boxes))


@given(st.sampled_from(list(BOX_FORMATS)), st.lists(st.integers(0, 1000), min_size=4, max_size=4))
def test_converted_boxes_are_the_same_place(box_format, values):
    x1, x2 = sorted(value / 1000 for value in values[:2])
    y1, y2 = sorted(value / 1000 for value in values[2:])
    (box,) = boxes_of(box_format, [[x1, y1, x2, y2]])
    if x1 < x2 and y1 < y2:
        assert convert_box(box, box_format, SIZE) == pytest.approx((x1, y1, x2, y2), abs=1e-6)
    elif not box_format.startswith("xywh"):
        with pytest.raises(ValueError, match="without area"):
            convert_box(box, box_format, SIZE)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.jsonl", [{"image": "1.jpg", "words": "x"}], r"no known format: the columns are \['image', 'words'\]"),
        ("rows.json", {"something": 1}, r"an object with \['something'\]"),
        ("rows.json", [], "no known format"),
    ],
)
def test_what_nobody_knows_is_named(folder, name, content, problem):
    with pytest.raises(ValueError, match=problem):
        read(folder, name, content)


def test_files_that_cannot_be_read_are_named(folder):
    (folder / "rows.jsonl").write_bytes("prüfung".encode("latin-1"))
    with pytest.raises(ValueError, match=r"rows.jsonl: not UTF-8"):
        read_rows(folder / "rows.jsonl")
    (folder / "rows.json").write_text("[{")
    with pytest.raises(ValueError, match=r"rows.json: not JSON"):
        read_rows(folder / "rows.json")
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        read_rows("nowhere.jsonl")
    with pytest.raises(ValueError, match="`box_format`"):
        read_rows(folder / "rows.json", box_format="xyxy")
