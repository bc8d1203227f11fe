import dataclasses

import pytest
import torch

from laboratory.scale import plan
from laboratory.speed.sizes import TINY, lion_config


LENGTHS = plan.Lengths(text=7, instruction=5, answer=4)


@pytest.fixture(scope="module")
def config():
    config = lion_config(TINY, adapters=())
    config._attn_implementation = "eager"  # of which the processor stores what the meta device stores
    return config


@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_what_is_counted_without_memory_is_what_there_is(config, stage):
    counted, real = (plan.count(config, stage, LENGTHS, device) for device in ("meta", "cpu"))
    # Masks of dropout and the like are not stored alike.
    inexact = ("activations", "checkpointed_activations")
    for name, value in dataclasses.asdict(real).items():
        assert getattr(counted, name) == (pytest.approx(value, rel=0.02) if name in inexact else value), name
    model = plan.stage_model(config, stage, "cpu")
    assert counted.frozen + counted.trained == sum(p.numel() for p in model.parameters())
    assert sum(counted.parts.values()) == counted.frozen + counted.trained
    # Frozen bfloat16, and float32 with its gradient and two states.
    assert counted.states == 2 * counted.frozen + 16 * counted.trained
    assert 0 < counted.checkpointed_activations < counted.activations
    assert 0 < counted.recomputed < counted.forward


def test_operations_are_those_of_the_matrices(config):
    """The feed-forward layers' share grows by what one more token of the prompt costs."""
    one = plan.count(config, "stage2", LENGTHS)
    more = plan.count(config, "stage2", dataclasses.replace(LENGTHS, text=LENGTHS.text + 1))
    text = config.text_config
    inner = text.num_heads * text.d_kv
    tokens = LENGTHS.text + 4 + 1  # with four patches and the class token
    projections = 2 * text.d_model * (4 * inner + 3 * text.d_ff + 2 * 64)
    attention = 4 * inner * ((tokens + 1) ** 2 - tokens**2)
    cross = text.num_decoder_layers * (2 * text.d_model * 2 * inner + 4 * inner * LENGTHS.answer)
    assert more.forward - one.forward == text.num_layers * (projections + attention) + cross


def test_sharing_out_saves_memory_on_each_gpu(config):
    demand = plan.count(config, "stage3", LENGTHS)
    on = [demand.memory(n, samples=2, checkpointing=True, sharded=True) for n in (2, 4, 8)]
    assert on[0] - on[1] == demand.states // 2 - demand.states // 4
    assert on == sorted(on, reverse=True)
    assert demand.memory(8, 2, checkpointing=False, sharded=False) == demand.states + 2 * demand.activations


def test_the_command_prints_every_stage(config, capsys, monkeypatch):
    monkeypatch.setattr(plan.LionConfig, "from_preset", lambda name, **changes: config)
    plan.main(["--gpus", "2", "4", "--samples", "4"])
    printed = capsys.readouterr().out
    assert printed.count("| stage3 |") == 3 + 4
    assert "FSDP on 4, checkpointed" in printed
    assert torch.get_default_dtype() == torch.float32
