import json

import pytest
import yaml

from trainers.recipe import Recipe, RecipeError, find_recipe
from trainers.stages import STAGES


MINIMAL = {
    "output_dir": "out",
    "model": "base",
    "training": {"max_steps": 3, "learning_rate": 1e-3},
    "stages": {
        "stage1": {
            "data": [
                {"path": "a.parquet", "weight": 2},
                {"path": "b.json", "weight": 1, "columns": {"tags": "labels"}},
            ],
            "evaluation": [{"path": "v.parquet"}],
            "training": {"max_steps": 5},
        },
        "stage2": {"data": [{"builder": "some.module:make", "builder_kwargs": {"size": 3}}]},
    },
}


@pytest.fixture
def write(tmp_path):
    def write(content) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    return write


def edited(**paths):
    """MINIMAL with the values at `a__b__0__c` replaced."""
    content = json.loads(json.dumps(MINIMAL))
    for path, value in paths.items():
        *parents, last = (int(p) if p.isdigit() else p for p in path.split("__"))
        node = content
        for parent in parents:
            node = node[parent]
        node[last] = value
    return content


def test_fields_and_defaults(write):
    recipe = Recipe.load(write(MINIMAL))
    first, second = recipe.stages["stage1"].data
    assert (first.name, first.weight, first.tags, first.split) == ("a", 2.0, "none", "train")
    assert second.tags == "column"
    assert recipe.stages["stage2"].data[0].name == "make"
    assert recipe.bad_rows == "skip"


def test_settings_are_layered_stage_recipe_recipe_of_the_stage(write):
    recipe = Recipe.load(write(MINIMAL))
    first = recipe.training_arguments(STAGES["stage1"])
    second = recipe.training_arguments(STAGES["stage2"])
    assert (first["max_steps"], first["learning_rate"]) == (5, 1e-3)
    assert (second["max_steps"], second["weight_decay"]) == (3, STAGES["stage2"].training["weight_decay"])


def test_stage_3_trains_on_the_union(write):
    recipe = Recipe.load(write(MINIMAL))
    assert [s.name for s in recipe.sources(STAGES["stage3"])] == ["a", "b", "make"]
    assert [s.name for s in recipe.sources(STAGES["stage3"], evaluation=True)] == ["v"]
    own = edited(stages__stage3={"data": [{"path": "own.parquet"}]})
    assert [s.name for s in Recipe.load(write(own)).sources(STAGES["stage3"])] == ["own"]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (edited(lerning_rate=1), "unknown field 'lerning_rate'"),
        (edited(seed="many"), "seed must be int, got 'many'"),
        (edited(bad_rows="ignore"), r"bad_rows must be one of \['skip', 'fail'\], got 'ignore'"),
        (edited(model=None), "needs `model` or `stage0`"),
        (edited(stages__stage9={}), r"`stages` has \['stage9'\]"),
        (edited(stages__stage1__data__0__levl="auto"), r"stages.stage1.data\[0\]: unknown field 'levl'"),
        (edited(stages__stage1__data__0__level="pixel"), r"stages.stage1.data\[0\].level must be one of"),
        (edited(stages__stage1__data__0__weight=-1), r"stages.stage1.data\[0\]: `weight` must be positive"),
        (edited(stages__stage1__data__0__weight=None), "gives some sources a `weight` and others none"),
        (edited(stages__stage1__data__0__builder="m:f"), "needs either `path` or `builder`"),
        (edited(stages__stage1__data__1__path="a.json"), r"names \['a'\] twice"),
        (edited(stages__stage1__data__1__columns={"answer": "x"}), r"`columns` maps \['answer'\]"),
        (edited(stages__stage1__data={"path": "x"}), "stages.stage1.data must be a list"),
        (edited(stages__stage1__data__0={"path": "a", "data_files": 3}), "data_files must be str or a list or"),
        (edited(stages__stage1__data__0=3), r"stages.stage1.data\[0\] must be a mapping of fields, got 3"),
        (edited(seed=1.5), "seed must be int, got 1.5"),
        (edited(seed=True), "seed must be int, got True"),
        (edited(model=None, stage0={"kwargs": {}}), "stage0: the field 'function' is missing"),
        ("- a\n- b", "expected a mapping"),
        ("a: [", "not a YAML file"),
        ("model: x", "'output_dir' is missing"),
    ],
)
def test_errors_name_file_and_field(write, content, where):
    path = write(content)
    with pytest.raises(RecipeError, match=where) as error:
        Recipe.load(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


def test_a_field_with_nothing_behind_it_is_an_empty_mapping(write):
    source = {"path": "a.parquet", "columns": None, "builder_kwargs": None}
    recipe = Recipe.load(write(edited(training=None, stages={"stage1": {"data": [source], "training": None}})))
    assert recipe.training == recipe.stages["stage1"].training == {}
    assert recipe.stages["stage1"].data[0].columns == {}
    assert Recipe.load(write(edited(stages=None))).stages == {}


def test_what_is_passed_on_stays_as_it_is(write):
    kwargs = {"none": None, "numbers": [1, 2.0, float("inf")], "deep": {"flag": True, "name": "1"}}
    recipe = Recipe.load(write(edited(stages__stage2__data__0__builder_kwargs=kwargs)))
    assert recipe.stages["stage2"].data[0].builder_kwargs == kwargs
    assert isinstance(recipe.stages["stage2"].data[0].builder_kwargs["numbers"][1], float)


def test_overrides(write):
    recipe = Recipe.load(
        write(MINIMAL),
        [
            "training.max_steps=7",
            "stages.stage1.data.1.max_samples=4",
            "stages.stage3.training.bf16=true",
            "tagger=ram",
        ],
    )
    assert recipe.training["max_steps"] == 7
    assert recipe.stages["stage1"].data[1].max_samples == 4
    assert recipe.stages["stage3"].training == {"bf16": True}
    assert recipe.tagger == "ram"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("max_steps", "must read key=value"),
        ("stages.stage1.data.7.weight=1", "must be a number from 0 to 1"),
        ("model.name.x=1", "has no fields"),
        ("training.max_steps=[", "is not a YAML value"),
        ("sed=1", "unknown field 'sed'"),
    ],
)
def test_bad_overrides(write, override, problem):
    with pytest.raises(RecipeError, match=problem):
        Recipe.load(write(MINIMAL), [override])


def test_shipped_recipes_are_found_by_name_and_load():
    names = [path.stem for path in find_recipe("xl_one_gpu").parent.glob("*.yaml") if path.stem.startswith("xl_")]
    assert {"xl_one_gpu", "xl_eight_gpus"} <= set(names)
    for name in names:
        recipe = Recipe.load(name)
        assert all(recipe.sources(stage) for stage in STAGES.values())
    with pytest.raises(RecipeError, match="shipped recipes"):
        Recipe.load("no_such_recipe")


def test_a_recipe_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("output_dir: prüfung".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"recipe.yaml: not UTF-8 text"):
        Recipe.load(path)
    path.write_bytes(b"\xef\xbb\xbfoutput_dir: out\nmodel: base\n")
    assert Recipe.load(path).output_dir == "out"


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "1E-4", "-2e3", ".5e1"])
def test_numbers_are_read_as_people_write_them(tmp_path, number):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"output_dir: out\nmodel: base\ntraining: {{learning_rate: {number}, run_name: 1e-4b}}\n")
    recipe = Recipe.load(path, [f"training.weight_decay={number}"])
    assert recipe.training == {"learning_rate": float(number), "run_name": "1e-4b", "weight_decay": float(number)}


def test_no_is_the_name_of_a_strategy(write):
    """YAML reads it as False."""
    recipe = Recipe.load(write(MINIMAL), ["training.save_strategy=no"])
    assert recipe.training["save_strategy"] == "no"
    finetune = {"data": [{"path": "rows"}], "training": {"eval_strategy": False, "bf16": False}}
    recipe = Recipe.load(write({"model": "m", "output_dir": "o", "finetune": finetune}))
    assert recipe.finetune.training == {"eval_strategy": "no", "bf16": False}
