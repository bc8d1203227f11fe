import sys

import datasets
import pyarrow.parquet as pq
import pytest

from tests.trainers.conftest import make_image, make_rows
from trainers.datasets_lion import ROW_FEATURES, build_dataset, load_function
from trainers.recipe import SourceRecipe
from trainers.rows import BadRowError, BadRows, open_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same rows in every form that a source may have."""
    folder = tmp_path_factory.mktemp("data")
    rows = make_rows(6)
    rows.to_parquet(folder / "rows.parquet")
    rows.save_to_disk(str(folder / "saved"))
    (folder / "pictures").mkdir()
    for i in range(6):
        make_image(i).save(folder / "pictures" / f"{i}.png")
    texts = rows.remove_columns("image").add_column("file_name", [f"{i}.png" for i in range(6)])
    texts.to_json(folder / "pictures" / "metadata.jsonl")
    texts.rename_column("file_name", "image").to_json(folder / "rows.jsonl")
    return folder


SOURCES = {
    "parquet": {"path": "{folder}/rows.parquet"},
    "save_to_disk": {"path": "{folder}/saved"},
    "imagefolder": {"path": "{folder}/pictures"},
    "jsonl": {"path": "{folder}/rows.jsonl", "image_folder": "{folder}/pictures"},
    "builder": {"builder": "tests.trainers.conftest:make_rows", "builder_kwargs": {"count": 6}},
}


def source(kind, folder, **fields) -> SourceRecipe:
    given = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in SOURCES[kind].items()}
    return SourceRecipe(**{**given, "name": kind, "tags": "column", "level": "column", **fields})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_form_gives_the_same_rows(folder, kind, streaming):
    if kind == "builder" and streaming:
        pytest.skip("a builder streams by returning an IterableDataset")
    dataset = build_dataset([source(kind, folder, streaming=streaming)], training=False)
    assert isinstance(dataset, datasets.IterableDataset) == streaming
    rows = sorted(dataset, key=lambda row: row["index"])
    assert [set(row) for row in rows] == [set(ROW_FEATURES)] * 6
    for row, original in zip(rows, make_rows(6)):
        assert row["completion"] == [original["completion"]]
        assert (row["prompt"], row["tags"], row["level"]) == (original["prompt"], original["tags"], original["level"])
        assert row["source"] == kind
        assert open_image(row["image"]).tobytes() == original["image"].tobytes()


def broken_rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "image": [
                None,
                {"bytes": None, "path": "nowhere.png"},
                *[{"bytes": b"?", "path": None}] * 4,
            ],
            "prompt": ["what?", "what?", "what?", "", "where is the cat?", "what?"],
            "completion": ["a cat", "a cat", " ", "a cat", "[0.1,0.2,1.5,0.4]", "a cat"],
        },
        features=datasets.Features(
            {
                "image": datasets.Image(decode=False),
                "prompt": datasets.Value("string"),
                "completion": datasets.Value("string"),
            }
        ),
    )


def broken_stream() -> datasets.IterableDataset:
    return broken_rows().to_iterable_dataset()


@pytest.mark.parametrize("builder", ["broken_rows", "broken_stream"])
def test_bad_rows_are_named_and_left_out(builder):
    record = BadRows()
    broken = SourceRecipe(builder=f"tests.trainers.test_datasets:{builder}", name="broken")
    rows = list(build_dataset([broken], bad_rows=record, training=False))
    assert [row["index"] for row in rows] == [5]
    assert record.summary() == {"broken": 5}

    with pytest.raises(BadRowError, match="Row 0 of 'broken' has no image"):
        list(build_dataset([broken], bad_rows=BadRows("fail"), training=False))


def test_weights_mix_map_style_sources(folder):
    sources = [source("parquet", folder, weight=3.0), source("jsonl", folder, weight=1.0)]
    dataset = build_dataset(sources, seed=0)
    drawn = [row["source"] for row in dataset]
    assert set(zip(drawn, dataset["index"])) == {(kind, i) for kind in ("parquet", "jsonl") for i in range(6)}
    assert drawn.count("parquet") > 1.5 * drawn.count("jsonl")
    assert drawn == [row["source"] for row in build_dataset(sources, seed=0)]
    assert len(build_dataset([source("parquet", folder), source("jsonl", folder)])) == 12


def test_streams_are_mixed_shuffled_and_endless(folder, monkeypatch):
    # `datasets` rests for seconds at the end of every pass over a Parquet file.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    sources = [source("parquet", folder, streaming=True, weight=3.0), source("jsonl", folder, weight=1.0)]
    keys = [(row["source"], row["index"], row["position"]) for row in build_dataset(sources, seed=0).take(24)]
    assert keys == [(row["source"], row["index"], row["position"]) for row in build_dataset(sources, seed=0).take(24)]
    assert [position for *_, position in keys] == list(range(24))
    counts = [sum(name == kind for name, *_ in keys) for kind in ("parquet", "jsonl")]
    assert counts[0] > 1.5 * counts[1]
    assert [i for name, i, _ in keys if name == "parquet"][:6] != list(range(6))


def test_templates_columns_and_boxes(folder):
    rows = make_rows(2).remove_columns(["prompt", "completion", "tags", "level"])
    rows = rows.add_column("phrase", ["the cat", "a dog"]).add_column("bbox", [[0.1, 0.2, 0.3, 0.4]] * 2)
    rows.save_to_disk(str(folder / "boxes"))
    fields = {"path": str(folder / "boxes"), "name": "rec", "columns": {"expression": "phrase", "completion": "bbox"}}
    row = build_dataset([SourceRecipe(template="rec", **fields)])[0]
    assert row["prompt"] == "In the image <image>, can you locate the cat and let me know its coordinates?"
    assert (row["completion"], row["level"], row["tags"]) == (["[0.100,0.200,0.300,0.400]"], "region_level", None)


def test_tagger_gives_the_tags(folder):
    asked = []

    def tag_rows(source, images):
        asked.append((source.name, len(images)))
        return [["cat", "dog"], None, *[[]] * 4]

    dataset = build_dataset([source("parquet", folder, tags="tagger")], tag_rows=tag_rows)
    assert dataset["tags"] == ["cat, dog", "", "", "", "", ""]
    assert asked == [("parquet", 6)]
    with pytest.raises(ValueError, match="names no `tagger`"):
        build_dataset([source("parquet", folder, tags="tagger")])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"columns": {"prompt": "question"}}, "has no column 'question' for `prompt`"),
        ({"template": "riddle"}, "`template` must be one of"),
        ({"path": "{folder}/nowhere.parquet"}, "cannot be loaded from"),
        ({"split": "test"}, "cannot be loaded from"),
    ],
)
def test_sources_that_cannot_be_used(folder, fields, problem):
    fields = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in fields.items()}
    with pytest.raises(ValueError, match=problem) as error:
        build_dataset([source("parquet", folder, **fields)])
    assert "'parquet'" in str(error.value)


def test_images_are_not_copied(folder):
    """A large dataset must not be written to the cache a second time."""
    dataset = build_dataset([source("parquet", folder)])
    rewritten = [f["filename"] for f in dataset.cache_files if "cache-" in f["filename"]]
    assert dataset.num_rows == 6
    for file in rewritten:
        table = datasets.Dataset.from_file(file)
        assert "image" not in table.column_names
    assert pq.read_table(folder / "rows.parquet").num_rows == 6


@pytest.fixture
def as_a_command(monkeypatch, tmp_path):
    """The current directory is not on Python's path, as it is not for a command that pip installs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != ""])
    yield tmp_path
    for name in ("own_rows", "own_broken_rows"):
        sys.modules.pop(name, None)


def test_function_of_a_recipe_may_be_in_the_current_directory(as_a_command):
    (as_a_command / "own_rows.py").write_text("def build(): return 7\n")
    # A file of one's own does not take a package's place.
    (as_a_command / "datasets.py").write_text("raise AssertionError\n")
    assert load_function("own_rows:build")() == 7
    assert sys.path[-1] == str(as_a_command)


def test_function_of_a_recipe_that_is_nowhere(as_a_command):
    with pytest.raises(ValueError, match=r"'own_rows.inner:build' .*'own_rows.inner'.* current directory"):
        load_function("own_rows.inner:build")
    (as_a_command / "own_broken_rows.py").write_text("import not_to_be_had\n")
    # (ModuleNotFoundError would be taken for an extra of this package.)
    with pytest.raises(ImportError, match="'own_broken_rows'.* needs 'not_to_be_had'") as caught:
        load_function("own_broken_rows:build")
    assert caught.type is ImportError
