"""LION's stages as PEFT adapters: attach, train, save, load, switch, route, fold."""

import copy
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers.integrations.peft import MIN_PEFT_VERSION
from transformers.utils import logging as transformers_logging

from configuration_lion.configuration_lion import LEVELS, LionConfig
from lion_multimodal.conversion.checkpoint import convert_lion_checkpoint
from modeling_lion import LionAdapterConfig, LionAdapterModel, LionForConditionalGeneration
from modeling_lion.peft_lion import combine_adapters, fold_adapters, initialize_adapter
from tests.golden import LAYOUTS, load_golden, load_golden_model


QFORMER_PARTS = ["qformer", "query_tokens", "vision_model.post_layernorm", "language_projection", "soft_prompt"]
AGGREGATOR_PARTS = ["vision_aggregator", "aggregator_norm", "aggregator_projection", "soft_prompt"]
BATCHES = [(0, 0, 0), (1, 1, 1), (0, 1, 0)]


def tiny_config(**changes) -> LionConfig:
    """The golden sizes with a tower of six blocks, no dropout and no adapters."""
    golden = load_golden("all").config()
    fields = {
        "vision_config": {**golden.vision_config.to_dict(), "num_hidden_layers": 6},
        "qformer_config": {
            **golden.qformer_config.to_dict(),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "text_config": {**golden.text_config.to_dict(), "dropout_rate": 0.0, "dense_act_fn": "gelu"},
        "aggregator_config": {"num_attention_heads": 4, "intermediate_size": 32, "dropout": 0.0},
        "adapter_config": {"adapters": []},
    }
    return load_golden("all").config(**{**fields, **changes})


def make_base(**changes) -> LionForConditionalGeneration:
    """The same weights every time."""
    torch.manual_seed(0)
    return LionForConditionalGeneration(tiny_config(**changes)).eval()


def image_level(**changes) -> LionAdapterConfig:
    return LionAdapterConfig(
        **{"adapters": ["image_level"], "bottleneck_size": 4, "trained_modules": QFORMER_PARTS, **changes}
    )


def region_level(**changes) -> LionAdapterConfig:
    return LionAdapterConfig(
        **{"adapters": ["region_level"], "bottleneck_size": 4, "trained_modules": AGGREGATOR_PARTS, **changes}
    )


@torch.no_grad()
def pretend_training(model: torch.nn.Module, marks: tuple[str, ...] = ("lion_adapter_",), seed: int = 1) -> None:
    """Move every weight whose name holds one of `marks`."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in marks):
            parameter += (0.3 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


def make_stages(base: LionForConditionalGeneration | None = None) -> PeftModel:
    """A trained stage-1 and a trained stage-2 adapter, both active."""
    torch.manual_seed(2)
    model = get_peft_model(make_base() if base is None else base, image_level(), adapter_name="stage1")
    model.add_adapter("stage2", region_level())
    pretend_training(model)
    model.base_model.set_adapter(["stage1", "stage2"])
    return model.eval()


@pytest.fixture(scope="module")
def stages() -> PeftModel:
    """Read-only for the tests, but for which adapters are active."""
    return make_stages()


@pytest.fixture(scope="module")
def folder(stages, tmp_path_factory):
    """`stages` in files."""
    folder = tmp_path_factory.mktemp("adapters")
    stages.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def combined() -> PeftModel:
    """`stages` and the stage 3 that follows from them."""
    model = make_stages()
    combine_adapters(model, image_level="stage1", region_level="stage2", name="stage3")
    return model


@pytest.fixture(autouse=True)
def both_active(request) -> None:
    if "stages" in request.fixturenames:
        request.getfixturevalue("stages").base_model.set_adapter(["stage1", "stage2"])


@pytest.fixture
def inputs(golden_all):
    return golden_all.inputs


@pytest.fixture
def labels(golden_all):
    return golden_all.labels


@pytest.fixture
def logits(inputs, labels):
    @torch.no_grad()
    def of(model: torch.nn.Module, level_ids: tuple[int, ...] = (0, 1, 0)) -> torch.Tensor:
        return model(**inputs, labels=labels, level_ids=torch.tensor(level_ids)).logits

    return of


@pytest.fixture
def answers(inputs):
    def of(model: torch.nn.Module, level_ids: tuple[int, ...] = (0, 1, 0), **kwargs) -> torch.Tensor:
        return model.generate(**inputs, level_ids=torch.tensor(level_ids), max_new_tokens=6, **kwargs)

    return of


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_base_and_an_adapter_give_the_official_numbers(layout):
    """Everything that LION trains lies in the adapter; the base has other weights in its place."""
    golden = load_golden(layout)
    adapters = golden.config().adapter_config.adapters
    converted = convert_lion_checkpoint(golden.official_state_dict, golden.config())
    base = LionForConditionalGeneration(golden.config(adapter_config={"adapters": []})).eval()
    parts = [name for name in dict.fromkeys(QFORMER_PARTS + AGGREGATOR_PARTS) if f"{name}." in "".join(converted)]
    frozen = {k: v for k, v in converted.items() if not k.startswith(tuple(f"{part}." for part in parts))}
    base.load_state_dict({k: v for k, v in frozen.items() if ".adapter." not in k}, strict=False)

    config = LionAdapterConfig(
        adapters=adapters, bottleneck_size=golden.config().adapter_config.bottleneck_size, trained_modules=parts
    )
    model = get_peft_model(base, config).eval()
    trained = {
        f"base_model.model.{part}.lion_adapter_modules.default{name.removeprefix(part)}": tensor
        for name, tensor in converted.items()
        for part in parts
        if name.startswith(f"{part}.")
    }
    for name, tensor in converted.items():
        layer, is_adapter, rest = name.partition(".adapter.")
        if is_adapter:
            trained[f"base_model.model.{layer}.lion_adapter_mixtures.default.{rest}"] = tensor
    assert not model.load_state_dict(trained, strict=False).unexpected_keys

    built_in = load_golden_model(layout)
    for candidate in (model, fold_adapters(model)):
        for index, level in enumerate(LEVELS):
            batch = {**golden.inputs, "level_ids": torch.full((3,), index)}
            with torch.no_grad():
                logits = candidate(**batch, labels=golden.labels).logits
                same = built_in(**batch, labels=golden.labels).logits
            torch.testing.assert_close(logits, same, atol=1e-5, rtol=1e-5)
            official = golden.tensors[f"logits_{level}"]
            torch.testing.assert_close(logits, official, atol=1e-4 + 1e-4 * official.abs().max().item(), rtol=0)
            generated = candidate.generate(**batch, max_new_tokens=12)
            assert torch.equal(generated, golden.tensors[f"generated_ids_{level}"])


class TestAttaching:
    def test_a_new_adapter_changes_nothing(self, logits):
        base = make_base()
        before = logits(base)
        model = get_peft_model(base, image_level(visual_branches=["qformer", "aggregator"]))
        assert isinstance(model.base_model, LionAdapterModel)
        assert torch.equal(logits(model), before)

    def test_only_the_active_adapter_is_trainable(self):
        base = make_base()
        sizes = {name: sum(p.numel() for p in base.get_submodule(name).parameters()) for name in QFORMER_PARTS}
        model = get_peft_model(base, image_level(), adapter_name="stage1")
        model.add_adapter("stage2", region_level())
        width, layers = base.config.text_config.d_model, 2 * base.config.text_config.num_layers
        adapter_size = layers * (2 * 4 * width + 4 + width + 1)
        assert model.get_nb_trainable_parameters()[0] == sum(sizes.values()) + adapter_size
        assert all("stage1" in name for name, p in model.named_parameters() if p.requires_grad)
        model.set_adapter("stage2")
        assert all("stage2" in name for name, p in model.named_parameters() if p.requires_grad)

    def test_wrapped_modules_look_like_the_modules(self, stages):
        lion = stages.get_base_model()
        copies = lion.query_tokens.lion_adapter_modules
        assert lion.query_tokens.weight is copies["stage1"].weight
        assert lion.vision_model.post_layernorm.eps == lion.config.qformer_input_layer_norm_eps
        assert lion.qformer.config.hidden_size == lion.config.qformer_config.hidden_size
        with stages.disable_adapter():
            assert lion.query_tokens.weight is lion.query_tokens.base_layer.weight

    @pytest.mark.parametrize("order", [["stage1", "stage2"], ["stage2", "stage1"]])
    def test_the_last_active_adapter_with_a_module_wins(self, stages, order):
        stages.base_model.set_adapter(order)
        soft_prompt = stages.get_base_model().soft_prompt
        assert soft_prompt.weight is soft_prompt.lion_adapter_modules[order[-1]].weight
        assert torch.equal(fold_adapters(stages).soft_prompt.weight, soft_prompt.weight)

    def test_modules_to_save_work_as_everywhere(self, logits, tmp_path):
        config = image_level(trained_modules=["soft_prompt"], modules_to_save=["qformer"])
        model = get_peft_model(make_base(), config).eval()
        pretend_training(model, ("lion_adapter_", "modules_to_save"))
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(make_base(), tmp_path)
        assert torch.equal(logits(loaded), logits(model))
        assert torch.equal(logits(fold_adapters(model)), logits(model))

    def test_a_copy_is_independent(self, stages, logits):
        before = logits(stages)
        duplicate = copy.deepcopy(stages)
        assert torch.equal(logits(duplicate), before)
        duplicate.set_adapter("stage2")
        assert stages.get_base_model().active_branches == ("qformer", "aggregator")
        assert torch.equal(logits(stages), before)


class TestRouting:
    def test_each_adapter_adds_to_its_own_level_alone(self, logits):
        model = make_stages()
        before = logits(model)
        pretend_training(model, ("lion_adapter_mixtures.stage1.",))
        after = logits(model)
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        assert not torch.allclose(after[1], before[1], atol=1e-3)

    def test_one_active_adapter_adds_to_every_level(self, stages, logits):
        stages.set_adapter("stage1")
        assert torch.equal(logits(stages, (0, 0, 0)), logits(stages, (1, 1, 1)))

    def test_samples_do_not_depend_on_their_neighbours(self, stages, logits):
        alone = {level: logits(stages, (level,) * 3) for level in (0, 1)}
        assert not torch.allclose(alone[0], alone[1], atol=1e-3)
        for row, level in enumerate((1, 0, 1)):
            torch.testing.assert_close(logits(stages, (1, 0, 1))[row], alone[level][row], atol=1e-5, rtol=1e-5)

    def test_threads_with_different_levels_share_a_model(self, stages, answers):
        expected = [answers(stages, level_ids) for level_ids in BATCHES]
        with ThreadPoolExecutor(len(BATCHES)) as pool:
            results = pool.map(lambda level_ids: answers(stages, level_ids), BATCHES * 2)
        assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected * 2))

    def test_the_level_is_needed(self, stages):
        ids = torch.tensor([[3]])
        with pytest.raises(RuntimeError, match="level_ids"):
            stages.get_base_model().language_model(input_ids=ids, decoder_input_ids=ids)


class TestBranches:
    def test_they_follow_the_active_adapters(self):
        base = make_base()
        model = get_peft_model(base, image_level(), adapter_name="stage1")
        assert base.active_branches == ("qformer",)
        model.add_adapter("stage2", region_level())
        assert base.active_branches == ("qformer",)
        model.set_adapter("stage2")
        assert base.active_branches == ("aggregator",)
        with model.disable_adapter():
            assert base.active_branches == ("qformer", "aggregator")
        assert base.active_branches == ("aggregator",)
        model.base_model.set_adapter(["stage2", "stage1"])
        assert base.active_branches == ("qformer", "aggregator")
        model.delete_adapter("stage1")
        assert base.active_branches == ("aggregator",)
        assert model.unload().active_branches == ("qformer", "aggregator")

    def test_a_shared_adapter_sees_all(self):
        base = make_base()
        get_peft_model(base, LionAdapterConfig(adapters=["shared"]))
        assert base.active_branches == ("qformer", "aggregator")

    @pytest.mark.parametrize("deleted", ["stage1", "stage2"])
    def test_deleting_the_active_adapter_activates_the_other_everywhere(self, deleted, logits):
        other = {"stage1": "stage2", "stage2": "stage1"}[deleted]
        model = make_stages()
        model.set_adapter(other)
        expected = logits(model)
        model.set_adapter(deleted)
        model.delete_adapter(deleted)
        assert model.base_model.active_adapters == [other]
        assert torch.equal(logits(model), expected)
        assert not any(deleted in name for name, _ in model.named_modules())


class TestSaving:
    def test_files(self, folder):
        for name, config in {"stage1": image_level(), "stage2": region_level()}.items():
            saved = json.loads((folder / name / "adapter_config.json").read_text())
            assert saved["peft_type"] == "LION_ADAPTER"
            for field in ("adapters", "bottleneck_size", "trained_modules", "visual_branches"):
                assert saved[field] == getattr(config, field)
            weights = load_file(folder / name / "adapter_model.safetensors")
            assert not any(".stage" in key or "base_layer" in key for key in weights)
            owners = {key.removeprefix("base_model.model.").split(".lion_adapter_")[0] for key in weights}
            assert {owner for owner in owners if not owner.startswith("language_model.")} == set(config.trained_modules)

    @pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
    def test_loaded_adapters_give_the_same(self, folder, stages, logits, low_cpu_mem_usage):
        model = PeftModel.from_pretrained(
            make_base(), folder / "stage1", adapter_name="first", low_cpu_mem_usage=low_cpu_mem_usage
        )
        result = model.load_adapter(folder / "stage2", adapter_name="second", low_cpu_mem_usage=low_cpu_mem_usage)
        assert not result.missing_keys
        assert not result.unexpected_keys
        model.base_model.set_adapter(["first", "second"])
        assert torch.equal(logits(model), logits(stages))
        model.set_adapter("second")
        stages.set_adapter("stage2")
        assert torch.equal(logits(model), logits(stages))

    @pytest.mark.skipif(
        Version(peft.__version__) < Version(MIN_PEFT_VERSION),
        reason=f"this transformers loads adapters with PEFT {MIN_PEFT_VERSION} at least, whatever the model",
    )
    def test_transformers_loads_them_too(self, folder, stages, logits):
        base = make_base()
        plain = logits(base)
        base.load_adapter(str(folder / "stage1"), adapter_name="first")
        base.load_adapter(str(folder / "stage2"), adapter_name="second")
        assert base.active_branches == ("aggregator",)
        base.set_adapter(["first", "second"])
        assert torch.equal(logits(base), logits(stages))
        assert torch.equal(logits(fold_adapters(base)), logits(stages))
        base.disable_adapters()
        assert torch.equal(logits(base), plain)
        base.enable_adapters()
        assert torch.equal(logits(base), logits(stages))

    def test_a_fresh_process_needs_one_import(self, folder, stages, inputs, logits, tmp_path):
        """Without PEFT that import works, too, and loads what was folded."""
        make_base().save_pretrained(tmp_path / "base")
        fold_adapters(stages).save_pretrained(tmp_path / "folded")
        save_file(inputs, tmp_path / "inputs.safetensors")
        script = f"""
import sys
sys.modules["peft"] = None  # as if it were not installed
import torch
import modeling_lion
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

inputs = load_file({str(tmp_path / "inputs.safetensors")!r})
inputs["decoder_input_ids"] = inputs["input_ids"][:, :4].clone()
level_ids = torch.tensor([0, 1, 0])
load = modeling_lion.LionForConditionalGeneration.from_pretrained
with torch.no_grad():
    folded = load({str(tmp_path / "folded")!r})(**inputs, level_ids=level_ids).logits
    for name in [name for name in sys.modules if name == "peft" or name.startswith("modeling_lion")]:
        del sys.modules[name]
    import modeling_lion
    from peft import PeftModel
    load = modeling_lion.LionForConditionalGeneration.from_pretrained
    model = PeftModel.from_pretrained(load({str(tmp_path / "base")!r}), {str(folder / "stage1")!r}, "stage1")
    model.load_adapter({str(folder / "stage2")!r}, "stage2")
    model.base_model.set_adapter(["stage1", "stage2"])
    attached = model(**inputs, level_ids=level_ids).logits
save_file({{"folded": folded, "attached": attached}}, {str(tmp_path / "logits.safetensors")!r})
"""
        repository = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=repository)
        results = load_file(tmp_path / "logits.safetensors")
        with torch.no_grad():
            decoder_input_ids = inputs["input_ids"][:, :4]
            expected = stages(**inputs, decoder_input_ids=decoder_input_ids, level_ids=torch.tensor([0, 1, 0])).logits
        torch.testing.assert_close(results["attached"], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(results["folded"], expected, atol=1e-5, rtol=1e-5)


class TestUnloading:
    def test_the_base_is_what_it_was(self, logits):
        before = logits(make_base())
        base = make_stages().unload()
        assert type(base) is LionForConditionalGeneration
        assert base.state_dict().keys() == make_base().state_dict().keys()
        assert torch.equal(logits(base), before)
        assert torch.equal(logits(get_peft_model(base, LionAdapterConfig(adapters=["shared"]))), before)

    def test_merging_says_what_to_do_instead(self, stages):
        for merge in (stages.merge_and_unload, stages.merge_adapter):
            with pytest.raises(ValueError, match="fold_adapters"):
                merge()


class TestTraining:
    def test_a_step_changes_the_adapter_and_nothing_else(self, inputs, labels, logits):
        model = get_peft_model(make_base(), image_level()).train()
        pretend_training(model)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert all(".default." in name for name in changed)
        for part in [*QFORMER_PARTS, "down_proj", "up_proj", "scale"]:
            assert any(part in name for name in changed), part
        assert model(**inputs, labels=labels).loss < loss

    def test_gradient_checkpointing_gives_the_same_gradients(self, inputs, labels):
        model = make_stages().train()

        def gradients() -> dict[str, torch.Tensor]:
            model.zero_grad()
            model(**inputs, labels=labels, level_ids=torch.tensor([0, 1, 0])).loss.backward()
            return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

        expected = gradients()
        model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        torch.testing.assert_close(gradients(), expected, atol=1e-5, rtol=1e-4)
        assert {"stage1", "stage2"} == {name.split(".lion_adapter_")[1].split(".")[1] for name in expected}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_what_is_trained_stays_in_float32(self, dtype, inputs, labels):
        inputs = {**inputs, "pixel_values": inputs["pixel_values"].to(dtype), "level_ids": torch.tensor([0, 1, 0])}
        model = make_stages(make_base().to(dtype)).train()
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}
        output = model(**inputs, labels=labels)
        assert output.logits.dtype == dtype
        output.loss.backward()
        folded = fold_adapters(model)
        adapter_dtype = torch.float32 if dtype == torch.float16 else dtype
        for name, parameter in folded.named_parameters():
            assert parameter.dtype == (adapter_dtype if ".adapter." in name else dtype), name
        with torch.no_grad():
            logits = folded(**inputs, labels=labels).logits
        # Half precision rounds the trained weights.
        torch.testing.assert_close(logits, output.logits, atol=0.5, rtol=0.05)


class TestFolding:
    @pytest.mark.parametrize("level_ids", BATCHES)
    def test_two_stages_routed_are_the_mixture(self, stages, logits, answers, inputs, level_ids):
        folded = fold_adapters(stages)
        assert not any("lion_adapter" in name for name, _ in folded.named_modules())
        assert not hasattr(folded, "peft_config")
        assert torch.equal(logits(folded, level_ids), logits(stages, level_ids))
        for options in ({}, {"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}):
            assert torch.equal(answers(folded, level_ids, **options), answers(stages, level_ids, **options))
        candidates = torch.tensor([[5, 6, 1], [7, 1, -100]])
        scored = {**inputs, "level_ids": torch.tensor(level_ids)}
        torch.testing.assert_close(
            folded.score_candidates(scored, candidates), stages.score_candidates(scored, candidates)
        )

    @pytest.mark.parametrize(
        ("names", "adapters", "branches"),
        [
            ("stage1", ["image_level"], ["qformer"]),
            (["stage2"], ["region_level"], ["aggregator"]),
            (["stage2", "stage1"], ["region_level", "image_level"], ["qformer", "aggregator"]),
        ],
    )
    def test_what_is_saved_is_a_lion(self, stages, logits, answers, tmp_path, names, adapters, branches):
        folded = fold_adapters(stages, names)
        folded.save_pretrained(tmp_path)
        loaded = LionForConditionalGeneration.from_pretrained(tmp_path)
        assert loaded.config.adapter_config.adapters == adapters
        assert loaded.config.adapter_config.bottleneck_size == 4
        assert loaded.config.visual_branches == branches
        stages.base_model.set_adapter(names)
        assert torch.equal(logits(loaded), logits(stages))
        assert torch.equal(answers(loaded), answers(stages))

    def test_the_router_is_kept(self, stages, combined, logits):
        model = copy.deepcopy(combined)
        pretend_training(model, ("router_ratios",))
        model.set_adapter("stage3")
        assert not torch.allclose(logits(model), logits(stages), atol=1e-3)
        assert torch.equal(logits(fold_adapters(model)), logits(model))

    def test_weights_are_shared_and_the_peft_model_still_works(self, logits):
        model = make_stages()
        before = logits(model)
        folded = fold_adapters(model)
        theirs = {parameter.data_ptr() for parameter in model.parameters()}
        own = {name for name, parameter in folded.named_parameters() if parameter.data_ptr() not in theirs}
        assert all(name.endswith("router_ratios") for name in own)
        assert all(parameter.requires_grad for parameter in folded.parameters())
        assert torch.equal(logits(model), before)

    def test_errors(self, stages):
        with pytest.raises(ValueError, match="LION_ADAPTER attached"):
            fold_adapters(make_base())
        with pytest.raises(ValueError, match=r"\['nope'\]; the adapters are \['stage1', 'stage2'\]"):
            fold_adapters(stages, ["stage1", "nope"])
        model = get_peft_model(make_base(), image_level(), adapter_name="stage1")
        model.add_adapter("other", image_level())
        model.add_adapter("wide", region_level(bottleneck_size=8))
        with pytest.raises(ValueError, match="an image-level and a region-level one"):
            fold_adapters(model, ["stage1", "other"])
        with pytest.raises(ValueError, match="bottleneck_size"):
            fold_adapters(model, ["stage1", "wide"])
        with pytest.raises(ValueError, match="bottleneck_size"):
            combine_adapters(model, image_level="stage1", region_level="wide", name="stage3")
        with pytest.raises(ValueError, match="`region_level` must name an adapter"):
            combine_adapters(model, image_level="stage1", region_level="other", name="stage3")


class TestCombining:
    @pytest.mark.parametrize("level_ids", BATCHES)
    def test_stage_three_starts_as_both_stages(self, combined, logits, level_ids):
        combined.base_model.set_adapter(["stage1", "stage2"])
        expected = logits(combined, level_ids)
        combined.set_adapter("stage3")
        assert torch.equal(logits(combined, level_ids), expected)

    def test_it_trains_everything_and_on_its_own(self, combined, logits):
        config = combined.peft_config["stage3"]
        assert config.adapters == ["region_level", "image_level"]
        assert set(config.trained_modules) == {*QFORMER_PARTS, *AGGREGATOR_PARTS}
        assert config.visual_branches == ["qformer", "aggregator"]
        model = copy.deepcopy(combined)
        model.base_model.set_adapter(["stage1", "stage2"])
        before = logits(model)
        pretend_training(model, (".stage3.",))
        assert torch.equal(logits(model), before)

    def test_a_stage_can_start_from_the_soft_prompt_of_another(self, stages):
        model = copy.deepcopy(stages)
        model.add_adapter("again", region_level())
        initialize_adapter(model, "again", "stage1")
        prompts = model.get_base_model().soft_prompt.lion_adapter_modules
        assert torch.equal(prompts["again"].weight, prompts["stage1"].weight)
        aggregator = model.get_base_model().vision_aggregator
        for own, base in zip(aggregator.lion_adapter_modules["again"].parameters(), aggregator.base_layer.parameters()):
            assert torch.equal(own, base)


class TestValidation:
    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"adapters": ["image_level", "region_level"]}, "adapters"),
            ({"adapters": []}, "adapters"),
            ({"adapters": "image_level"}, "adapters"),
            ({"adapters": ["shared", "image_level"]}, "adapters"),
            ({"bottleneck_size": 0}, "bottleneck_size"),
            ({"bottleneck_size": 4.0}, "bottleneck_size"),
            ({"trained_modules": "qformer"}, "trained_modules"),
            ({"trained_modules": ["language_model.lm_head"]}, "trained_modules"),
            ({"trained_modules": ["qformer", "qformer.layernorm"]}, "trained_modules"),
            ({"trained_modules": ["qformer", "qformer"]}, "trained_modules"),
            ({"trained_modules": ["qformer"], "modules_to_save": ["qformer"]}, "modules_to_save"),
            ({"visual_branches": []}, "visual_branches"),
            ({"visual_branches": ["aggregator", "qformer"]}, "visual_branches"),
            ({"visual_branches": ["aggregator"]}, "visual_branches"),
        ],
    )
    def test_configurations_that_never_fit(self, fields, named):
        with pytest.raises(ValueError, match=named):
            LionAdapterConfig(**fields)

    @pytest.mark.parametrize(
        ("config", "named"),
        [
            (region_level(), "visual_branches"),
            (image_level(trained_modules=["vision_aggregator"]), "trained_modules.*'query_tokens'"),
            (image_level(trained_modules=["qformer.nope"]), "trained_modules"),
        ],
    )
    def test_configurations_that_do_not_fit_the_base(self, config, named):
        base = make_base(visual_branches=["qformer"])
        with pytest.raises(ValueError, match=named):
            get_peft_model(base, config)
        assert base.active_branches == ("qformer",)

    def test_adapters_that_overlap(self):
        model = get_peft_model(make_base(), image_level())
        with pytest.raises(ValueError, match="overlaps with"):
            model.add_adapter("other", image_level(trained_modules=["qformer.layernorm"]))
        assert list(model.peft_config) == ["default"]

    def test_bases_that_do_not_fit(self):
        with pytest.raises(ValueError, match="has .*built in"):
            get_peft_model(make_base(adapter_config={"adapters": list(LEVELS)}), image_level())
        with pytest.raises(ValueError, match="LionForConditionalGeneration"):
            get_peft_model(torch.nn.Linear(2, 2), image_level())

    @pytest.mark.parametrize("name", ["qformer", "adapters", "0", "weight"])
    def test_names_that_peft_could_not_tell_apart(self, name):
        with pytest.raises(ValueError, match="adapter_name"):
            get_peft_model(make_base(), image_level(), adapter_name=name)

    @settings(max_examples=25, deadline=None)
    @given(
        adapters=st.sampled_from([["shared"], ["image_level"], ["region_level"], list(LEVELS)]),
        bottleneck_size=st.integers(1, 512),
        trained_modules=st.lists(st.sampled_from([*QFORMER_PARTS, *AGGREGATOR_PARTS]), unique=True),
        visual_branches=st.sampled_from([None, ["qformer", "aggregator"]]),
        inference_mode=st.booleans(),
    )
    def test_configurations_survive_a_file(self, tmp_path_factory, **fields):
        folder = tmp_path_factory.mktemp("config")
        config = LionAdapterConfig(**fields)
        config.save_pretrained(folder)
        loaded = PeftConfig.from_pretrained(folder)
        assert type(loaded) is LionAdapterConfig
        assert loaded == config


class TestLora:
    @pytest.mark.parametrize("task_type", [None, "SEQ_2_SEQ_LM", "CAUSAL_LM", "FEATURE_EXTRACTION"])
    def test_levels_pass_through_every_wrapper_and_merging_changes_nothing(self, logits, answers, task_type):
        """With routers that differ between levels, so that a level that got lost would show."""
        folded = fold_adapters(make_stages())
        config = LoraConfig(target_modules=["q", "v", "wo"], r=4, init_lora_weights=False, task_type=task_type)
        model = get_peft_model(folded, config).eval()
        pretend_training(model, ("lora_", "router_ratios"))
        alone = {level: logits(model, (level,) * 3) for level in (0, 1)}
        assert not torch.allclose(alone[0], alone[1], atol=1e-2)
        before = {level_ids: logits(model, level_ids) for level_ids in BATCHES}
        said = {level_ids: answers(model, level_ids, num_beams=1) for level_ids in BATCHES}
        for row, level in enumerate((0, 1, 0)):
            torch.testing.assert_close(before[0, 1, 0][row], alone[level][row], atol=1e-5, rtol=1e-5)
        merged = model.merge_and_unload()
        assert isinstance(merged, LionForConditionalGeneration)
        for level_ids in BATCHES:
            torch.testing.assert_close(logits(merged, level_ids), before[level_ids], atol=1e-3, rtol=1e-3)
            assert torch.equal(answers(merged, level_ids, num_beams=1), said[level_ids])

    @pytest.mark.parametrize("method", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
    def test_prompt_learning_is_refused(self, method):
        with pytest.raises(ValueError, match="Prompt learning .* can't be used: LION makes the embeddings"):
            get_peft_model(make_base(), method(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4))

    def test_several_active_adapters_without_levels_are_warned_of(self, stages, inputs, labels, caplog, monkeypatch):
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        transformers_logging.warning_once.cache_clear()
        stages(**inputs, labels=labels)
        assert any("level_ids" in record.message for record in caplog.records)
        caplog.clear()
        transformers_logging.warning_once.cache_clear()
        stages.set_adapter("stage1")
        stages(**inputs, labels=labels)
        assert not caplog.records

    @pytest.mark.parametrize("targets", [["q", "v"], ["down_proj"], ["wi_0", "up_proj"]])
    def test_it_trains_saves_and_loads(self, inputs, labels, logits, answers, tmp_path, targets):
        folded = fold_adapters(make_stages())
        plain_logits, plain_answers = logits(folded), answers(folded)
        model = get_peft_model(folded, LoraConfig(target_modules=targets, r=4, init_lora_weights=False)).train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        loss = model(**inputs, labels=labels, level_ids=torch.tensor([0, 1, 0])).loss
        loss.backward()
        optimizer.step()
        pretend_training(model, ("lora_",))
        model.eval()
        assert not torch.allclose(logits(model), plain_logits, atol=1e-3)
        # One level in the batch: where LION folds the weights of its adapters.
        for level_ids in BATCHES:
            generated = answers(model, level_ids, num_beams=1, output_logits=True, return_dict_in_generate=True)
            step = generated.logits[0]
            with torch.no_grad():
                start = torch.zeros(3, 1, dtype=torch.long)
                expected = model(**inputs, decoder_input_ids=start, level_ids=torch.tensor(level_ids)).logits[:, -1]
            torch.testing.assert_close(step, expected, atol=1e-3, rtol=1e-4)

        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(fold_adapters(make_stages()), tmp_path)
        assert torch.equal(logits(loaded), logits(model))
        assert torch.equal(answers(loaded), answers(model))
        with model.disable_adapter():
            assert torch.equal(logits(model), plain_logits)
            assert torch.equal(answers(model), plain_answers)
        expected = logits(model)
        torch.testing.assert_close(logits(model.merge_and_unload()), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("config", [image_level(), LoraConfig(target_modules=["q", "v"])], ids=["lion", "lora"])
def test_peft_as_a_sequence_to_sequence_model(config, inputs, labels, logits, answers):
    config = copy.deepcopy(config)
    plain = get_peft_model(make_base(), copy.deepcopy(config)).eval()
    config.task_type = "SEQ_2_SEQ_LM"
    model = get_peft_model(make_base(), config).eval()
    assert torch.equal(logits(model), logits(plain))
    assert torch.equal(answers(model), answers(plain))
