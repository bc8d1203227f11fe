"""`python -m lmms_eval --model lion`, where lmms-eval is installed: the extra `lmms-eval`."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import datasets
import pytest

from laboratory.lmms_eval_fixture import OWNER, write_fixture
from lion_multimodal import checkpoints
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.tagger_lion import LionTagger
from processing_lion.processing_lion import LionProcessor
from processing_lion.prompts_lion import format_prompt
from tests.lion_multimodal.evaluation.lmms_eval.requests import (
    Instance,
    generate_request,
    scene_rows,
    scenes,
    score_requests,
)


pytest.importorskip("lmms_eval")

NANO = checkpoints.path("nano")
TASKS = ("pope", "refcoco_bbox_rec_testB", "seedbench_ppl")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder in which lmms-eval was run from its command line, with its results and samples by task."""
    folder = tmp_path_factory.mktemp("run")
    write_fixture(folder, 4, TASKS)
    command = [sys.executable, "-m", "lmms_eval", "--model", "lion", "--model_args", f"pretrained={NANO}"]
    command += ["--tasks", ",".join(TASKS), "--batch_size", "3", "--device", "cpu"]
    command += ["--output_path", "out", "--log_samples", "--verbosity", "DEBUG"]
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (report,) = (folder / "out").rglob("*_results.json")
    samples = {}
    for task in TASKS:
        (file,) = (folder / "out").rglob(f"*_samples_{task}.jsonl")
        samples[task] = [json.loads(line) for line in file.read_text().splitlines()]
    return folder, json.loads(report.read_text())["results"], samples, done.stdout + done.stderr


@pytest.fixture(scope="module")
def parts():
    model = LionForConditionalGeneration.from_pretrained(NANO).eval()
    return model, LionProcessor.from_pretrained(NANO), LionTagger.from_pretrained(NANO)


def rows_of(folder, dataset):
    files = str(folder / OWNER / dataset / "data" / "*.parquet")
    return datasets.Dataset.from_parquet(files, cache_dir=str(folder / "cache"))


def inputs_of(parts, image, instruction, task):
    _, processor, tagger = parts
    tags = ", ".join(tagger(image)[0])
    return processor(images=image, text=instruction, tags=tags, level=task, return_tensors="pt")


def test_pope(run, parts):
    folder, results, samples, output = run
    model, processor, _ = parts
    answers = []
    for row in rows_of(folder, "POPE"):
        inputs = inputs_of(parts, row["image"], format_prompt("vqa", question=row["question"]), "image_level")
        ids = model.generate(**inputs, num_beams=1, max_new_tokens=128, min_length=0, do_sample=False)
        answers.append((processor.batch_decode(ids, skip_special_tokens=True)[0].strip(), row["answer"]))
    assert [sample["filtered_resps"] for sample in samples["pope"]] == [answer for answer, _ in answers]
    right = [answer == truth for answer, truth in answers]
    assert results["pope"]["pope_accuracy,none"] == pytest.approx(sum(right) / len(right))
    assert results["pope"]["pope_accuracy,none"] > 0.8
    assert "pope is asked in LION's words: 'Question: Is there" in output


def test_referring_expressions(run, parts):
    folder, results, samples, _ = run
    model, processor, _ = parts
    found = iter(samples["refcoco_bbox_rec_testB"])
    overlaps = []
    for row in rows_of(folder, "RefCOCO"):
        for expression in row["answer"]:
            inputs = inputs_of(parts, row["image"], format_prompt("rec", expression=expression), "region_level")
            text = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0].strip()
            assert next(found)["filtered_resps"] == text
            box = [float(number) * 96 for number in re.findall(r"\d\.\d+", text)]
            left, top, width, height = row["bbox"]
            shared = max(0, min(box[2], left + width) - max(box[0], left))
            shared *= max(0, min(box[3], top + height) - max(box[1], top))
            overlaps.append(shared / (width * height + (box[2] - box[0]) * (box[3] - box[1]) - shared))
    assert next(found, None) is None
    got = results["refcoco_bbox_rec_testB"]
    assert got["refcoco_IoU,none"] == pytest.approx(sum(overlaps) / len(overlaps), abs=1e-5)
    assert got["refcoco_ACC@0.5,none"] == pytest.approx(sum(o >= 0.5 for o in overlaps) / len(overlaps))
    assert got["refcoco_ACC@0.5,none"] > 0.8


def test_choices_by_likelihood(run, parts):
    folder, results, samples, _ = run
    model, processor, _ = parts
    right = []
    for row, sample in zip(rows_of(folder, "SEED-Bench"), samples["seedbench_ppl"], strict=True):
        choices = [row[f"choice_{letter}"] for letter in "abcd"]
        inputs = inputs_of(parts, row["image"][0], format_prompt("vqa", question=row["question"]), "image_level")
        scores = model.score_candidates(inputs, processor.encode_candidates(choices), length_normalize=True)[0]
        losses = [float(loss) for loss, _ in sample["filtered_resps"]]
        assert losses == pytest.approx([-score for score in scores.tolist()], abs=1e-4)
        right.append("ABCD"[int(scores.argmax())] == row["answer"])
    assert results["seedbench_ppl"]["acc,none"] == pytest.approx(sum(right) / len(right))


def test_losses_pass_lmms_evals_cache_and_evaluator(tmp_path):
    """Through its cache twice: nothing comes back as a string."""
    from lmms_eval.api.instance import unwrap_generation_output
    from lmms_eval.caching.response_cache import ResponseCache

    from lion_multimodal.evaluation.lmms_eval_lion.model import Lion

    lion = Lion(str(NANO), device="cpu", tags="none")
    lion.task_dict["choices"] = {"test": scene_rows(scenes(1))}
    requests = score_requests("What color is it? Answer :", ["red", "blue"], 0)
    loss, is_greedy = unwrap_generation_output(lion.loglikelihood(requests)[0])[0]
    assert loss > 0
    assert isinstance(is_greedy, bool)
    for _ in range(2):
        cache = ResponseCache.create(str(tmp_path), model="lion", model_args={}, task_dict={})
        outputs = cache.execute(lion, "loglikelihood", requests)
        cache.finalize(success=True, dist_backend="accelerate", accelerator=None)
        assert unwrap_generation_output(outputs[0])[0] == (pytest.approx(loss, abs=1e-5), is_greedy)


def test_the_stand_ins_have_the_shape_of_its_requests():
    from lmms_eval.api.instance import Instance as TheirInstance

    assert [field.name for field in dataclasses.fields(Instance)] == [
        field.name for field in dataclasses.fields(TheirInstance)
    ]


def test_plugin():
    from lmms_eval.models import MODEL_REGISTRY_V2

    from lion_multimodal.evaluation.lmms_eval_lion.model import Lion

    assert MODEL_REGISTRY_V2.get_model_class("lion") is Lion
    assert MODEL_REGISTRY_V2.resolve("lion").model_type == "simple"


def test_model():
    from lion_multimodal.evaluation.lmms_eval_lion.model import Lion

    lion = Lion.create_from_arg_string(f"pretrained={NANO},tags=none,num_beams=1", {"batch_size": "2", "device": "cpu"})
    lion.task_dict["words"] = {"test": scene_rows(scenes(1))}
    request = generate_request("How many objects are there?\nAnswer the question using a single word or phrase.", 0)
    assert lion.generate_until([request]) == [str(len(scenes(1)[0].objects))]
    with pytest.raises(NotImplementedError, match="words is a conversation of several rounds"):
        lion.generate_until_multi_round([request])
    lion.clean()
    with pytest.raises(RuntimeError, match="freed"):
        lion.generate_until([request])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tags": "column"}, ValueError, "tags must be tagger or none, got 'column'"),
        ({"batch_size": "auto"}, ValueError, "batch_size must be a number, got 'auto'"),
        ({"prompts": "mine"}, ValueError, "prompts must be one of lion, task"),
        ({"temperature": 1}, TypeError, "temperature"),
    ],
)
def test_wrong_arguments(options, error, message):
    from lion_multimodal.evaluation.lmms_eval_lion.model import Lion

    with pytest.raises(error, match=message):
        Lion(str(NANO), device="cpu", **options)
