"""
How far the parts of LION are from what the machine allows: each beside its bare matrix products, of the same shapes and
with the same weights, timed in turns. For one row, that is the time to read the weights once.

There are two floors. The products of the linear layers leave out what attention multiplies, and that it has to read
keys and values; `floor-with-attention` has them too. What is left above it can be saved: norms, activations, softmax,
adapters that are folded, casts and the calls themselves.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from configuration_lion.configuration_lion import LEVELS
from laboratory.speed.generation import IMAGE_LEVEL, decoder_steps
from laboratory.speed.measurement import Side
from laboratory.speed.session import Session
from laboratory.speed.sizes import make_inputs, make_lion, randomize_adapters
from modeling_lion import attention_lion
from modeling_lion.mixture_of_adapters_lion import LevelRouting


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WITH_ATTENTION = "floor-with-attention"
_FLOORS = {"floor": "the matrix products of its layers", _WITH_ATTENTION: "these and those of attention"}
# Where there is something to reach: on processors that multiply matrices of bfloat16.
_TARGETS = {"floor/encoder-bfloat16": 1.5, "floor/decode-step-40-rows-bfloat16": 1.3}
_PARTS = {
    "encoder": "the LLM's encoder, batch 1",
    "image": "tower and aggregator, batch 8",
    "decode-step-1-row": "decoder step, one row",
    "decode-step-40-rows": "decoder step, 40 rows (batch 8, 5 beams)",
}


def measure_floors(session: Session) -> None:
    """Encoder, image and decoder steps beside their bare matrix products, in float32 and bfloat16."""
    for dtype_name, dtype in DTYPES.items():
        names = {f"{floor}/{part}-{dtype_name}": (floor, part) for floor in _FLOORS for part in _PARTS}
        wanted = session.wanted(*names)
        if not wanted:
            continue
        lion = make_lion(session.sizes, LEVELS, device=session.device, dtype=dtype)
        randomize_adapters(lion)
        for name in wanted:
            floor, part = names[name]
            side = _part(session, lion, part, dtype)
            products = record_products(lion, side)
            attention = record_attention(side) if floor == _WITH_ATTENTION else []
            flop = sum(2 * states.shape[:-1].numel() * weight.numel() for states, weight in products)
            # (Scores, then the weighted sum of the values: each is so many multiplications and additions.)
            flop += sum(4 * query.numel() * key.shape[2] for query, key, _ in attention)
            session.compare(
                name,
                f"{_PARTS[part]} : {_FLOORS[floor]} ({flop / 1e9:.3g} GFLOP), {dtype_name}",
                side,
                Side("bare products", _multiply(products, attention)),
                target=_TARGETS.get(name),
                rounds_per_repeat=session.sizes.answer_tokens if "decode" in part else 1,
            )


def _part(session: Session, lion: Any, part: str, dtype: torch.dtype) -> Side:
    batch_size = 1 if part in ("encoder", "decode-step-1-row") else 8
    inputs = make_inputs(session.sizes, batch_size, session.device, dtype)
    if part == "image":
        return Side("LION", torch.no_grad()(lambda _: lion.encode_images(inputs["pixel_values"])))
    level_ids = torch.full((batch_size,), IMAGE_LEVEL, device=session.device)
    routing = LevelRouting(level_ids, reuse=True)
    with torch.no_grad():
        embeds, mask = lion.prepare_encoder_inputs(**inputs)

    @torch.no_grad()
    def encode(_: Any) -> torch.Tensor:
        return lion.get_encoder()(inputs_embeds=embeds, attention_mask=mask, routing=routing).last_hidden_state

    if part == "encoder":
        return Side("LION", encode)
    num_beams = 1 if part == "decode-step-1-row" else 5
    return decoder_steps("LION", lion, encode(None), mask, num_beams, level_ids, session.sizes.answer_tokens)


def record_products(model: nn.Module, side: Side) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What every linear layer of `model` multiplies with its weight in one run of `side`."""
    products: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [
        layer.register_forward_hook(
            lambda module, arguments, _: products.append((torch.randn_like(arguments[0]), module.weight))
        )
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    prepared = side.prepare()
    products.clear()
    side.run(prepared)
    for hook in hooks:
        hook.remove()
    return products


def record_attention(side: Side) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Query, key and value of every attention in one run of `side`: random ones that lie in memory as those do."""
    recorded: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    attend = attention_lion.attend_with_weights

    def record(module: nn.Module, *arguments: Any, **kwargs: Any) -> Any:
        query, key, value = (torch.randn_like(states) for states in arguments[:3])
        recorded.append((query, key, value))
        return attend(module, *arguments, **kwargs)

    prepared = side.prepare()
    with mock.patch.object(attention_lion, "attend_with_weights", record):
        side.run(prepared)
    return recorded


def _multiply(
    products: list[tuple[torch.Tensor, torch.Tensor]],
    attention: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> Callable[[Any], None]:
    @torch.no_grad()
    def run(_: Any) -> None:
        for states, weight in products:
            F.linear(states, weight)
        for query, key, value in attention:
            torch.matmul(torch.matmul(query, key.transpose(2, 3)), value)

    return run
