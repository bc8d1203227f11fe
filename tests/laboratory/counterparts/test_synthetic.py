"""The synthetic counterparts: true of their images, the same for the same seed."""

import re

import pytest

from laboratory.counterparts.synthetic import main, write_synthetic
from laboratory.world.language import RELATIONS, relation_holds, scene_caption, with_article
from laboratory.world.scene import GLYPHS, SPLITS, Scene, render, sample_scene
from lion_multimodal.evaluation.benchmarks import BENCHMARKS
from lion_multimodal.evaluation.rows import load_image, read_examples


def asked(synthetic, name):
    return read_examples(BENCHMARKS[name], synthetic)


def scene_of(example) -> Scene:
    """The scene of an example whose image is named after its seed, which the image must show."""
    number = max(map(int, re.findall(r"\d+", example.image_id)))
    scene = sample_scene(number)
    assert load_image(example).tobytes() == render(scene).tobytes()
    assert number in SPLITS["test"]
    return scene


def object_named(scene, name):
    """The only object that a name without its article fits."""
    (found,) = [item for item in scene.objects if name.removeprefix("the ") in (item.name, item.glyph)]
    return found


def test_captions_name_what_is_there(synthetic):
    for example in asked(synthetic, "coco_caption"):
        assert example.metric_inputs["references"][0] == scene_caption(scene_of(example))
        assert len(example.metric_inputs["references"]) == 5


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name.startswith("refcoco")])
def test_boxes_are_those_of_the_objects(synthetic, name):
    examples = list(asked(synthetic, name))
    for example in examples:
        scene = scene_of(example)
        expression = re.search("locate (.*) and let", example.instruction).group(1)
        boxes = {item.normalized_box: item for item in scene.objects}
        item = boxes[tuple(example.metric_inputs["references"])]
        names = [words for words in (item.name, item.glyph) if words in expression]
        assert names
        if expression in (f"the {item.name}", f"the {item.glyph}"):
            assert object_named(scene, expression) is item
    # RefCOCO+ never says where something is; the others do.
    placed = [example for example in examples if re.search("left|right|above|below", example.instruction)]
    assert bool(placed) == ("plus" not in name) or "test" in name


def test_existence_questions(synthetic):
    parts = {}
    for example in asked(synthetic, "pope"):
        scene = scene_of(example)
        present = {item.glyph for item in scene.objects}
        (glyph,) = [name for name in GLYPHS if f"Is there {with_article(name)} in the image?" in example.instruction]
        assert example.metric_inputs["references"] == ("yes" if glyph in present else "no")
        parts.setdefault((example.image_id, example.part), []).append(example.metric_inputs["references"])
    assert {tuple(sorted(answers)) for answers in parts.values()} == {("no",) * 3 + ("yes",) * 3}


def test_statements_about_places(synthetic):
    for example in asked(synthetic, "vsr"):
        scene = scene_of(example)
        statement = re.search('"The (.*)."', example.instruction).group(1)
        (relation,) = [relation for relation in RELATIONS if f" is {relation} the " in statement]
        first, second = (object_named(scene, name) for name in statement.split(f" is {relation} the "))
        holds = relation_holds(relation, first, second)
        assert example.candidates[example.metric_inputs["references"]] == ("true" if holds else "false")


def test_counts_and_colours(synthetic):
    """Of the questions whose answer can be read off the scene in a line, in all benchmarks that ask them."""
    checked = 0
    for name in ("aokvqa", "visdial"):
        for example in asked(synthetic, name):
            if example.candidates is None:
                continue
            scene, truth = scene_of(example), example.candidates[example.metric_inputs["references"]]
            question = example.instruction.lower().rpartition("question: ")[2]
            if found := re.match(r"how many (\w+?)(?:e?s)? are there\?", question):
                glyphs = [item.glyph for item in scene.objects if item.glyph.startswith(found.group(1))]
                assert truth == str(len(scene.objects if found.group(1) == "object" else glyphs))
            elif found := re.match(r"what color is the (\w+)\?", question):
                assert truth == object_named(scene, found.group(1)).color
            else:
                continue
            checked += 1
    assert checked > 3


def test_the_seed_decides(synthetic, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_synthetic(tmp_path / name, 2, ["vsr", "okvqa"], seed=seed)
    for benchmark in ("vsr", "okvqa"):
        first, same, other = ([e.instruction for e in asked(tmp_path / name, benchmark)] for name in "abc")
        assert first == same
        assert first != other
        ids = [{example.image_id for example in asked(tmp_path / name, benchmark)} for name in "ac"]
        assert not ids[0] & ids[1]
    # More rows are the same rows, and further ones.
    assert [example.instruction for example in asked(synthetic, "vsr")][:2] == [
        example.instruction for example in asked(tmp_path / "a", "vsr")
    ]


def test_images_can_be_held_emptier(tmp_path):
    write_synthetic(tmp_path, 6, ["refcoco_plus_val"], most_objects=1)
    instructions = [example.instruction for example in asked(tmp_path, "refcoco_plus_val")]
    assert len(instructions) == 12  # by colour and kind, and by kind, of one object in each of six images


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_rows": 0}, ValueError, "num_rows must be between 1 and"),
        ({"benchmarks": ["popes"]}, ValueError, "benchmarks must be among .* got popes"),
        ({"split": "dev"}, ValueError, "split must be one of train, validation, test, got 'dev'"),
        ({"seed": -1}, ValueError, "seed must be between 0 and"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        write_synthetic(tmp_path, **{"num_rows": 1, "benchmarks": ["vsr"], **arguments})
    assert not list(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    main([str(tmp_path), "--rows", "1", "--benchmarks", "vsr"])
    assert len(asked(tmp_path, "vsr")) == 1
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--rows", "1", "--benchmarks", "vsr"])
    assert stopped.value.code == 2
    assert "is there already" in capsys.readouterr().err
