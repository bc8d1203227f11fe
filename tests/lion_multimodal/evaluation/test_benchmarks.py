"""The definitions of the benchmarks, and rows in the schemas that they read."""

import base64
import csv
import io
import json

import pytest
from PIL import Image

from laboratory.world.scene import IMAGE_SIZE
from lion_multimodal.evaluation.benchmark import Benchmark, HubDataset, Metric
from lion_multimodal.evaluation.benchmarks import BENCHMARKS, get_benchmarks
from lion_multimodal.evaluation.metrics import METRICS
from lion_multimodal.evaluation.rows import load_image, read_examples
from processing_lion.prompts_lion import PROMPT_TEMPLATES, format_prompt
from tests.lion_multimodal.evaluation.small import benchmark


NAMES = [
    *("flickr30k", "coco_caption", "textcaps"),
    *("okvqa", "aokvqa", "gqa", "iconqa", "vsr", "visdial"),
    *(f"{family}_{part}" for family in ("refcoco", "refcoco_plus") for part in ("val", "testA", "testB")),
    *("refcocog_val", "refcocog_test", "pope", "mmbench"),
]


def image(path, color=(200, 10, 10), size=(80, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def read(name, folder):
    examples = read_examples(BENCHMARKS[name], folder.parent)
    assert not examples.unusable
    return examples


@pytest.fixture
def folder(tmp_path):
    """Makes the folder of a benchmark; contents that are no text are written as JSON."""

    def make(name, **files):
        directory = tmp_path / name
        directory.mkdir()
        for file_name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (directory / file_name.replace("__", ".")).write_text(text)
        return directory

    return make


def test_there_are_the_papers_seventeen_and_two_more():
    assert list(BENCHMARKS) == NAMES
    assert [benchmark.name for benchmark in BENCHMARKS.values()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_definition(name):
    definition = BENCHMARKS[name]
    assert definition.published
    assert definition.why
    metrics = [*definition.metrics.values(), *definition.further_metrics]
    assert {metric.name for metric in metrics} <= set(METRICS)
    levels = {PROMPT_TEMPLATES[prompt].level for prompt in definition.prompts}
    assert levels == {definition.level}
    for source in definition.sources:
        assert source.local_only or source.path.count("/") == 1
        assert source.split


def test_names():
    assert [found.name for found in get_benchmarks("all")] == NAMES
    assert [found.name for found in get_benchmarks(" pope, gqa,pope ")] == ["pope", "gqa"]
    for names, message in [
        ("", "must be 'all' or among flickr30k"),
        ("popes", "unknown benchmark popes; did you mean pope"),
        ("refcoco", "did you mean refcoco_val or refcoco_testA or refcoco_testB or refcoco_plus_val"),
        ("gqa,zzz", "unknown benchmark zzz; there are flickr30k"),
    ]:
        with pytest.raises(ValueError, match=message):
            get_benchmarks(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "pixel_level"}, "level must be one of image_level, region_level"),
        ({"prompts": ("haiku",)}, "prompts must be keys of PROMPT_TEMPLATES, got haiku"),
        ({"sources": ()}, "sources must name at least one"),
        ({"metrics": {}}, "metrics must name at least one"),
    ],
)
def test_a_wrong_definition(changes, message):
    with pytest.raises(ValueError, match=f"odd: {message}"):
        benchmark("odd", **changes)


def test_metric_of_a_part():
    parts = benchmark("parts", metrics={"a": Metric("one", "x"), "b": Metric("two", "x")})
    assert parts.metric_of("b").name == "two"
    with pytest.raises(ValueError, match="parts has the parts a, b, not 'c'"):
        parts.metric_of("c")
    assert benchmark("whole", metrics={"": Metric("one", "x")}).metric_of("any").name == "one"
    assert isinstance(parts, Benchmark)
    assert isinstance(parts.sources[0], HubDataset)


@pytest.mark.parametrize("name", NAMES)
def test_synthetic_rows(synthetic, name):
    """Every benchmark reads its counterpart whole: nothing is left out, everything can be asked."""
    definition = BENCHMARKS[name]
    examples = read(name, synthetic / name)
    assert len(examples) >= 2
    assert len({example.id for example in examples}) == len(examples)
    starts = [PROMPT_TEMPLATES[prompt].text.partition("{")[0] for prompt in definition.prompts]
    for example in examples:
        assert example.instruction.startswith(tuple(starts))
        assert example.level == definition.level
        assert example.metric_inputs["references"] not in (None, "", [])
        assert definition.metric_of(example.part)
        if example.candidates is not None:
            assert len(set(example.candidates)) == len(example.candidates) >= 2
            assert 0 <= example.metric_inputs["references"] < len(example.candidates)
        assert load_image(example).size == (IMAGE_SIZE, IMAGE_SIZE)


def test_synthetic_parts(synthetic):
    assert {example.part for example in read("pope", synthetic / "pope")} == {"random", "popular", "adversarial"}
    aokvqa = read("aokvqa", synthetic / "aokvqa")
    assert {(example.part, example.candidates is None) for example in aokvqa} == {
        ("direct_answer", True),
        ("multiple_choice", False),
    }
    assert len(read("pope", synthetic / "pope")) == 6 * len({e.image_id for e in read("pope", synthetic / "pope")}) * 3
    visdial = read("visdial", synthetic / "visdial")
    assert {len(example.candidates) for example in visdial} == {100}
    assert len(visdial) == 10 * len({example.image_id for example in visdial})


def test_karpathys_captions(folder):
    images = [
        {"imgid": 0, "cocoid": 7, "split": "train", "filename": "a.jpg", "sentences": [{"raw": "not asked"}]},
        {
            "imgid": 1,
            "cocoid": 9,
            "split": "test",
            "filename": "b.png",
            "sentences": [{"raw": "A cat. "}, {"raw": "b"}],
        },
    ]
    for name, number in (("coco_caption", "9"), ("flickr30k", "9")):
        directory = folder(name, dataset__json={"images": images, "dataset": name})
        image(directory / "images" / "b.png")
        (example,) = read(name, directory)
        assert (example.id, example.metric_inputs) == (number, {"references": ["A cat.", "b"]})
        assert example.instruction == format_prompt("caption_short")
        assert load_image(example).size == (80, 60)


def test_okvqas_own_files(folder):
    directory = folder(
        "okvqa",
        questions__json={"questions": [{"question_id": 31, "image_id": 5, "question": "What is it?"}]},
        annotations__json={
            "annotations": [
                {"question_id": 31, "image_id": 5, "answers": [{"answer": "cat", "raw_answer": "cats"}] * 10}
            ]
        },
    )
    image(directory / "images" / "COCO_val2014_000000000005.jpg")
    (example,) = read("okvqa", directory)
    assert (example.id, example.image_id, example.metric_inputs["references"]) == ("31", "5", ["cats"] * 10)
    assert example.instruction == "Question: What is it? Short answer:"


def test_aokvqas_own_file(folder):
    row = {"image_id": 5, "question_id": "q", "question": "Why?", "choices": ["a", "b"], "correct_choice_idx": 1}
    directory = folder("aokvqa", val__json=[{**row, "direct_answers": ["b"] * 9 + ["c"], "split": "val"}])
    image(directory / "images" / "val2017" / "000000000005.jpg")
    (directory / "images" / "val2017" / "000000000005.jpg").rename(directory / "images" / "000000000005.jpg")
    direct, choice = read("aokvqa", directory)
    assert direct.metric_inputs["references"] == ["b"] * 9 + ["c"]
    assert (choice.candidates, choice.metric_inputs["references"]) == (("a", "b"), 1)
    assert choice.instruction == "Question: Why? Options: (a) a (b) b. Short answer:"
    assert direct.image_id == choice.image_id == "5"


def test_gqas_own_file(folder):
    directory = folder("gqa", testdev__json={"20": {"imageId": "n1", "question": "Is it?", "answer": "yes"}})
    image(directory / "images" / "n1.jpg")
    (example,) = read("gqa", directory)
    assert (example.id, example.image_id, example.metric_inputs) == ("20", "n1", {"references": "yes"})


def test_iconqas_own_rows(folder):
    row = {"question": "How many?", "ques_type": "choose_txt", "image": "3/image.png"}
    rows = [
        {"question_id": "3", "choices": ["4", "2", "8"], "answer": 2, **row},
        {"question_id": "4", "choices": None, "answer": "9", **row, "ques_type": "fill_in_blank"},
    ]
    directory = folder("iconqa", test__json=rows)
    image(directory / "images" / "3" / "image.png")
    (example,) = read("iconqa", directory)
    # The number of a choice, not the choice.
    assert (example.candidates, example.metric_inputs["references"]) == (("4", "2", "8"), 2)


def test_popes_own_files(folder):
    row = {"image": "COCO_val2014_1.jpg", "text": "Is there a dog in the image?"}
    lines = [json.dumps({"question_id": number, **row, "label": label}) for number, label in ((1, "yes"), (2, "no"))]
    directory = folder("pope", **{f"coco_pope_{part}__json": "\n".join(lines) for part in ("random", "popular")})
    image(directory / "images" / "COCO_val2014_1.jpg")
    examples = read("pope", directory)
    assert {example.id for example in examples} == {"random/1", "random/2", "popular/1", "popular/2"}
    assert {example.part: example.metric_inputs["references"] for example in examples if example.id[-1] == "2"} == {
        "random": "no",
        "popular": "no",
    }
    assert {example.image_id for example in examples} == {"COCO_val2014_1.jpg"}


def test_mmbenchs_own_table(folder):
    written = io.BytesIO()
    Image.effect_noise((80, 60), 50).save(written, format="JPEG")
    row = {"index": 241, "question": "Which?", "hint": "Look.", "A": "one", "B": "two", "C": "", "D": "", "answer": "B"}
    row |= {"category": "x", "l2-category": "coarse_perception", "image": base64.b64encode(written.getvalue()).decode()}
    directory = folder("mmbench")
    with (directory / "dev.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), delimiter="\t")
        writer.writeheader()
        writer.writerows([row, {**row, "index": 1_000_241, "A": "two", "B": "one", "answer": "A"}])
    first, second = read("mmbench", directory)
    assert (first.candidates, first.metric_inputs["references"]) == (("one", "two"), 1)
    assert (second.candidates, second.metric_inputs["references"]) == (("two", "one"), 0)
    assert first.instruction == "Question: Look. Which? Options: (a) one (b) two. Short answer:"
    for example in (first, second):
        assert example.metric_inputs["groups"] == "241"
        assert example.metric_inputs["categories"] == "coarse_perception"
        assert load_image(example).size == (80, 60)


def test_visdials_own_files(folder):
    turns = [
        {"question": 0, "answer": 1, "answer_options": [1, 0], "gt_index": 0},
        {"question": 1, "answer": 0, "answer_options": [0, 1], "gt_index": 0},
    ]
    data = {
        "dialogs": [{"image_id": 12, "caption": "a dog", "dialog": turns}],
        "questions": ["is it big", "is it old?"],
        "answers": ["no", "yes"],
    }
    directory = folder(
        "visdial",
        visdial__json={"version": "1.0", "split": "val2018", "data": data},
        dense__json=[{"image_id": 12, "round_id": 2, "gt_relevance": [1.0, 0.5]}],
    )
    image(directory / "images" / "VisualDialog_val2018_000000000012.jpg")
    first, second = read("visdial", directory)
    assert first.instruction == "Dialog history: a dog.\nQuestion: is it big? Short answer:"
    assert second.instruction == "Dialog history: a dog. is it big? yes.\nQuestion: is it old? Short answer:"
    assert (first.candidates, second.candidates) == (("yes", "no"), ("no", "yes"))
    assert (first.metric_inputs, second.metric_inputs) == (
        {"references": 0, "relevance": []},
        {"references": 0, "relevance": [1.0, 0.5]},
    )


def test_shikras_boxes_are_corners_and_lmms_labs_are_sizes(folder):
    row = {"img_path": "a.png", "expression": "the cat", "bbox": [20, 15, 60, 45], "height": 60, "width": 80}
    directory = folder("refcoco_val", rec__jsonl=json.dumps(row))
    image(directory / "images" / "a.png")
    (example,) = read("refcoco_val", directory)
    assert example.metric_inputs["references"] == [0.25, 0.25, 0.75, 0.75]
    assert example.instruction == format_prompt("rec", expression="the cat")
    assert example.level == "region_level"

    row = {"question_id": "1", "image": "a.png", "answer": ["the cat", "it"], "bbox": [20, 15, 40, 30]}
    directory = folder("refcocog_val", val__jsonl=json.dumps({**row, "file_name": "COCO_train2014_5_0.jpg"}))
    image(directory / "images" / "a.png")
    first, second = read("refcocog_val", directory)
    assert first.metric_inputs == second.metric_inputs == {"references": [0.25, 0.25, 0.75, 0.75]}
    assert (first.image_id, second.image_id) == ("COCO_train2014_5", "COCO_train2014_5")
    assert second.instruction == format_prompt("rec", expression="it")


@pytest.mark.parametrize(
    ("name", "column", "value", "reason"),
    [
        ("okvqa", "question", " ", "'question' is empty"),
        ("okvqa", "answers", [], "'answers' holds no text"),
        ("okvqa", "answers", "cat", "'answers' must be a list of strings, got 'cat'"),
        ("aokvqa", "correct_choice_idx", 9, "'correct_choice_idx' must name one of 2 choices, got 9"),
        ("aokvqa", "direct_answers", "['cat', ", "'direct_answers' is no list"),
        ("vsr", "label", 2, "'label' must be 0 or 1, got 2"),
        ("pope", "answer", "perhaps", "the answer must be yes or no, got 'perhaps'"),
        ("pope", "category", "odd", "'category' must be one of random, popular, adversarial, got 'odd'"),
        ("mmbench", "answer", "D", "'answer' must be one of A, B, got 'D'"),
        ("iconqa", "answer", "blue", "'answer' 'blue' is none of the choices red, green"),
        ("refcocog_val", "bbox", [70, 1, 0, 5], "has no area"),
        ("refcocog_val", "bbox", [70, 1, 5], "'bbox' must be 4 finite numbers, got"),
        ("refcoco_val", "image_info", {}, "there is no 'id' in it"),
        ("refcoco_val", "ref_list", ["odd"], "another form"),
    ],
)
def test_a_row_that_cannot_be_used(folder, name, column, value, reason):
    rows = {
        "okvqa": {"question_id": "1", "image": "a.png", "question": "What?", "answers": ["cat"] * 10},
        "aokvqa": {"question_id": "1", "image": "a.png", "question": "What?", "choices": ["cat", "dog"]}
        | {"correct_choice_idx": 0, "direct_answers": "['cat', 'cat']"},
        "vsr": {"image": "a.png", "image_link": "", "caption": "The cat is left of the dog.", "label": 1},
        "pope": {"question_id": "1", "question": "Is it?", "answer": "yes", "image_source": "a", "image": "a.png"}
        | {"category": "random"},
        "mmbench": {"index": 1, "question": "What?", "hint": "nan", "A": "cat", "B": "dog", "C": "nan", "answer": "A"}
        | {"image": "a.png", "L2-category": "x"},
        "iconqa": {"question_id": "1", "question": "?", "choices": "red,green", "answer": "red", "query_image": "a.png"}
        | {"ques_type": "choose_txt"},
        "refcocog_val": {"question_id": "1", "image": "a.png", "answer": ["it"], "bbox": [1, 1, 9, 9]},
        "refcoco_val": {
            "image": "a.png",
            "image_info": {"id": 3, "width": 80, "height": 60},
            "ref_list": [
                {
                    "ann_info": {"bbox": [1, 1, 9, 9]},
                    "ref_info": {"ref_id": 1, "sentences": [{"sent": "it", "sent_id": 2}]},
                }
            ],
        },
    }
    good = rows[name]
    # The row before is good, so that the benchmark has something to ask.
    other = {key: "0" if key == "question_id" else value for key, value in good.items()}
    if name == "mmbench":
        other["index"] = 0
    directory = folder(name, rows__jsonl="\n".join(json.dumps(row) for row in (other, {**good, column: value})))
    image(directory / "images" / "a.png")
    examples = read_examples(BENCHMARKS[name], directory.parent)
    (left_out,) = examples.unusable
    assert reason in left_out["reason"]
    assert left_out["row"] == 1
    assert len(examples) >= 1
