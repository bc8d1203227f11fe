"""The benchmark runs, resumes and reports; its times are nobody's business here."""

import dataclasses
import json

import pytest
import torch
from transformers.utils import logging as transformers_logging

from laboratory.speed import __main__ as speed
from laboratory.speed import importing, training
from laboratory.speed.floors import record_attention, record_products
from laboratory.speed.generation import _same_ids
from laboratory.speed.measurement import Figure, Side, median_ratio, time_interleaved
from laboratory.speed.session import Session
from laboratory.speed.sizes import TINY, make_inputs, make_lion


@pytest.fixture
def settings_restored(monkeypatch):
    """What the program sets for its whole process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    verbosity = transformers_logging.get_verbosity()
    yield
    transformers_logging.set_verbosity(verbosity)


def run_tiny(output, *only: str) -> dict:
    arguments = ["--tiny", "--repeats", "1", "--device", "cpu", "--output", str(output)]
    assert speed.main([*arguments, *(f"--only={name}" for name in only)]) == 0
    return json.loads((output / "speed.json").read_text())["runs"]["cpu-float32"]["figures"]


@pytest.mark.usefixtures("settings_restored")
def test_every_comparison_runs_resumes_and_is_reported(tmp_path):
    names = [
        "beam-search/batch-8-beam-5",
        "decode-step/beam-5-batch-8-mixed-levels",
        "floor-with-attention/decode-step-40-rows-bfloat16",
        "floor/decode-step-40-rows-bfloat16",
        "floor/encoder-float32",
        "floor/image-float32",
        "instructblip/beam-5-batch-8",
        "questions/both-branches-greedy",
        "training-step/stage3",
    ]
    figures = run_tiny(tmp_path, *names)
    assert sorted(figures) == names
    # float32: both sides of a comparison say the same, and not one token over and over
    for name, figure in figures.items():
        if name.startswith(("instructblip", "beam-search")):
            assert figure["details"]["same_answers"] == 1
            assert figure["details"]["distinct_ids"] > 2
        assert figure["value"] > 0
        assert (figure["passed"] is None) == (figure["target"] is None)
        assert bool(figure["profile"]) == (figure["passed"] is False and not name.startswith("training"))

    report = (tmp_path / "speed.md").read_text()
    for name, figure in figures.items():
        assert f"| {name} |" in report
        assert figure["target"] is None or f"<= {figure['target']} x" in report

    assert run_tiny(tmp_path, *names) == figures


def test_the_floor_is_every_product_of_a_part():
    lion = make_lion(TINY, ["image_level"])
    with torch.no_grad():
        embeds, mask = lion.prepare_encoder_inputs(**make_inputs(TINY, 2, "cpu", torch.float32))
    side = Side("encoder", torch.no_grad()(lambda _: lion.get_encoder()(inputs_embeds=embeds, attention_mask=mask)))
    products = record_products(lion, side)
    layers = [layer for layer in lion.language_model.encoder.modules() if isinstance(layer, torch.nn.Linear)]
    assert {weight.data_ptr() for _, weight in products} == {layer.weight.data_ptr() for layer in layers}
    assert len(products) == len(layers) == TINY.t5_layers * (4 + 3 + 2)
    assert {tuple(states.shape[:2]) for states, _ in products} == {tuple(embeds.shape[:2])}
    assert not any(layer._forward_hooks for layer in layers)
    attention = record_attention(side)
    heads = (2, TINY.t5_heads, embeds.shape[1], TINY.d_model // TINY.t5_heads)
    assert [tuple(states.shape for states in one) for one in attention] == [(heads,) * 3] * TINY.t5_layers


def test_trainer_and_bare_loop_learn_the_same(capsys):
    losses = []
    for bare in (False, True):
        settings = {
            "sizes": dataclasses.asdict(TINY),
            "stage": "stage3",
            "bare": bare,
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
        }
        training.main([json.dumps(settings)])
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["peak_memory_mib"] > 0
        losses.append(result["losses"])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][2] != losses[0][0]  # the weights moved


def test_statements_of_a_failing_import_are_named():
    assert importing._run("import json") >= 0
    with pytest.raises(RuntimeError, match="import no_such_module"):
        importing._run("import no_such_module")


def test_sides_take_turns_after_a_round_that_does_not_count():
    order = []
    sides = [Side(n, lambda _, n=n: order.append(n) or len(order), lambda n=n: order.append(f"{n}'")) for n in "ab"]
    wall, processor, results = time_interleaved(sides, rounds=2, device="cpu")
    assert order == ["a'", "a", "b'", "b"] * 3
    assert [len(rounds) for rounds in (*wall, *processor)] == [2] * 4
    assert results == [10, 12]


def test_ratio_is_the_median_over_rounds():
    assert median_ratio([1.0, 20.0, 3.0], [2.0, 10.0, 2.0]) == 1.5


@pytest.mark.parametrize(("value", "passed"), [(1.084, True), (1.086, False)])
def test_a_figure_passes_as_precisely_as_it_is_reported(value, passed):
    assert Figure("name", "title", value, target=1.08).passed is passed
    assert Figure("name", "title", value).passed is None


def test_different_answers_are_an_error_in_float32(tmp_path):
    session = Session(TINY, "cpu", torch.float32, repeats=1, threads=1, output=tmp_path)
    ids = torch.zeros(2, 1 + TINY.answer_tokens, dtype=torch.long)
    other = ids.clone()
    other[0, -1] = 1
    with pytest.raises(RuntimeError, match="50%"):
        _same_ids(session)(ids, other)
    assert _same_ids(session, strict=False)(ids, other)["same_answers"] == 0.5
    with pytest.raises(RuntimeError, match="Expected answers"):
        _same_ids(session)(ids[:, 1:], ids[:, 1:])


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--new-tokens", "0"], ["--device", "tpu"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        speed.parse_arguments(arguments)
    assert arguments[0] in capsys.readouterr().err
