"""Speed of answering: beside InstructBLIP, with and without adapters, many questions on one image, beam search."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from configuration_lion.configuration_lion import LEVELS
from laboratory.speed.measurement import Side
from laboratory.speed.session import Session
from laboratory.speed.sizes import (
    make_inputs,
    make_instructblip,
    make_lion,
    make_t5,
    make_without_adapters,
    randomize_adapters,
    to_instructblip_inputs,
)
from modeling_lion.mixture_of_adapters_lion import LevelRouting


IMAGE_LEVEL = LEVELS.index("image_level")
DECODING = {"greedy": 1, "beam-5": 5}


def measure_instructblip(session: Session) -> None:
    """LION with only the Q-Former's branch, with that branch's adapter, beside InstructBLIP of the same weights."""
    cases = {
        f"instructblip/{decoding}-batch-{batch_size}": (num_beams, batch_size)
        for batch_size in (1, 8)
        for decoding, num_beams in DECODING.items()
    }
    names = session.wanted(*cases)
    if not names:
        return
    sizes = session.sizes
    lion = make_lion(sizes, ["image_level"], ["qformer"], session.device, session.dtype)
    instructblip = make_instructblip(lion, sizes)
    _align_attention(lion, instructblip)
    for name in names:
        num_beams, batch_size = cases[name]
        inputs = make_inputs(sizes, batch_size, session.device, session.dtype)
        peer_inputs = to_instructblip_inputs(inputs, instructblip.config)
        options = _generation_options(session, lion, num_beams)
        session.compare(
            name,
            f"`generate` of Q-Former-only LION : InstructBLIP, {num_beams} beam(s), batch {batch_size}",
            Side("LION", lambda _, i=inputs, o=options: lion.generate(**i, **o)),
            Side("InstructBLIP", lambda _, i=peer_inputs, o=options: instructblip.generate(**i, **o)),
            target=1.08,
            check=_same_ids(session),
        )


def measure_decode_step(session: Session) -> None:
    """One step of the decoder with two routed adapters beside the same without adapters."""
    cases: dict[str, tuple[int, int, list[int]]] = {}
    for batch_size in (1, 8):
        for decoding, num_beams in DECODING.items():
            cases[f"decode-step/{decoding}-batch-{batch_size}"] = (num_beams, batch_size, [IMAGE_LEVEL] * batch_size)
    for decoding, num_beams in DECODING.items():
        cases[f"decode-step/{decoding}-batch-8-mixed-levels"] = (num_beams, 8, [0, 1] * 4)
    names = session.wanted(*cases)
    if not names:
        return
    sizes = session.sizes
    lion = make_lion(sizes, LEVELS, device=session.device, dtype=session.dtype)
    randomize_adapters(lion)
    plain = make_without_adapters(lion, sizes)
    for name in names:
        num_beams, batch_size, levels = cases[name]
        mixed = len(set(levels)) > 1
        level_ids = torch.tensor(levels, device=session.device)
        steps = sizes.answer_tokens
        with torch.no_grad():
            inputs = make_inputs(sizes, batch_size, session.device, session.dtype)
            embeds, mask = plain.prepare_encoder_inputs(**inputs)
            # What the encoder says has no influence on how long the decoder takes: the same for both.
            encoded = plain.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        session.compare(
            name,
            f"decoder step with two routed adapters : without, {num_beams} beam(s), batch {batch_size}"
            + (", both levels in it" if mixed else ""),
            decoder_steps("with adapters", lion, encoded, mask, num_beams, level_ids, steps),
            decoder_steps("without", plain, encoded, mask, num_beams, level_ids, steps),
            target=None if mixed else 1.08,
            rounds_per_repeat=steps,
        )


def decoder_steps(
    label: str,
    model: Any,
    encoded: torch.Tensor,
    attention_mask: torch.Tensor,
    num_beams: int,
    level_ids: torch.Tensor,
    steps: int,
) -> Side:
    """
    One step after the other, `steps` of them behind a first one, which fills the cross-attention's cache and folds the
    adapters; then from the start again.
    """
    language_model = model.language_model
    tokens = level_ids.new_full((len(level_ids) * num_beams, 1), 2)

    def step(cache: EncoderDecoderCache, routing: LevelRouting) -> torch.Tensor:
        return language_model(
            encoder_outputs=BaseModelOutput(encoded),
            attention_mask=attention_mask,
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
            routing=routing,
        ).logits

    state: dict[str, Any] = {"left": 0}

    @torch.no_grad()
    def prepare() -> None:
        if state["left"] == 0:
            state["left"] = steps
            state["cache"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
            state["routing"] = LevelRouting(level_ids, reuse=True)
            step(state["cache"], state["routing"])
        state["left"] -= 1

    @torch.no_grad()
    def run(_) -> None:
        step(state["cache"], state["routing"])

    return Side(label, run, prepare)


def measure_questions(session: Session) -> None:
    """Sixteen questions on one image, encoded once and answered as a batch, beside sixteen calls."""
    layouts = {"both-branches": ("qformer", "aggregator"), "qformer-only": ("qformer",)}
    for layout, branches in layouts.items():
        cases = {f"questions/{layout}-{decoding}": num_beams for decoding, num_beams in DECODING.items()}
        names = session.wanted(*cases)
        if not names:
            continue
        sizes = session.sizes
        adapters = LEVELS if len(branches) == 2 else ("image_level",)
        lion = make_lion(sizes, adapters, branches, session.device, session.dtype)
        randomize_adapters(lion)
        questions = make_inputs(sizes, 16, session.device, session.dtype)
        image = questions.pop("pixel_values")[:1]
        for name in names:
            options = _generation_options(session, lion, cases[name])

            def together(_, options=options, lion=lion, image=image, questions=questions):
                return lion.generate(image_features=lion.encode_images(image), **questions, **options)

            def apart(_, options=options, lion=lion, image=image, questions=questions):
                rows = [{k: v[i : i + 1] for k, v in questions.items()} for i in range(16)]
                return torch.cat([lion.generate(pixel_values=image, **row, **options) for row in rows])

            session.compare(
                name,
                f"16 questions through `image_features` : 16 calls, {cases[name]} beam(s), {layout.replace('-', ' ')}",
                Side("together", torch.no_grad()(together)),
                Side("16 calls", torch.no_grad()(apart)),
                target=0.5,
                check=_same_ids(session, strict=False),
            )


def measure_beam_search(session: Session) -> None:
    """Beam search of LION's LLM, which keeps cross-attention once per sample, beside transformers' T5."""
    name = "beam-search/batch-8-beam-5"
    if not session.wanted(name):
        return
    sizes = session.sizes
    lion = make_lion(sizes, [], device=session.device, dtype=session.dtype)
    stock = make_t5(lion)
    with torch.no_grad():
        inputs = make_inputs(sizes, 8, session.device, session.dtype)
        inputs_embeds, attention_mask = lion.prepare_encoder_inputs(**inputs)
    options = {
        **_generation_options(session, lion, 5),
        "inputs_embeds": inputs_embeds,
        "attention_mask": attention_mask,
    }
    session.compare(
        name,
        f"`generate` of LION's T5 : transformers' T5, 5 beams, batch 8, {inputs_embeds.shape[1]} encoder tokens",
        Side("LION's T5", lambda _: lion.language_model.generate(**options)),
        Side("transformers' T5", lambda _: stock.generate(**options)),
        target=0.65,
        check=_same_ids(session),
    )


def _generation_options(session: Session, lion: Any, num_beams: int) -> dict[str, Any]:
    """The official decoding, with a fixed number of new tokens."""
    tokens = session.sizes.answer_tokens
    return {
        "num_beams": num_beams,
        "do_sample": False,
        "min_new_tokens": tokens,
        "max_new_tokens": tokens,
        "repetition_penalty": 1.5,
        "length_penalty": 1.0,
        "pad_token_id": lion.generation_config.pad_token_id,
        "eos_token_id": lion.generation_config.eos_token_id,
        "decoder_start_token_id": lion.generation_config.decoder_start_token_id,
    }


def _same_ids(session: Session, strict: bool = True) -> Callable[[torch.Tensor, torch.Tensor], dict[str, Any]]:
    """Both sides must have said the same; in less than float32, rounding may part them, and it is only reported."""

    def check(candidate: torch.Tensor, reference: torch.Tensor) -> dict[str, Any]:
        length = 1 + session.sizes.answer_tokens
        for ids in (candidate, reference):
            if ids.shape[-1] != length:
                raise RuntimeError(f"Expected answers of {length} ids, got {tuple(ids.shape)}.")
        same = (candidate == reference).all(dim=-1).float().mean().item()
        if strict and session.dtype == torch.float32 and same < 1:
            raise RuntimeError(f"Only {same:.0%} of the answers are the same on both sides.")
        return {"same_answers": same, "distinct_ids": candidate.unique().numel()}

    return check


def _align_attention(*models: Any) -> None:
    """A comparison is fair only with the same attention on both sides: eager, where one of them has nothing else."""
    for part in ("vision_model", "qformer", "language_model"):
        kinds = {getattr(model, part).config._attn_implementation for model in models}
        if len(kinds) > 1:
            for model in models:
                for module in getattr(model, part).modules():
                    if hasattr(getattr(module, "config", None), "_attn_implementation"):
                        module.config._attn_implementation = "eager"
