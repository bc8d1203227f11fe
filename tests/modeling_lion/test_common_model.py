"""
What transformers' own `ModelTesterMixin` and `GenerationTesterMixin` check, for LION and for its tagger.

Left out is what InstructBLIP, BLIP-2 or T5 skip themselves (inputs as embeddings, tracing, the mixins' pipelines).
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from modeling_lion import LionForConditionalGeneration, RamForImageTagging
from tests.golden import load_golden
from tests.modeling_lion.test_ram import TAGS, tiny_config


@dataclass
class Subject:
    """A model class with a configuration and inputs."""

    cls: type
    config: Any
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor

    def make(self, attention: str = "eager", **changes: Any) -> Any:
        """A model with the same weights every time."""
        config = copy.deepcopy(self.config)
        for name, value in changes.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        model = self.cls._from_config(config, attn_implementation=attention).eval()
        with torch.no_grad():  # freshly initialised, many outputs are all but equal
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        return model

    def run(self, model: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return model(**self.inputs, **({"labels": self.labels} | kwargs))


def lion_subject() -> Subject:
    golden = load_golden("all")
    config = golden.config()
    config.text_config.dropout_rate = 0.0
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config.qformer_config, name, 0.0)
    config.aggregator_config.dropout = 0.0
    parameters = inspect.signature(LionForConditionalGeneration.forward).parameters
    routing = "level_ids" if "level_ids" in parameters else "task_ids"
    levels = torch.arange(len(golden.labels)) % 2
    return Subject(LionForConditionalGeneration, config, {**golden.inputs, routing: levels}, golden.labels)


def ram_subject() -> Subject:
    pixel_values = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = (torch.arange(3 * len(TAGS)) % 2).reshape(3, len(TAGS))
    return Subject(RamForImageTagging, tiny_config(), {"pixel_values": pixel_values}, labels)


SUBJECTS = {"lion": lion_subject, "ram": ram_subject}


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request) -> Subject:
    return SUBJECTS[request.param]()


@pytest.fixture(scope="module")
def lion_inputs() -> Subject:
    return lion_subject()


def test_the_image_is_the_first_argument(subject):
    names = list(inspect.signature(subject.cls.forward).parameters)
    assert names[:2] == ["self", "pixel_values"]
    assert subject.cls.main_input_name == "pixel_values"


def test_the_same_input_gives_the_same_output(subject):
    model = subject.make()
    first, second = subject.run(model), subject.run(model)
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)


def test_saved_and_loaded_it_is_the_same(subject, tmp_path):
    model = subject.make()
    expected = subject.run(model)
    model.save_pretrained(tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix in (".bin", ".pt")]
    loaded, info = subject.cls.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert not loaded.training
    torch.testing.assert_close(subject.run(loaded).logits, expected.logits)
    # And once more, from what was loaded.
    loaded.save_pretrained(tmp_path / "again")
    again = subject.cls.from_pretrained(tmp_path / "again", attn_implementation="eager")
    torch.testing.assert_close(subject.run(again).logits, expected.logits)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_a_state_dict_loads_strictly(subject):
    model, other = subject.make(), subject.cls(copy.deepcopy(subject.config)).eval()
    result = other.load_state_dict(model.state_dict(), strict=True)
    assert not result.missing_keys
    torch.testing.assert_close(subject.run(other).logits, subject.run(model).logits, rtol=1e-4, atol=1e-4)


def test_missing_weights_are_initialised_as_configured(subject, tmp_path):
    from safetensors.torch import load_file, save_file

    model = subject.make()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: weights[name] for name in list(weights)[:1]}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = subject.cls.from_pretrained(tmp_path)
    for name, parameter in loaded.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() < 100, name
        assert parameter.device.type == "cpu", name


def test_weights_of_another_shape_are_refused_or_made_anew(subject, tmp_path):
    from safetensors.torch import load_file, save_file

    model = subject.make()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("projection.weight") and weights[name].dim() == 2)
    weights[name] = torch.zeros(3, 5)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeError):
        subject.cls.from_pretrained(tmp_path)
    loaded = subject.cls.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert subject.run(loaded).logits.isfinite().all()


def test_a_tuple_holds_what_the_output_holds(subject):
    model = subject.make()
    options = {"output_hidden_states": True, "output_attentions": True}
    output = subject.run(model, **options)
    values = subject.run(model, return_dict=False, **options)
    assert isinstance(values, tuple)
    expected = output.to_tuple()
    assert len(values) == len(expected)
    for value, other in zip(values, expected):
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other)


def test_hidden_states_and_attentions_come_when_asked_for(subject):
    model = subject.make()
    plain, output = subject.run(model), subject.run(model, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.logits, plain.logits, rtol=1e-5, atol=1e-5)
    batch = len(subject.labels)
    names = [name for name in output if name.endswith(("hidden_states", "attentions")) and name not in plain]
    assert len(names) >= 4
    for name in names:
        assert isinstance(output[name], tuple)
        assert all(state is not None and state.shape[0] % batch == 0 for state in output[name]), name


def test_gradients_reach_hidden_states(subject):
    model = subject.make()
    output = model(**subject.inputs, labels=subject.labels, output_hidden_states=True)
    # The tagger's queries before the first layer are those of one image, expanded for those who look.
    states = {name: output[name][name.startswith("tag_")] for name in output if name.endswith("hidden_states")}
    for state in states.values():
        state.retain_grad()
    output.loss.backward()
    assert [name for name, state in states.items() if state.grad is None] == []


def test_every_parameter_is_trained(subject):
    model = subject.make().train()
    model(**subject.inputs, labels=subject.labels).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # The tower's last block feeds the Q-Former alone, and the norm of a block that nobody reads stays as it is.
    assert not [name for name in without if "vision_model" not in name and "relative_position" not in name], without


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(subject, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = subject.make().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
            assert model.is_gradient_checkpointing
        torch.manual_seed(0)
        model(**subject.inputs, labels=subject.labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_both_attentions_agree(subject):
    eager, sdpa = subject.make("eager"), subject.make("sdpa")
    torch.testing.assert_close(subject.run(eager).logits, subject.run(sdpa).logits, rtol=1e-3, atol=1e-4)


def test_a_batch_gives_what_its_rows_give(subject):
    model = subject.make()
    batch = subject.run(model, labels=None, **_decoder_inputs(subject)).logits
    for row in range(len(subject.labels)):
        inputs = {name: value[row : row + 1] for name, value in subject.inputs.items()}
        alone = Subject(subject.cls, subject.config, inputs, subject.labels[row : row + 1])
        torch.testing.assert_close(alone.run(model, labels=None, **_decoder_inputs(alone)).logits[0], batch[row])


def _decoder_inputs(subject: Subject) -> dict[str, torch.Tensor]:
    if subject.cls is RamForImageTagging:
        return {}
    return {"decoder_input_ids": torch.zeros((len(subject.labels), 2), dtype=torch.long)}


def test_input_embeddings(subject):
    model = subject.make()
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Module)
    model.set_input_embeddings(copy.deepcopy(embeddings))
    assert model.get_input_embeddings() is not embeddings
    torch.testing.assert_close(subject.run(model).logits, subject.run(subject.make()).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(subject, dtype, tmp_path):
    subject.make().save_pretrained(tmp_path)
    model = subject.cls.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} <= {dtype, torch.float32}
    assert dtype in {parameter.dtype for parameter in model.parameters()}
    assert subject.run(model).logits.isfinite().all()


@pytest.mark.parametrize("difference", [10, -10])
def test_token_embeddings_are_resized(lion_inputs, difference):
    model = lion_inputs.make()
    before, vocab_size = lion_inputs.run(model).logits, model.config.text_config.vocab_size
    embeddings = model.resize_token_embeddings(vocab_size + difference, mean_resizing=False)
    assert embeddings.num_embeddings == vocab_size + difference
    assert model.config.text_config.vocab_size == vocab_size + difference
    assert model.get_output_embeddings().out_features == vocab_size + difference
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    inputs = {**lion_inputs.inputs, "input_ids": lion_inputs.inputs["input_ids"].clamp(max=vocab_size - 11)}
    if difference > 0:
        torch.testing.assert_close(lion_inputs.run(model).logits, before)
    else:
        with torch.no_grad():
            assert model(**inputs, labels=lion_inputs.labels.clamp(max=vocab_size - 11)).logits.isfinite().all()


# --- Generation ---


MODES = {
    "greedy": {"num_beams": 1, "do_sample": False},
    "sampling": {"num_beams": 1, "do_sample": True},
    "beams": {"num_beams": 3, "do_sample": False},
    "sampled beams": {"num_beams": 2, "do_sample": True},
}


@pytest.fixture(scope="module")
def generator(lion_inputs):
    model = lion_inputs.make()
    model.generation_config.repetition_penalty = 1.0
    return model


def generate(subject: Subject, model: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return model.generate(**subject.inputs, **{"max_new_tokens": 4, "min_new_tokens": 4, **kwargs})


@pytest.mark.parametrize("mode", MODES)
def test_generation_gives_ids(lion_inputs, generator, mode):
    ids = generate(lion_inputs, generator, **MODES[mode])
    assert ids.shape == (len(lion_inputs.labels), 5)
    assert (ids[:, 0] == generator.config.text_config.decoder_start_token_id).all()


@pytest.mark.parametrize("mode", MODES)
def test_generation_gives_scores_and_states(lion_inputs, generator, mode):
    plain = generate(lion_inputs, generator, **MODES[mode])
    asked = {"output_scores": True, "output_logits": True, "output_hidden_states": True, "output_attentions": True}
    output = generate(lion_inputs, generator, return_dict_in_generate=True, **asked, **MODES[mode])
    torch.testing.assert_close(output.sequences, plain)
    rows = len(lion_inputs.labels) * MODES[mode]["num_beams"]
    assert [tuple(step.shape) for step in output.scores] == [(rows, generator.config.text_config.vocab_size)] * 4
    assert len(output.logits) == 4
    layers = generator.config.text_config.num_decoder_layers
    for states in (output.decoder_hidden_states, output.decoder_attentions, output.cross_attentions):
        assert len(states) == 4
        assert len(states[0]) in (layers, layers + 1)
    assert output.encoder_hidden_states[0].shape[0] == len(lion_inputs.labels)


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_generation_without_cache_is_the_same(lion_inputs, generator, mode):
    cached, uncached = (generate(lion_inputs, generator, use_cache=cache, **MODES[mode]) for cache in (True, False))
    torch.testing.assert_close(cached, uncached)


@pytest.mark.parametrize("mode", ["sampling", "beams"])
def test_several_sequences_for_each_row(lion_inputs, generator, mode):
    ids = generate(lion_inputs, generator, num_return_sequences=2, **MODES[mode])
    assert ids.shape[0] == 2 * len(lion_inputs.labels)


def test_greedy_generation_picks_the_likeliest_token(lion_inputs, generator):
    ids = generate(lion_inputs, generator, **MODES["greedy"], min_new_tokens=0)
    with torch.no_grad():
        logits = generator(**lion_inputs.inputs, decoder_input_ids=ids[:, :-1]).logits
    expected, ended = logits.argmax(-1), (ids[:, :-1] == generator.config.text_config.eos_token_id).cummax(1).values
    assert ((ids[:, 1:] == expected) | ended).all()


def test_a_generation_configuration_is_taken_and_not_changed(lion_inputs, generator):
    config = GenerationConfig(num_beams=1, max_new_tokens=2, min_new_tokens=2, pad_token_id=0, eos_token_id=1)
    config.decoder_start_token_id = generator.config.text_config.decoder_start_token_id
    before, own = config.to_dict(), generator.generation_config.to_dict()
    torch.manual_seed(0)
    ids = generator.generate(**lion_inputs.inputs, generation_config=config)
    assert ids.shape == (len(lion_inputs.labels), 3)
    assert config.to_dict() == before
    assert generator.generation_config.to_dict() == own


def test_generation_leaves_no_cache_behind(lion_inputs, generator):
    first = generate(lion_inputs, generator, **MODES["greedy"])
    lion_inputs.run(generator)
    torch.testing.assert_close(generate(lion_inputs, generator, **MODES["greedy"]), first)


def test_stopping_criteria_and_logits_processors_are_used(lion_inputs, generator):
    from transformers import LogitsProcessor, LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

    class Always(LogitsProcessor):
        def __call__(self, input_ids, scores):
            forced = torch.full_like(scores, -float("inf"))
            forced[:, 7] = 0.0
            return forced

    options = {"logits_processor": LogitsProcessorList([Always()]), "num_beams": 1, "min_new_tokens": 0}
    ids = generate(lion_inputs, generator, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(3)]), **options)
    assert ids[:, 1:].tolist() == [[7, 7]] * len(lion_inputs.labels)
