"""How LION behaves as a transformers model; its numbers are in test_lion_parity.py."""

import copy
import logging
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import (
    GenerationConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionModel,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from configuration_lion import LionConfig
from modeling_lion import LionForConditionalGeneration
from tests.golden import load_golden, load_golden_model


NEW_TOKENS = 6


def tiny_config(**changes) -> LionConfig:
    """The golden sizes with a tower of six blocks."""
    golden = load_golden("all").config()
    vision = {**golden.vision_config.to_dict(), "num_hidden_layers": 6}
    aggregator = {"num_attention_heads": 4, "intermediate_size": 32}
    return load_golden("all").config(**{"vision_config": vision, "aggregator_config": aggregator, **changes})


def stock_t5(config: LionConfig, **changes) -> T5ForConditionalGeneration:
    """transformers' own LLM of that size, with the attention that all versions have."""
    text_config = copy.deepcopy(config.text_config)
    text_config._attn_implementation = "eager"
    text_config.update(changes)
    return T5ForConditionalGeneration(text_config).eval()


@pytest.fixture
def inputs(golden_all):
    return golden_all.inputs


@pytest.fixture
def labels(golden_all):
    return golden_all.labels


def levels(*level_ids: int) -> torch.Tensor:
    return torch.tensor(level_ids)


class TestInitialisation:
    def test_an_untrained_adapter_changes_nothing(self, inputs, labels):
        with_adapters = LionForConditionalGeneration(tiny_config()).eval()
        without = LionForConditionalGeneration(tiny_config(adapter_config={"adapters": []})).eval()
        missing, unexpected = without.load_state_dict(with_adapters.state_dict(), strict=False)
        assert not missing
        assert all(".adapter." in name for name in unexpected)
        for level in (0, 1):
            logits = with_adapters(**inputs, labels=labels, level_ids=torch.full((3,), level)).logits
            assert torch.equal(logits, without(**inputs, labels=labels).logits)

    def test_an_untrained_aggregator_only_normalises(self):
        model = LionForConditionalGeneration(tiny_config())
        states, context = torch.randn(2, 17, 32), [torch.randn(2, 17, 32)] * 2
        normalised = torch.nn.functional.layer_norm(states, (32,), eps=1e-12)
        assert torch.allclose(model.vision_aggregator(states, context), normalised, atol=1e-5)

    def test_routers_start_as_a_switch(self):
        model = LionForConditionalGeneration(tiny_config())
        ratios = model.language_model.encoder.block[0].layer[-1].adapter.router_ratios
        assert torch.equal(ratios, torch.eye(2)[:, :, None].expand_as(ratios))

    def test_every_adapter_has_its_place(self):
        names = [n for n, _ in LionForConditionalGeneration(tiny_config()).named_parameters() if "router" in n]
        assert len(names) == 6  # three encoder and three decoder blocks
        one = tiny_config(visual_branches=["qformer"], adapter_config={"adapters": ["image_level"]})
        one = LionForConditionalGeneration(one)
        assert not [n for n, _ in one.named_parameters() if "router" in n]


class TestInputs:
    def test_text_with_the_sentinel_elsewhere_is_left_alone(self, lion, inputs, labels):
        """Only what `soft_prompt_mask` marks is replaced."""
        doubled = inputs["input_ids"].clone()
        doubled[:, 20] = 799
        marked = lion(**{**inputs, "input_ids": doubled}, labels=labels).logits
        unmarked_prompt = dict(inputs, input_ids=doubled, soft_prompt_mask=torch.zeros_like(doubled))
        assert not torch.equal(marked, lion(**unmarked_prompt, labels=labels).logits)
        lion_without_prompt = copy.deepcopy(lion)
        lion_without_prompt.soft_prompt.weight.data.zero_()
        assert torch.equal(
            lion(**unmarked_prompt, labels=labels).logits,
            lion_without_prompt(**unmarked_prompt, labels=labels).logits,
        )

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pixel_values": None}, "pixel_values.*image_features"),
            ({"input_ids": None}, "input_ids"),
            ({"qformer_input_ids": None}, "qformer_input_ids"),
            ({"level_ids": levels(0, 1)}, r"level_ids.*\(3,\)"),
            ({"level_ids": levels(0, 1, 2)}, "level_ids.*2.*region_level"),
            ({"pixel_values": torch.zeros(2, 3, 28, 28)}, "2 images for 3 instructions"),
            ({"pixel_values": torch.zeros(3, 3, 14, 14)}, "pixel_values.*28 x 28.*14 x 14.*interpolate_pos_encoding"),
            ({"pixel_values": torch.zeros(3, 3, 42, 28)}, "pixel_values.*28 x 28.*42 x 28.*interpolate_pos_encoding"),
            ({"inputs_embeds": torch.zeros(3, 2, 64)}, "inputs_embeds.*LION makes them"),
            ({"level_ids": levels(0, 1, 0), "task_ids": levels(0, 1, 0)}, "task_ids.*former name.*level_ids"),
        ],
    )
    @pytest.mark.parametrize("method", ["forward", "generate"])
    def test_what_is_wrong_is_named(self, lion, inputs, method, changes, message):
        with pytest.raises(ValueError, match=message):
            getattr(lion, method)(**{**inputs, **changes})

    def test_other_image_sizes_with_interpolated_positions(self, lion, inputs, labels):
        larger = {**inputs, "pixel_values": torch.randn(3, 3, 42, 56), "interpolate_pos_encoding": True}
        assert lion(**larger, labels=labels).loss.isfinite()
        same = lion(**inputs, labels=labels, interpolate_pos_encoding=True).logits
        assert torch.equal(same, lion(**inputs, labels=labels).logits)

    def test_the_former_name_of_level_ids_is_taken(self, lion, inputs, labels):
        routed = {"level_ids": levels(0, 1, 0)}
        former = {"task_ids": levels(0, 1, 0)}
        assert torch.equal(
            lion(**inputs, **former, labels=labels).logits, lion(**inputs, **routed, labels=labels).logits
        )
        ids = [lion.generate(**inputs, **names, max_new_tokens=NEW_TOKENS) for names in (routed, former)]
        assert torch.equal(*ids)
        scores = [lion.score_candidates({**inputs, **names}, labels) for names in (routed, former)]
        assert torch.equal(*scores)

    def test_a_call_without_levels_is_warned_of_once(self, lion, inputs, labels, caplog):
        logger = logging.getLogger("transformers")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logger, "propagate", True)
            transformers_logging.warning_once.cache_clear()
            lion(**inputs, labels=labels)
            lion(**inputs, labels=labels)
            lion.generate(**inputs, max_new_tokens=1)
            assert len([record for record in caplog.records if "level_ids" in record.message]) == 1
            caplog.clear()
            transformers_logging.warning_once.cache_clear()
            lion(**inputs, labels=labels, level_ids=levels(1, 1, 1))
            load_golden_model("qformer")(**load_golden("qformer").inputs, labels=labels)
            assert not [record for record in caplog.records if "level_ids" in record.message]

    def test_forward_needs_something_for_the_decoder(self, lion, inputs, labels):
        with pytest.raises(ValueError, match="`labels` or `decoder_input_ids` must be given"):
            lion(**inputs)
        decoder_input_ids = lion.prepare_decoder_input_ids_from_labels(labels)
        logits = lion(**inputs, decoder_input_ids=decoder_input_ids).logits
        seen = labels != -100
        torch.testing.assert_close(logits[seen], lion(**inputs, labels=labels).logits[seen], atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("names", [("input_ids",), ("qformer_input_ids",), ("input_ids", "qformer_input_ids")])
    @torch.no_grad()
    def test_left_padding_changes_nothing(self, lion, inputs, labels, names):
        assert (inputs["attention_mask"] == 0).any()
        padded = dict(inputs)
        for name in names:
            mask = name.replace("input_ids", "attention_mask")
            belonging = [name, mask, *(["soft_prompt_mask"] if name == "input_ids" else [])]
            for row, length in enumerate(inputs[mask].sum(dim=1).tolist()):
                for each in belonging:
                    padded[each] = padded[each].clone()
                    padded[each][row] = inputs[each][row].roll(inputs[each].shape[1] - length)
        assert any(not torch.equal(padded[name], inputs[name]) for name in names)
        assert torch.equal(lion(**padded, labels=labels).logits, lion(**inputs, labels=labels).logits)
        ids = [lion.generate(**batch, max_new_tokens=NEW_TOKENS) for batch in (padded, inputs)]
        assert torch.equal(*ids)

    def test_image_level_is_the_default(self, lion, inputs, labels):
        expected = lion(**inputs, labels=labels, level_ids=levels(1, 1, 1)).logits
        assert torch.equal(lion(**inputs, labels=labels).logits, expected)

    def test_the_llm_alone_refuses_to_guess_a_level(self, lion, inputs):
        with pytest.raises(RuntimeError, match="level_ids"):
            lion.language_model(input_ids=inputs["input_ids"], decoder_input_ids=inputs["input_ids"][:, :2])

    def test_loss_is_a_share_of_the_items_in_the_batch(self, lion, inputs, labels):
        count = (labels != -100).sum()
        mean = lion(**inputs, labels=labels).loss
        assert torch.allclose(lion(**inputs, labels=labels, num_items_in_batch=count).loss, mean)
        assert torch.allclose(lion(**inputs, labels=labels, num_items_in_batch=2 * count).loss, mean / 2)

    def test_tuple_output_starts_with_the_loss(self, lion, inputs, labels):
        loss, logits, *_ = lion(**inputs, labels=labels, return_dict=False)
        assert loss.dim() == 0
        assert logits.shape[:2] == labels.shape


class TestImageFeatures:
    @torch.no_grad()
    def test_stand_for_the_image(self, lion, inputs, labels):
        features = lion.encode_images(inputs["pixel_values"])
        rest = {k: v for k, v in inputs.items() if k != "pixel_values"}
        assert torch.equal(
            lion(**rest, image_features=features, labels=labels).logits, lion(**inputs, labels=labels).logits
        )
        assert torch.equal(
            lion.generate(**rest, image_features=features, max_new_tokens=NEW_TOKENS),
            lion.generate(**inputs, max_new_tokens=NEW_TOKENS),
        )

    @torch.no_grad()
    def test_one_image_serves_all_questions(self, lion, inputs, labels):
        one = lion.encode_images(inputs["pixel_values"][:1])
        rest = {k: v for k, v in inputs.items() if k != "pixel_values"}
        repeated = dict(rest, pixel_values=inputs["pixel_values"][:1].expand(3, -1, -1, -1), labels=labels)
        assert torch.allclose(
            lion(**rest, image_features=one, labels=labels).logits, lion(**repeated).logits, atol=1e-3
        )

    @torch.no_grad()
    def test_select(self, lion, inputs):
        features = lion.encode_images(inputs["pixel_values"])
        chosen = features.select([2, 0, 0])
        assert chosen.num_images == 3
        assert torch.equal(chosen.aggregator_embeds[1], features.aggregator_embeds[0])

    def test_one_branch_alone(self, lion, inputs, labels):
        lion = copy.deepcopy(lion)
        both = lion.get_visual_embeds(
            lion.encode_images(inputs["pixel_values"]),
            inputs["qformer_input_ids"],
            inputs["qformer_attention_mask"],
        )
        lion.set_active_branches(["aggregator"])
        features = lion.encode_images(inputs["pixel_values"])
        assert features.image_embeds is None
        assert torch.equal(lion.get_visual_embeds(features), both[:, 32:])
        lion.set_active_branches(["qformer", "aggregator"])
        with pytest.raises(ValueError, match="image_features.*image_embeds"):
            lion.get_visual_embeds(features, inputs["qformer_input_ids"])
        lion.set_active_branches(["aggregator"])
        no_question = {k: v for k, v in inputs.items() if "qformer" not in k}
        assert lion(**no_question, labels=labels).loss.isfinite()
        with pytest.raises(ValueError, match="branches"):
            lion.set_active_branches(["retina"])


class TestRouting:
    def test_two_threads_with_two_levels_share_a_model(self, lion, inputs):
        def answer(level: int) -> torch.Tensor:
            return lion.generate(**inputs, level_ids=torch.full((3,), level), max_new_tokens=NEW_TOKENS)

        alone = [answer(0), answer(1)]
        assert not torch.equal(*alone)
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(answer, [0, 1] * 4))
        for i, ids in enumerate(together):
            assert torch.equal(ids, alone[i % 2])

    @pytest.mark.parametrize("gradient_checkpointing_kwargs", [None, {"use_reentrant": True}], ids=str)
    def test_gradient_checkpointing_keeps_the_levels(self, inputs, labels, gradient_checkpointing_kwargs):
        """With a frozen tower, whose outputs need no gradient."""
        golden = load_golden("all")
        config = golden.config()
        config.text_config.dropout_rate = 0.0
        config.aggregator_config.dropout = 0.0
        config.qformer_config.hidden_dropout_prob = config.qformer_config.attention_probs_dropout_prob = 0.0
        model = LionForConditionalGeneration(config).train()
        model.load_state_dict(load_golden_model("all").state_dict())
        if gradient_checkpointing_kwargs is None:
            model.vision_model.requires_grad_(False)

        def gradients() -> dict[str, torch.Tensor]:
            model.zero_grad()
            model(**inputs, labels=labels, level_ids=levels(0, 1, 0)).loss.backward()
            return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

        plain = gradients()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)
        again = gradients()
        assert plain.keys() == again.keys()
        for name in plain:
            assert torch.allclose(plain[name], again[name], rtol=1e-3, atol=1e-4), name

    def test_sampling_and_return_sequences_keep_the_levels(self, lion, inputs):
        def sample(level_ids: torch.Tensor) -> torch.Tensor:
            torch.manual_seed(0)
            return lion.generate(
                **inputs,
                level_ids=level_ids,
                do_sample=True,
                num_beams=1,
                num_return_sequences=4,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
            )

        region, mixed = sample(levels(0, 0, 0)), sample(levels(0, 1, 0))
        assert mixed.shape == (12, NEW_TOKENS + 1)
        assert torch.equal(mixed[:4], region[:4])
        assert not torch.equal(mixed[4:8], region[4:8])


class TestGeneration:
    @pytest.mark.parametrize(
        "options",
        [
            {"num_beams": 1},
            {"num_beams": 1, "use_cache": False},
            {"num_beams": 5, "use_cache": False},
            {"num_beams": 4, "num_return_sequences": 3},
            {"num_beams": 5, "decoder_input_ids": torch.tensor([[0, 17, 23]] * 3)},
        ],
        ids=str,
    )
    def test_ids_equal_those_of_stock_t5(self, lion, inputs, options):
        """The same embeddings through transformers' own T5, with the adapters left out on both sides."""
        model = LionForConditionalGeneration(lion.config).eval()
        model.load_state_dict(lion.state_dict())
        for block in [*model.language_model.encoder.block, *model.language_model.decoder.block]:
            for adapter in block.layer[-1].adapter.adapters:
                adapter.scale.data.zero_()
        stock = stock_t5(lion.config)
        weights = {k: v for k, v in model.language_model.state_dict().items() if ".adapter." not in k}
        stock.lm_head = torch.nn.Linear(*reversed(weights["lm_head.weight"].shape), bias=False)
        stock.load_state_dict(weights)

        embeds, mask = model.prepare_encoder_inputs(**inputs)
        shared = {"max_new_tokens": 8, "repetition_penalty": 1.5, "min_length": 1, "pad_token_id": 0, **options}
        expected = stock.generate(inputs_embeds=embeds, attention_mask=mask, decoder_start_token_id=0, **shared)
        assert torch.equal(model.generate(**inputs, **shared), expected)

    def test_cross_attention_is_kept_once_per_sample(self, lion, inputs):
        output = lion.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        cache = output.past_key_values
        assert cache.cross_attention_cache.layers[0].keys.shape[0] == 3
        assert cache.self_attention_cache.layers[0].keys.shape[0] == 15

    def test_cross_attention_weights_come_per_beam(self, golden_all, inputs):
        lion = load_golden_model("all", "eager")
        output = lion.generate(
            **inputs, max_new_tokens=3, num_beams=2, return_dict_in_generate=True, output_attentions=True
        )
        weights = output.cross_attentions[0][0]
        assert weights.shape[0] == 6
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)

    def test_official_decoding_is_the_default(self, lion):
        config = lion.generation_config
        assert (config.num_beams, config.max_new_tokens, config.repetition_penalty) == (5, 256, 1.5)

    def test_an_assistant_is_refused(self, lion, inputs):
        with pytest.raises(ValueError, match="`assistant_model` can't be given.*see the image"):
            lion.generate(**inputs, assistant_model=lion)

    def test_prompt_lookup(self, lion, inputs):
        one = {name: tensor[:1] for name, tensor in inputs.items()}
        options = {"num_beams": 1, "max_new_tokens": 8, "level_ids": levels(0)}
        expected = lion.generate(**one, **options)
        assert torch.equal(lion.generate(**one, **options, prompt_lookup_num_tokens=3), expected)

    @pytest.mark.parametrize("num_beams", [1, 5])
    def test_static_cache(self, lion, inputs, num_beams):
        options = {"num_beams": num_beams, "max_new_tokens": NEW_TOKENS, "level_ids": levels(0, 1, 0)}
        expected = lion.generate(**inputs, **options)
        assert torch.equal(lion.generate(**inputs, **options, cache_implementation="static"), expected)

    def test_what_is_left_open_comes_from_the_model(self, lion, inputs):
        """As in `T5ForConditionalGeneration`, whose own tests are those of the language model."""
        merged = []

        def stop(*args, **kwargs):
            merged.append(lion.language_model.generation_config)
            raise InterruptedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lion.language_model, "generate", stop)
            with pytest.raises(InterruptedError):
                lion.generate(**inputs, max_length=6)
        assert merged == [lion.generation_config]

    def test_a_generation_config_takes_its_place(self, lion, inputs):
        ids = lion.generate(**inputs, generation_config=GenerationConfig(num_beams=1, max_new_tokens=2))
        assert ids.shape[1] <= 3


class TestScoring:
    @pytest.mark.parametrize("length_normalize", [False, True])
    @torch.no_grad()
    def test_equals_one_forward_per_candidate(self, lion, inputs, labels, length_normalize):
        level_ids = levels(1, 0, 1)
        candidates = labels[:, None].expand(3, 3, -1).transpose(0, 1)  # every answer for every question
        scores = lion.score_candidates({**inputs, "level_ids": level_ids}, candidates, length_normalize)
        assert scores.shape == (3, 3)
        for column in range(3):
            answer = labels[column : column + 1].expand(3, -1)
            logits = lion(**inputs, level_ids=level_ids, labels=answer).logits.log_softmax(-1)
            mask = answer != -100
            tokens = logits.gather(-1, answer.clamp(min=0)[..., None])[..., 0] * mask
            expected = tokens.sum(-1) / (mask.sum(-1) if length_normalize else 1)
            assert torch.allclose(scores[:, column], expected, atol=1e-3)

    def test_the_same_candidates_for_all(self, lion, inputs, labels):
        everywhere = labels[:, None].expand(3, 3, -1).transpose(0, 1)
        assert torch.equal(lion.score_candidates(inputs, labels), lion.score_candidates(inputs, everywhere))

    def test_wrong_shape_is_named(self, lion, inputs, labels):
        with pytest.raises(ValueError, match="candidates"):
            lion.score_candidates(inputs, labels[:2, None])


class TestAsAPretrainedModel:
    def test_save_and_load(self, lion, inputs, labels, tmp_path):
        lion.save_pretrained(tmp_path)
        reloaded, info = LionForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        for name, weight in lion.state_dict().items():
            assert torch.equal(reloaded.state_dict()[name], weight), name
        assert torch.allclose(reloaded(**inputs, labels=labels).loss, lion(**inputs, labels=labels).loss)
        assert not reloaded.training

    def test_sharded_with_a_device_map(self, lion, inputs, labels, tmp_path):
        lion.save_pretrained(tmp_path, max_shard_size="1MB")
        reloaded = LionForConditionalGeneration.from_pretrained(tmp_path, device_map="auto")
        for name, weight in lion.state_dict().items():
            assert torch.equal(reloaded.state_dict()[name], weight), name
        assert torch.allclose(reloaded(**inputs, labels=labels).loss, lion(**inputs, labels=labels).loss)

    @pytest.mark.parametrize("share", [0.5, 0.25])
    @pytest.mark.parametrize("level_ids", [(0, 1, 0), (1, 1, 1)])
    def test_offloaded_to_disk(self, lion, inputs, labels, tmp_path, share, level_ids):
        lion.save_pretrained(tmp_path, max_shard_size="1MB")
        offloaded = LionForConditionalGeneration.from_pretrained(
            tmp_path,
            device_map="auto",
            max_memory={"cpu": int(share * lion.get_memory_footprint())},
            offload_folder=tmp_path / "offload",
        )
        assert set(offloaded.hf_device_map.values()) == {"cpu", "disk"}
        routed = {**inputs, "level_ids": levels(*level_ids)}
        with torch.no_grad():
            expected = lion(**routed, labels=labels).logits
            assert torch.allclose(offloaded(**routed, labels=labels).logits, expected, atol=1e-4)
        generated = offloaded.generate(**routed, max_new_tokens=NEW_TOKENS)
        assert torch.equal(generated, lion.generate(**routed, max_new_tokens=NEW_TOKENS))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, lion, inputs, labels, tmp_path, dtype):
        lion.save_pretrained(tmp_path)
        half = LionForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
        block = half.language_model.encoder.block[0].layer[-1]
        kept = torch.float32 if dtype == torch.float16 else dtype
        assert block.DenseReluDense.wo.weight.dtype == kept
        assert block.adapter.adapters[0].up_proj.weight.dtype == kept
        assert half.language_projection.weight.dtype == dtype
        assert half.language_model.shared.weight.dtype == dtype
        expected = lion(**inputs, labels=labels)
        outputs = half(**inputs, labels=labels, level_ids=levels(0, 1, 1))
        mixed = lion(**inputs, labels=labels, level_ids=levels(0, 1, 1))
        assert abs(outputs.loss - mixed.loss) < 0.05 * expected.loss
        assert half.generate(**inputs, level_ids=levels(0, 1, 1), max_new_tokens=4).shape[0] == 3

    def test_forward_is_exported(self, inputs, labels):
        model = LionForConditionalGeneration(tiny_config()).eval()
        arguments = {**inputs, "labels": labels, "level_ids": levels(0, 1, 0), "use_cache": False}
        exported = torch.export.export(model, (), arguments).module()
        with torch.no_grad():
            torch.testing.assert_close(exported(**arguments).logits, model(**arguments).logits, atol=1e-4, rtol=1e-4)

    def test_encoders(self, lion):
        assert lion.get_encoder() is lion.language_model.encoder
        assert lion.get_encoder(modality="image") is lion.vision_model
        assert lion.get_decoder() is lion.language_model.decoder
        with pytest.raises(ValueError, match="`modality`.*audio"):
            lion.get_encoder(modality="audio")

    @pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
    def test_attention_of_a_part(self, attn_implementation):
        other = {"eager": "sdpa", "sdpa": "eager"}[attn_implementation]
        model = LionForConditionalGeneration._from_config(tiny_config(), attn_implementation=other)
        model.set_attn_implementation({"vision_config": attn_implementation})
        assert model.vision_model.config._attn_implementation == attn_implementation
        assert model.language_model.config._attn_implementation == other

    def test_forward_compiles_as_one_graph(self, inputs, labels):
        model = LionForConditionalGeneration(tiny_config()).eval()
        arguments = {**inputs, "labels": labels, "level_ids": levels(0, 1, 0)}
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            assert torch.allclose(compiled(**arguments).logits, model(**arguments).logits, atol=1e-4)

    def test_training_reaches_every_part_but_nothing_else(self, inputs, labels):
        model = load_golden_model("all").train()
        model(**inputs, labels=labels, level_ids=levels(0, 1, 0)).loss.backward()
        without = {n for n, p in model.named_parameters() if p.grad is None}
        # The Q-Former's last text path ends behind its last self-attention.
        assert without <= {n for n in without if n.startswith("qformer.encoder.layer.3.")}

    def test_resized_vocabulary(self, inputs, labels):
        model = LionForConditionalGeneration(tiny_config()).eval()
        model.resize_token_embeddings(832)
        assert model.config.text_config.vocab_size == model.vocab_size == 832
        assert model(**inputs, labels=labels).logits.shape[-1] == 832

    def test_label_smoothing_of_the_trainer(self, inputs, labels, tmp_path):
        """transformers takes the labels away and computes the loss itself; the decoder's inputs are the collator's."""
        model = LionForConditionalGeneration(tiny_config())
        rows = [{name: tensor[row] for name, tensor in {**inputs, "labels": labels}.items()} for row in range(3)]

        def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
            batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
            return {**batch, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(batch["labels"])}

        arguments = TrainingArguments(
            tmp_path, label_smoothing_factor=0.1, max_steps=2, report_to=[], save_strategy="no", use_cpu=True
        )
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate)
        assert math.isfinite(trainer.train().training_loss)

    @pytest.mark.parametrize("preset", ["flan-t5-xl", "flan-t5-xxl"])
    def test_released_sizes_are_the_sum_of_their_parts(self, preset):
        config = LionConfig.from_preset(preset)
        width, llm_width = config.vision_config.hidden_size, config.text_config.d_model
        qformer_width, bottleneck = config.qformer_config.hidden_size, config.adapter_config.bottleneck_size
        with torch.device("meta"):
            lion = LionForConditionalGeneration(config)
            tower = InstructBlipVisionModel(config.vision_config)
            qformer = InstructBlipQFormerModel(config.qformer_config)
            llm = stock_t5(config)

        def linear(size: int, output_size: int) -> int:
            return size * output_size + output_size

        adapter = linear(llm_width, bottleneck) + linear(bottleneck, llm_width) + 1
        mixture = 2 * adapter + 2 * 2 * llm_width
        attention = 4 * linear(width, width) + 2 * width
        aggregator_layer = 2 * attention + linear(width, 3072) + linear(3072, width) + 2 * width
        # FlanT5's output layer is one of its own, which transformers 5 would tie to the embeddings all the same.
        output_layer = llm.shared.weight.numel() if llm.lm_head.weight is llm.shared.weight else 0
        parts = {
            "vision_model": tower.num_parameters(),
            "qformer": qformer.num_parameters(),
            "query_tokens": 32 * qformer_width,
            "language_projection": linear(qformer_width, llm_width),
            "vision_aggregator": 2 * aggregator_layer,
            "aggregator_norm": 2 * width,
            "aggregator_projection": linear(width, 4 * width) + linear(4 * width, llm_width),
            "soft_prompt": llm_width,
            "language_model": llm.num_parameters() + output_layer + 48 * mixture,
        }
        assert {name: sum(p.numel() for p in part.parameters()) for name, part in lion.named_children()} == parts
        assert lion.num_parameters() == sum(parts.values())


def test_candidates_are_scored_for_what_the_processor_returns(lion, golden_all):
    """Its output can be read under the former name of `level_ids` too, which is no second argument."""
    from transformers import BatchFeature

    class Output(BatchFeature):
        def __getitem__(self, item):
            return super().__getitem__("level_ids" if item == "task_ids" else item)

    inputs = golden_all.inputs
    inputs["level_ids"] = torch.ones(len(inputs["input_ids"]), dtype=torch.long)
    candidates = torch.tensor([[5, 1]])
    scores = lion.score_candidates(Output(inputs), candidates)
    assert torch.equal(scores, lion.score_candidates(inputs, candidates))
