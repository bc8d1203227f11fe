"""From rows to a report: interrupted, continued, by one process and by two."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from lion_multimodal import checkpoints
from lion_multimodal.cli.main import main
from lion_multimodal.evaluation.answering import Answerer
from lion_multimodal.evaluation.rows import DataUnavailableError
from lion_multimodal.evaluation.runner import OtherSettingsError, evaluate
from tests.lion_multimodal.evaluation.small import MIXED, WORDS, Agreement, benchmark, reader, world_examples


NANO = checkpoints.path("nano")
ROOT = Path(__file__).parents[3]
EXAMPLES = world_examples(4)
WORD_EXAMPLES = [example for example in EXAMPLES if example.part == "words"]
READ = reader(mixed=EXAMPLES, words=WORD_EXAMPLES)
KILLED = "refcoco_val,iconqa"


def run(output, benchmarks=(MIXED,), read=READ, **options):
    fields = {"batch_size": 2, "tags": "none", "device": "cpu", "load_metric": Agreement, **options}
    return evaluate(NANO, list(benchmarks), output, read=read, **fields)


def predictions(output):
    """The lines of all predictions, by benchmark."""
    files = sorted((output / "predictions").iterdir())
    assert all(file.suffix == ".jsonl" for file in files)
    return {file.stem: [json.loads(line) for line in file.read_text().splitlines()] for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    report = run(output, [MIXED, WORDS, benchmark("absent")])
    return output, report


def test_what_a_run_leaves(whole):
    output, report = whole
    assert {path.name for path in output.iterdir()} == {
        *("predictions", "results", "sheets", "settings.json", "report.json", "report.md", "sheet.png"),
    }
    lines = predictions(output)
    assert [line["id"] for line in lines["mixed"]] == [example.id for example in EXAMPLES]
    for line, example in zip(lines["mixed"], EXAMPLES, strict=True):
        assert line["instruction"] == example.instruction
        assert line["references"] == example.metric_inputs["references"]
        assert ("scores" in line) == (example.candidates is not None)
        if example.candidates is not None:
            assert line["answer"] == example.candidates[line["scores"].index(max(line["scores"]))]
    content = json.loads((output / "report.json").read_text())
    assert [entry["name"] for entry in content["benchmarks"]] == sorted(["mixed", "words", "absent"])
    assert content["settings"]["model"] == "nano"
    assert len(content["settings"]["weights_sha256"]) == 64


def test_figures_are_those_of_the_predictions(whole):
    output, report = whole
    mixed = next(found for found in report.benchmarks if found.name == "mixed")
    lines = {line["id"]: line for line in predictions(output)["mixed"]}
    for score in mixed.scores:
        part = [example for example in EXAMPLES if example.part == score.part]
        given = [lines[example.id].get("scores", lines[example.id]["answer"]) for example in part]
        truth = [example.metric_inputs["references"] for example in part]
        assert score.value == pytest.approx(
            100 * Agreement("agreement").compute(predictions=given, references=truth)["accuracy"]
        )
        assert score.samples == len(part)
    assert {score.part for score in mixed.scores} == {"words", "choices", "boxes"}
    assert (mixed.examples, mixed.answered) == (len(EXAMPLES), len(EXAMPLES))


def test_what_is_left_out_is_counted(whole):
    _, report = whole
    mixed = next(found for found in report.benchmarks if found.name == "mixed")
    assert mixed.left_out == 1
    assert mixed.reasons == [{"row": 7, "id": "seven", "reason": "it has no answer"}]


def test_a_missing_data_set_does_not_stop_the_others(whole):
    output, report = whole
    absent = next(found for found in report.benchmarks if found.name == "absent")
    assert absent.error == "no dataset of absent"
    assert len(report.evaluated) == 2
    assert "- Absent: no dataset of absent" in (output / "report.md").read_text()


def test_paths_stay_private(whole):
    output, _ = whole
    for file in ("report.json", "report.md", "results/mixed.json"):
        text = (output / file).read_text()
        assert "/data/secret" not in text
        assert str(output) not in text


def test_a_image_that_cannot_be_decoded(tmp_path):
    lost = EXAMPLES[0].image_id
    broken = [
        example if example.image_id != lost else replace(example, image="no/such/picture.png") for example in EXAMPLES
    ]
    report = run(tmp_path, read=reader(mixed=broken))
    (mixed,) = report.benchmarks
    number = sum(example.image_id == lost for example in EXAMPLES)
    assert mixed.left_out == number + 1
    assert mixed.answered == len(EXAMPLES) - number
    assert sum(score.samples for score in mixed.scores) == mixed.answered
    assert "picture.png" in mixed.reasons[1]["reason"]
    assert f"- Mixed: {number + 1}" in (tmp_path / "report.md").read_text()

    # Asked again when the image is there again: only those.
    asked = count_questions(partial(run, tmp_path, read=READ))
    assert asked == number
    assert json.loads((tmp_path / "report.json").read_text())["benchmarks"][0]["left_out"] == 1


def count_questions(call):
    """How many questions the model answers during a call."""
    answered = []
    original = Answerer.answer

    def answer(self, *arguments, **options):
        for found, lost in original(self, *arguments, **options):
            answered.extend(found)
            yield found, lost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "answer", answer)
        call()
    return len(answered)


def test_nothing_can_be_answered(tmp_path):
    broken = [replace(example, image=None) for example in WORD_EXAMPLES]
    report = run(tmp_path, [WORDS, MIXED], read=reader(words=broken, mixed=EXAMPLES[:2]))
    failed = next(found for found in report.benchmarks if found.name == "words")
    assert failed.error.startswith(f"none of its {len(broken)} questions could be answered (the image of")
    assert [found.name for found in report.evaluated] == ["mixed"]


def test_a_metric_that_cannot_be_computed(tmp_path):
    definition = benchmark("words", metrics={"": MIXED.metrics["words"]}, published={})
    report = run(tmp_path, [definition], load_metric=lambda name: Agreement("spice"))
    assert report.benchmarks[0].error == "the metric agreement cannot be computed: spice needs what is not there"
    # Nothing is asked again once it can.
    assert count_questions(lambda: run(tmp_path, [definition])) == 0
    assert json.loads((tmp_path / "report.json").read_text())["benchmarks"][0]["error"] is None


def test_a_run_that_is_repeated_asks_nothing(whole):
    output, report = whole
    before = {file: file.read_bytes() for file in (output / "predictions").iterdir()}
    assert count_questions(lambda: run(output, [MIXED, WORDS])) == 0
    assert {file: file.read_bytes() for file in (output / "predictions").iterdir()} == before
    again = json.loads((output / "report.json").read_text())
    assert [entry["scores"] for entry in again["benchmarks"] if entry["scores"]] == [
        json.loads(json.dumps([score.__dict__ for score in found.scores])) for found in report.evaluated
    ]


def test_other_settings_are_refused(whole, tmp_path):
    output, _ = whole
    for options, message in [
        ({"tags": "column"}, "tags was 'none' and is 'column'"),
        ({"limit": 3}, "limit was None and is 3"),
        ({"dtype": "bfloat16"}, "dtype was 'float32' and is 'bfloat16'"),
    ]:
        with pytest.raises(OtherSettingsError, match=message):
            run(output, **options)
    changed = [replace(EXAMPLES[0], instruction="What else?"), *EXAMPLES[1:]]
    with pytest.raises(OtherSettingsError, match="mixed: examples_sha256 was"):
        run(output, read=reader(mixed=changed))
    (tmp_path / "settings.json").write_text("nonsense")
    with pytest.raises(OtherSettingsError, match=r"settings\.json is no JSON"):
        run(tmp_path)


def test_a_run_stopped_by_an_error_goes_on(whole, tmp_path):
    output, _ = whole
    original, batches = Answerer._generate, []

    def fail(self, *arguments):
        batches.append(None)
        if len(batches) > 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "_generate", fail)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    (part,) = (tmp_path / "predictions").iterdir()
    done = part.read_text().splitlines()
    assert 0 < len(done) < len(EXAMPLES)
    # What a kill in the middle of a line leaves.
    part.write_text("\n".join(done) + '\n{"id": "torn')
    assert count_questions(lambda: run(tmp_path)) == len(EXAMPLES) - len(done)
    assert (tmp_path / "predictions" / "mixed.jsonl").read_bytes() == (
        output / "predictions" / "mixed.jsonl"
    ).read_bytes()


def copied(whole, tmp_path):
    return Path(shutil.copytree(whole[0], tmp_path / "copied"))


@pytest.mark.parametrize("content", ["", '{"name": "wo', "[]", "null"])
def test_a_torn_result_is_left_out_and_made_again(whole, tmp_path, content, caplog):
    output = copied(whole, tmp_path)
    (output / "results" / "words.json").write_text(content)
    report = run(output, [MIXED])
    assert "words.json is no whole report" in caplog.text
    assert "words" not in {benchmark.name for benchmark in report.evaluated}
    again = run(output, [WORDS])
    assert {benchmark.name for benchmark in again.evaluated} == {"mixed", "words"}
    assert json.loads((output / "results" / "words.json").read_text())["run"]["answered"] == 0


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_torn_strip_is_drawn_again(whole, tmp_path, content):
    output = copied(whole, tmp_path)
    for name in ("mixed", "words"):
        (output / "sheets" / f"{name}.png").write_bytes(content)
    (output / "sheet.png").write_bytes(content)
    run(output, [MIXED])
    with Image.open(output / "sheet.png") as sheet:
        sheet.load()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"evaluation": 1}'])
def test_torn_settings_are_named(whole, tmp_path, content):
    output = copied(whole, tmp_path)
    (output / "settings.json").write_text(content)
    with pytest.raises(OtherSettingsError, match=r"settings\.json.*give another output folder"):
        run(output)


def test_limit(tmp_path):
    report = run(tmp_path, limit=3)
    assert report.benchmarks[0].examples == 3
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        run(tmp_path, limit=0)


def test_a_data_dir_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="data_dir must be a folder"):
        run(tmp_path, data_dir=tmp_path / "nowhere")


def test_errors_of_reading_are_one_line(tmp_path):
    error = DataUnavailableError("no\n  such set")
    report = run(tmp_path, read=reader(mixed=error))
    assert report.benchmarks[0].error == "no such set"
    assert not report.evaluated


def command(*arguments, launch=()):
    return [
        sys.executable,
        "-m",
        *launch,
        "lion_multimodal.cli.main",
        "eval",
        "--model",
        str(NANO),
        *map(str, arguments),
    ]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def uninterrupted(synthetic, tmp_path_factory):
    """What the command gives for the benchmarks that are killed below."""
    output = tmp_path_factory.mktemp("uninterrupted")
    arguments = command("--benchmark", KILLED, "--data-dir", synthetic, "--output", output, *SLOW)[4:]
    assert main(["eval", *arguments[0:]]) == 0
    return output


# An image at a time, so that there is time to kill between them.
SLOW = ("--batch-size", "1", "--device", "cpu")


def figures(output):
    """All of a report that does not tell how long it took or how often it was started."""
    content = json.loads((output / "report.json").read_text())
    for entry in content["benchmarks"]:
        del entry["run"]
    return content["benchmarks"], content["settings"]


def test_killed_and_resumed_equals_uninterrupted(uninterrupted, synthetic, tmp_path):
    arguments = command("--benchmark", KILLED, "--data-dir", synthetic, "--output", tmp_path, *SLOW)
    expected = predictions(uninterrupted)
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    patience = time.monotonic() + 300
    while process.poll() is None and written(tmp_path) < 3 and time.monotonic() < patience:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done, total = written(tmp_path), sum(map(len, expected.values()))
    assert 3 <= done < total

    # Complete lines survive, so the rest is all that is asked.
    assert count_questions(lambda: main(arguments[3:])) == total - done
    assert predictions(tmp_path) == expected
    for name in expected:
        own, other = (folder / "predictions" / f"{name}.jsonl" for folder in (tmp_path, uninterrupted))
        assert own.read_bytes() == other.read_bytes()
    assert figures(tmp_path) == figures(uninterrupted)


def written(output):
    """How many complete lines of predictions there are; files may move away meanwhile."""
    lines: set[bytes] = set()
    for file in sorted((output / "predictions").glob("*")):
        with suppress(FileNotFoundError):
            lines.update(file.read_bytes().split(b"\n")[:-1])
    return len(lines)


def test_two_processes_give_what_one_gives(uninterrupted, synthetic, tmp_path):
    # `--multi_gpu` is how accelerate starts several processes; without GPUs they run on CPUs.
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launch += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m")
    arguments = command("--benchmark", KILLED, "--data-dir", synthetic, "--output", tmp_path, *SLOW, launch=launch)
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert predictions(tmp_path) == predictions(uninterrupted)
    assert figures(tmp_path) == figures(uninterrupted)
    content = json.loads((tmp_path / "report.json").read_text())
    assert {entry["run"]["processes"] for entry in content["benchmarks"]} == {2}
    assert done.stdout.count("| RefCOCO val |") == 1
