"""Attention that all of LION's own layers share, in half precision on a CPU."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

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
