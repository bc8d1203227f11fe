"""Attention that all of LION's own layers share, in half precision on a CPU."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_lion import attention_lion
from modeling_lion.attention_lion import attend_with_weights


class Layer(nn.Module):
    """What an attention layer brings to [`attend_with_weights`]."""

    def __init__(self, implementation: str = "sdpa"):
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation=implementation)
        self.is_causal = False


def states(num_queries: int, num_keys: int = 70, batch_size: int = 3, num_heads: int = 4):
    """Query, key, value and bias in float32, of numbers that bfloat16 and float16 have as well."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch_size, num_heads, length, 16) for length in (num_queries, num_keys, num_keys)]
    shapes.append((1, num_heads, num_queries, num_keys))
    return [torch.randint(-32, 33, shape, generator=generator) / 32 for shape in shapes]


def attend(values, implementation: str = "sdpa") -> torch.Tensor:
    query, key, value, bias = values
    return attend_with_weights(Layer(implementation), query, key, value, dropout=0.0, bias=bias)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_query_is_rounded_once(dtype):
    values = states(num_queries=1)
    attended = attend([value.to(dtype) for value in values])
    assert torch.equal(attended, attend(values).to(dtype))


@torch.no_grad()
@pytest.mark.parametrize("num_queries", [1, 5])
@pytest.mark.parametrize("with_bias", [True, False])
def test_few_queries_to_many_keys_are_as_precise_as_fused(num_queries, with_bias, monkeypatch):
    monkeypatch.setattr(attention_lion, "cpu_multiplies_bfloat16", lambda: True)
    generator = torch.Generator().manual_seed(0)
    # Large scores, as T5 has them, which does not scale: in bfloat16 they would be wrong by up to an eighth.
    lengths = (num_queries, 170, 170)
    query, key, value = (torch.randn(8, 16, n, 64, generator=generator).bfloat16() for n in lengths)
    bias = torch.randn(8, 1, 1, 170, generator=generator).bfloat16() if with_bias else None
    layer, values = Layer(), (query, key, value)
    attended = attend_with_weights(layer, *values, dropout=0.0, bias=bias, scaling=1.0)[0]

    def fused(query, key, value, bias):
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return attended.transpose(1, 2).flatten(2)

    def error(attended):
        return (attended.double() - exact).square().mean().sqrt()

    exact = fused(*(states.double() for states in values), bias.double() if with_bias else None)
    assert attended.dtype == torch.bfloat16
    assert error(attended) <= 1.5 * error(fused(*values, bias))


@torch.no_grad()
@pytest.mark.parametrize("multiplies", [True, False])
def test_explicit_products_only_where_the_cpu_multiplies_bfloat16(multiplies, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": multiplies}, raising=False)
    query, key, value = (torch.ones(8, 16, length, 64).bfloat16() for length in (5, 170, 170))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        attend_with_weights(Layer(), query, key, value, dropout=0.0)
    operations = {event.name for event in profiler.events()}
    assert ("aten::scaled_dot_product_attention" in operations) is not multiplies
    assert ("aten::baddbmm" in operations) is multiplies


@torch.no_grad()
def test_dropout_is_applied_to_few_queries_to_many_keys():
    query, key, value = (torch.ones(8, 16, length, 64).bfloat16() for length in (1, 170, 170))
    layer = Layer().train()
    torch.manual_seed(0)
    assert attend_with_weights(layer, query, key, value, dropout=0.5)[0].unique().numel() > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_are_rounded_once(dtype):
    values = states(num_queries=9)
    wide = [value.clone().requires_grad_() for value in values[:3]]
    narrow = [value.to(dtype).requires_grad_() for value in values[:3]]
    expected, attended = attend([*wide, values[3]]), attend([*narrow, values[3].to(dtype)])
    assert torch.equal(attended, expected.to(dtype))
    for of_result in (expected, attended):
        of_result.sum().backward()
    for given, wanted in zip(narrow, wide):
        assert torch.equal(given.grad, wanted.grad.to(dtype))


def test_autocast_does_not_take_it_back():
    values = states(num_queries=1)
    with torch.autocast("cpu", torch.bfloat16):
        attended = attend([value.bfloat16() for value in values])
    assert torch.equal(attended, attend(values).bfloat16())


@pytest.mark.parametrize("num_queries", [1, 5])
def test_all_implementations_agree(num_queries):
    values = [value.bfloat16() for value in states(num_queries)]
    torch.testing.assert_close(attend(values), attend(values, "eager"), atol=0.02, rtol=0.02)
