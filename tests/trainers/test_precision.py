import pytest
import torch

from trainers.precision import has_fast_bfloat16
from trainers.recipe import Recipe
from trainers.run import training_arguments
from trainers.stages import get_stage


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_processor_needs_instructions_for_bfloat16(without_gpu, monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bfloat16() is fast
    assert has_fast_bfloat16(use_cpu=True) is fast


@pytest.mark.parametrize("fast", [True, False])
def test_recipe_may_leave_bfloat16_to_the_device(without_gpu, monkeypatch, tmp_path, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)
    # transformers 4 leaves the precision here for accelerate, and so for the tests that follow.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    recipe = Recipe(output_dir=str(tmp_path), model="any", training={"bf16": "auto"})
    assert training_arguments(recipe, get_stage("stage1")).bf16 is fast
