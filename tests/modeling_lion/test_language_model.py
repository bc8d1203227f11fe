"""LION's own T5 beside transformers', and everything around it: caches, beams, generation, attention, compilation."""

import copy
import logging
import shutil

import pytest
import torch
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from configuration_lion.configuration_lion import LionMixtureOfAdaptersConfig
from modeling_lion.attention_lion import FLEX_TAKES_BIAS
from modeling_lion.language_model_lion import LionT5ForConditionalGeneration
from modeling_lion.mixture_of_adapters_lion import LevelRouting


TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
PLAIN = {"feed_forward_proj": "relu", "tie_word_embeddings": True}


def t5_config(**changes) -> T5Config:
    sizes = {
        "vocab_size": 99,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0,
    }
    return T5Config(**{**sizes, **GATED, **changes})


def make(config: T5Config | None = None, adapters: tuple[str, ...] = (), attn_implementation: str = "sdpa"):
    """LION's LLM, with weights that are large enough for answers to depend on everything."""
    config = copy.deepcopy(config or t5_config())
    config._attn_implementation = attn_implementation
    adapter_config = LionMixtureOfAdaptersConfig(bottleneck_size=4, adapters=adapters)
    torch.manual_seed(0)
    model = LionT5ForConditionalGeneration(config, adapter_config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name or "adapter" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def stock(model: LionT5ForConditionalGeneration, attn_implementation: str = "eager") -> T5ForConditionalGeneration:
    """transformers' T5 of the same weights."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = attn_implementation
    other = T5ForConditionalGeneration(config).eval()
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".adapter." not in name}
    if model.lm_head.weight is not model.shared.weight:
        # transformers 5 ties it all the same.
        other.lm_head = torch.nn.Linear(*reversed(weights["lm_head.weight"].shape), bias=False)
    other.load_state_dict(weights)
    other.generation_config = copy.deepcopy(model.generation_config)
    return other


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(3, 30, dtype=torch.long)
    mask[1, 21:] = 0
    return {"inputs_embeds": torch.randn(3, 30, 32), "attention_mask": mask}


@pytest.fixture
def labels() -> torch.Tensor:
    torch.manual_seed(2)
    labels = torch.randint(2, 99, (3, 25))
    labels[2, 19:] = -100
    return labels


class TestAsStockT5:
    @pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
    @pytest.mark.parametrize("changes", [GATED, PLAIN], ids=["gated, untied", "plain, tied"])
    @torch.no_grad()
    def test_logits_and_loss(self, batch, labels, changes, attn_implementation):
        model = make(t5_config(**changes), attn_implementation=attn_implementation)
        ours, theirs = model(**batch, labels=labels), stock(model)(**batch, labels=labels)
        torch.testing.assert_close(ours.logits, theirs.logits, **TOLERANCE)
        torch.testing.assert_close(ours.loss, theirs.loss, **TOLERANCE)

    @torch.no_grad()
    def test_parameter_names(self):
        model = make()
        assert set(model.state_dict()) == set(stock(model).state_dict())

    @torch.no_grad()
    def test_gradients(self, batch, labels):
        model = make()
        other = stock(model)
        for candidate in (model, other):
            with torch.enable_grad():
                candidate(**batch, labels=labels).loss.backward()
        theirs = dict(other.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3, msg=name)

    @pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
    @torch.no_grad()
    def test_recorded_attentions_and_hidden_states(self, batch, labels, attn_implementation):
        model = make(attn_implementation=attn_implementation)
        recorded = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
        ours, theirs = model(**batch, labels=labels, **recorded), stock(model)(**batch, labels=labels, **recorded)
        for name in (
            "encoder_hidden_states",
            "encoder_attentions",
            "decoder_hidden_states",
            "decoder_attentions",
            "cross_attentions",
        ):
            assert len(ours[name]) == len(theirs[name]), name
            for mine, other in zip(ours[name], theirs[name]):
                torch.testing.assert_close(mine, other, **TOLERANCE)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @torch.no_grad()
    def test_half_precision(self, batch, labels, dtype):
        """As far from float32 as transformers' T5 is, with `wo` in float32 under float16 on both sides."""
        model = make()
        exact = model(**batch, labels=labels).logits
        other = stock(model)
        half = {**batch, "inputs_embeds": batch["inputs_embeds"].to(dtype)}
        errors = []
        for candidate in (model, other):
            candidate.to(dtype)
            for name, module in candidate.named_modules():
                if dtype == torch.float16 and name.endswith(".wo"):
                    module.float()
            errors.append((candidate(**half, labels=labels).logits.float() - exact).abs().mean().item())
        assert 0 < errors[0] < 1.2 * errors[1]

    @torch.no_grad()
    def test_what_leaves_the_range_of_float16_is_clamped(self, batch, labels):
        model = make().half()
        for block in model.encoder.block:
            block.layer[1].DenseReluDense.wo.weight *= 30000
        half = {**batch, "inputs_embeds": batch["inputs_embeds"].half()}
        assert model(**half, labels=labels).logits.isfinite().all()


class TestInitialisation:
    def test_as_t5_does_it(self):
        """Standard deviations of everything, beside those of transformers 4, which are those of T5's own code."""
        width, inner, ff = 64, 96, 256
        config = t5_config(d_model=width, d_kv=24, d_ff=ff, vocab_size=500)
        expected = {
            "shared": 1.0,
            "lm_head": 1.0,
            ".q": (width * 24) ** -0.5,
            ".k": width**-0.5,
            ".v": width**-0.5,
            ".o": inner**-0.5,
            "relative_attention_bias": width**-0.5,
            ".wi_0": width**-0.5,
            ".wi_1": width**-0.5,
            ".wo": ff**-0.5,
        }
        torch.manual_seed(0)
        for name, weight in LionT5ForConditionalGeneration(config).named_parameters():
            owner = name.removesuffix(".weight")
            if "layer_norm" in name:
                assert torch.equal(weight, torch.ones_like(weight))
                continue
            (std,) = [value for ending, value in expected.items() if owner.endswith(ending)]
            assert weight.std().item() == pytest.approx(std, rel=0.2), name

    def test_weights_that_a_checkpoint_lacks(self, tmp_path):
        model = make()
        kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        lacking = "encoder.block.1.layer.0.SelfAttention.k.weight"
        model.save_pretrained(tmp_path, state_dict={k: v for k, v in kept.items() if k != lacking})
        loaded, info = LionT5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == {lacking}
        weights = loaded.state_dict()
        assert weights[lacking].std().item() == pytest.approx(32**-0.5, rel=0.2)
        assert all(torch.equal(weights[name], kept[name]) for name in kept if name != lacking)

    @pytest.mark.parametrize(("changes", "tied"), [(GATED, False), (PLAIN, True)])
    def test_tied_layers(self, tmp_path, changes, tied):
        model = make(t5_config(**changes))
        model.save_pretrained(tmp_path)
        loaded = LionT5ForConditionalGeneration.from_pretrained(tmp_path)
        for candidate in (model, loaded):
            assert (candidate.lm_head.weight is candidate.shared.weight) is tied
            assert candidate.encoder.embed_tokens.weight is candidate.shared.weight
            assert candidate.decoder.embed_tokens.weight is candidate.shared.weight
        for name, weight in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name


class TestGeneration:
    @pytest.mark.parametrize(
        "options",
        [
            {"num_beams": 1},
            {"num_beams": 1, "cache_implementation": "static"},
            {"num_beams": 4, "num_return_sequences": 2},
            {"num_beams": 4, "cache_implementation": "static"},
            {"num_beams": 3, "decoder_input_ids": torch.tensor([[0, 7, 8]] * 3)},
            {
                "num_beams": 1,
                "decoder_input_ids": torch.tensor([[0, 7, 8]] * 3),
                "decoder_attention_mask": torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]]),
            },
        ],
        ids=str,
    )
    @pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
    def test_ids_are_those_of_stock_t5(self, batch, options, attn_implementation):
        model = make(t5_config(num_layers=3), attn_implementation=attn_implementation)
        shared = {**batch, "max_new_tokens": 8, "min_new_tokens": 8, "repetition_penalty": 1.5}
        expected = stock(model).generate(**shared, **{k: v for k, v in options.items() if "cache" not in k})
        assert torch.equal(model.generate(**shared, **options), expected)

    @pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
    def test_a_decoder_deeper_than_the_encoder(self, batch, options):
        model = make(t5_config(num_layers=1, num_decoder_layers=4))
        expected = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, num_beams=2, use_cache=False)
        generated = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, num_beams=2, **options)
        assert torch.equal(generated, expected)

    def test_prompt_lookup(self, batch):
        model = make()
        one = {name: tensor[:1] for name, tensor in batch.items()}
        expected = model.generate(**one, max_new_tokens=12, min_new_tokens=12)
        assert torch.equal(
            model.generate(**one, max_new_tokens=12, min_new_tokens=12, prompt_lookup_num_tokens=4), expected
        )

    def test_sampling(self, batch):
        model = make(t5_config(num_layers=3))
        other = stock(model)
        drawn = []
        for candidate in (model, other):
            torch.manual_seed(0)
            options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6, "min_new_tokens": 6}
            drawn.append(candidate.generate(**batch, **options))
        assert torch.equal(*drawn)

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_levels_follow_their_rows(self, batch, num_beams):
        model = make(adapters=("region_level", "image_level"))

        def generate(*level_ids: int) -> torch.Tensor:
            routing = LevelRouting(torch.tensor(level_ids), reuse=True)
            options = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": num_beams}
            return model.generate(**batch, routing=routing, **options)

        region, image, mixed = generate(0, 0, 0), generate(1, 1, 1), generate(0, 1, 0)
        assert not torch.equal(region, image)
        for row, source in enumerate((region, image, region)):
            assert torch.equal(mixed[row], source[row])

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_cross_attention_is_kept_once_per_sample(self, batch, num_beams):
        output = make().generate(**batch, max_new_tokens=3, num_beams=num_beams, return_dict_in_generate=True)
        cache = output.past_key_values
        assert cache.cross_attention_cache.layers[0].keys.shape[0] == 3
        assert cache.self_attention_cache.layers[0].keys.shape[0] == 3 * num_beams

    def test_recorded_attentions(self, batch):
        model = make(t5_config(num_layers=3))
        options = {"num_beams": 2, "max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True}
        ours = model.generate(**batch, output_attentions=True, **options)
        theirs = stock(model).generate(**batch, output_attentions=True, **options)
        assert len(ours.cross_attentions) == len(theirs.cross_attentions) == 3
        for mine, other in zip(ours.cross_attentions, theirs.cross_attentions):
            for layer, other_layer in zip(mine, other):
                torch.testing.assert_close(layer, other_layer, **TOLERANCE)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"max_length": 6},
            {"min_length": 9},
            {"generation_config": GenerationConfig(max_new_tokens=4)},
            {"generation_config": GenerationConfig(num_beams=3, max_new_tokens=5)},
            {"generation_config": GenerationConfig(max_length=6), "num_beams": 1},
            {"max_new_tokens": 4, "repetition_penalty": 1.0},
        ],
        ids=str,
    )
    def test_arguments_are_merged_as_everywhere(self, batch, arguments):
        model = make(t5_config(num_layers=3))
        model.generation_config.update(num_beams=2, max_new_tokens=10, repetition_penalty=1.5, min_length=1)
        model.generation_config.update(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
        expected = stock(model).generate(**batch, **copy.deepcopy(arguments))
        assert torch.equal(model.generate(**batch, **copy.deepcopy(arguments)), expected)


class TestCache:
    @pytest.mark.parametrize("kind", ["dynamic", "static"])
    @torch.no_grad()
    def test_step_by_step_is_as_at_once(self, batch, labels, kind):
        model = make(t5_config(num_layers=3))
        at_once = model(**batch, labels=labels).logits
        ids = model.prepare_decoder_input_ids_from_labels(labels)

        def cache(length: int):
            return DynamicCache() if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=length)

        past = EncoderDecoderCache(cache(40), cache(30))
        encoded = BaseModelOutput(model.encoder(**batch).last_hidden_state)
        logits = []
        for start, end in ((0, 5), (5, 6), (6, 7), (7, 12), (12, 25)):
            step = model(
                encoder_outputs=encoded,
                attention_mask=batch["attention_mask"],
                decoder_input_ids=ids[:, start:end],
                past_key_values=past,
                use_cache=True,
            )
            logits.append(step.logits)
        torch.testing.assert_close(torch.cat(logits, dim=1), at_once, **TOLERANCE)

    def test_several_rows_for_a_sample(self, batch, labels):
        model = make()
        ids = model.prepare_decoder_input_ids_from_labels(labels)
        with torch.no_grad():
            expected = [model(**batch, decoder_input_ids=ids[i : i + 1].expand(3, -1)).logits for i in range(3)]
            together = model(**batch, decoder_input_ids=ids.repeat(3, 1)).logits
        for i in range(3):
            torch.testing.assert_close(together[i::3], expected[i], **TOLERANCE)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"decoder_attention_mask": torch.ones(3, 4)}, "decoder_attention_mask.*2 columns, got 4"),
            ({"decoder_attention_mask": torch.ones(3, 1, 2, 2)}, "attention_mask.*two dimensions"),
            ({"past_key_values": DynamicCache()}, "past_key_values.*EncoderDecoderCache.*DynamicCache"),
            ({"past_key_values": "one", "cache": "the other"}, "only one of them"),
            ({"decoder_input_ids": None}, "labels.*decoder_input_ids"),
            ({"inputs_embeds": None}, "input_ids.*inputs_embeds"),
        ],
    )
    def test_what_is_wrong_is_named(self, batch, arguments, message):
        with pytest.raises(ValueError, match=message):
            make()(**{**batch, "decoder_input_ids": torch.ones(3, 2, dtype=torch.long), **arguments})

    def test_unknown_arguments_are_refused(self, batch, labels):
        with pytest.raises(TypeError, match="head_maks"):
            make()(**batch, labels=labels, head_maks=torch.ones(1))


class TestGradientCheckpointing:
    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_gradients_are_the_same(self, batch, labels, use_reentrant):
        model = make(t5_config(dropout_rate=0.0), ("region_level", "image_level")).train()
        embeds = batch["inputs_embeds"].requires_grad_()
        routing = LevelRouting(torch.tensor([0, 1, 0]))

        def gradients() -> dict[str, torch.Tensor]:
            model.zero_grad()
            model(**{**batch, "inputs_embeds": embeds}, labels=labels, routing=routing).loss.backward()
            return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

        plain = gradients()
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        again = gradients()
        for name, gradient in plain.items():
            torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


class TestGraphs:
    @torch.no_grad()
    def test_a_step_with_a_static_cache_is_one_graph(self, batch):
        model = make(t5_config(num_layers=3), ("region_level", "image_level"))
        graphs = []

        def backend(graph, _):
            graphs.append(graph)
            return graph

        compiled = torch.compile(model.forward, backend=backend, fullgraph=True)
        routing = LevelRouting(torch.tensor([1, 1, 1]), reuse=True)
        encoded = BaseModelOutput(model.encoder(**batch, routing=routing).last_hidden_state)
        logits = []
        for forward in (model.forward, compiled):
            past = EncoderDecoderCache(*(StaticCache(config=model.config, max_cache_len=n) for n in (12, 30)))
            shared = {"encoder_outputs": encoded, "attention_mask": batch["attention_mask"], "routing": routing}
            steps = []
            for step in range(5):
                ids = torch.full((3, 1), 5 + step)
                # The first step fills the cross-attention's cache and is another graph in `generate`, too.
                function = model.forward if step == 0 else forward
                outputs = function(**shared, decoder_input_ids=ids, past_key_values=past, use_cache=True)
                steps.append(outputs.logits)
            logits.append(torch.cat(steps))
        torch.testing.assert_close(*logits, **TOLERANCE)
        assert len(graphs) == 1

    @pytest.mark.skipif(not FLEX_TAKES_BIAS, reason="flex attention of transformers 4 takes no position bias")
    @pytest.mark.skipif(shutil.which("g++") is None, reason="its kernel is compiled")
    @torch.no_grad()
    def test_flex_attention(self, batch):
        """It has a bias for every head only under another name, and would leave out what is given as a mask."""
        encoder = make(t5_config(d_kv=16, num_layers=1)).encoder
        expected = encoder(**batch).last_hidden_state
        encoder.set_attn_implementation("flex_attention")
        seen = batch["attention_mask"].bool()
        torch.testing.assert_close(encoder(**batch).last_hidden_state[seen], expected[seen], **TOLERANCE)

    @pytest.mark.skipif(FLEX_TAKES_BIAS, reason="flex attention takes the position bias")
    def test_flex_attention_is_refused(self):
        with pytest.raises(ValueError, match="flex"):
            make(attn_implementation="flex_attention")


def test_sharded_by_fsdp(batch, labels, tmp_path):
    """On one process, but through everything that sharding does to parameters and blocks."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = make(adapters=("region_level", "image_level"))
    routing = LevelRouting(torch.tensor([0, 1, 0]))
    expected = model(**batch, labels=labels, routing=routing)
    expected.loss.backward()
    gradient = model.encoder.block[0].layer[1].adapter.adapters[0].up_proj.weight.grad.clone()
    model.zero_grad()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for block in (*model.encoder.block, *model.decoder.block):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        outputs = model(**batch, labels=labels, routing=routing)
        outputs.loss.backward()
        torch.testing.assert_close(outputs.logits, expected.logits, **TOLERANCE)
        sharded = model.encoder.block[0].layer[1].adapter.adapters[0].up_proj.weight.grad.full_tensor()
        torch.testing.assert_close(sharded, gradient, atol=1e-6, rtol=1e-4)
    finally:
        dist.destroy_process_group()


def test_nothing_is_said_about_this_model(batch, labels, caplog):
    """No advice of transformers on names, caches or masks."""
    with caplog.at_level(logging.WARNING, logger="transformers"):
        model = make()
        model(**batch, labels=labels)
        model.generate(**batch, max_new_tokens=3)
    assert not caplog.records
