"""What lmms-eval's tasks read, written about the synthetic world."""

import datasets
import pytest

from laboratory import lmms_eval_fixture as fixture
from laboratory.lmms_eval_fixture import OWNER, TASKS, write_fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmms_eval")
    write_fixture(folder, 6)
    return folder


def test_datasets_finds_them_in_place_of_the_hub(folder, monkeypatch, tmp_path):
    """By the names, and with the splits and options, that lmms-eval's tasks have."""
    monkeypatch.chdir(folder)
    numbers = {}
    for name, data in TASKS.items():
        found = datasets.load_dataset(f"{OWNER}/{data.dataset}", cache_dir=str(tmp_path), token=True)
        assert list(found) == [data.split]
        numbers[name] = len(found[data.split])
        image = found[data.split][0]["image"]
        assert (image[0] if isinstance(image, list) else image).size == (96, 96)
    # 18 questions a picture in POPE; some of SEED-Bench's rows have too few choices.
    assert numbers.pop("pope") == 18 * 6
    assert 1 <= numbers.pop("seedbench_ppl") <= 6
    assert numbers == {"ok_vqa_val2014": 6, "refcoco_bbox_rec_testB": 6, "flickr30k_test": 6}


def test_choices_are_those_of_the_rows_that_they_were(folder, tmp_path):
    write_fixture(tmp_path, 6, ["seedbench_ppl"])
    rows = datasets.Dataset.from_parquet(
        str(tmp_path / OWNER / "SEED-Bench" / "data" / "*.parquet"), cache_dir=str(tmp_path)
    )
    assert set(rows.column_names) == {
        *("answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_id", "data_type", "question"),
        *("question_id", "question_type_id", "image", "segment"),
    }
    assert rows.features["image"] == datasets.List(datasets.Image())
    for row in rows:
        choices = {letter: row[f"choice_{letter.lower()}"] for letter in "ABCD"}
        assert len(set(choices.values())) == 4
        assert choices[row["answer"]]
        assert len(row["image"]) == 1


def test_nothing_is_overwritten(folder):
    with pytest.raises(FileExistsError, match="POPE.*is there already"):
        write_fixture(folder, 2, ["pope"])


def test_wrong_arguments(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="tasks must be among pope, .*, got mme"):
        write_fixture(tmp_path, 2, ["pope", "mme"])
    with pytest.raises(SystemExit) as stopped:
        fixture.main([str(tmp_path), "--tasks", "mme"])
    assert stopped.value.code == 2
    assert "error: tasks must be among" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path):
    fixture.main([str(tmp_path), "--tasks", "refcoco_bbox_rec_testB", "--rows", "2"])
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["testB-00000-of-00001.parquet"]
