import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from configuration_lion.configuration_ram import RamConfig
from modeling_lion.modeling_ram import RamForImageTagging, asymmetric_loss


TAGS = ["anchor", "bell", "cup", "dice", "eye"]
TAGS_ZH = ["锚", "铃", "杯 ", "骰子", "眼"]


VISION = {"image_size": 32, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}


def tiny_config(**overrides) -> RamConfig:
    sizes = {"vision_config": VISION, "hidden_size": 16, "intermediate_size": 24, "projection_dim": 12}
    return RamConfig.from_preset("nano", **{**sizes, "tags": TAGS, "tags_zh": TAGS_ZH, **overrides})


def tiny_model(**overrides) -> RamForImageTagging:
    torch.manual_seed(0)
    model = RamForImageTagging(tiny_config(**overrides)).eval()
    with torch.no_grad():  # freshly initialised logits are all but equal
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_image_is_tagged_alike_alone_and_in_a_batch():
    model, pixel_values = tiny_model(), images()
    with torch.no_grad():
        batch = model(pixel_values).logits
        alone = torch.cat([model(image[None]).logits for image in pixel_values])
    assert batch.shape == (3, len(TAGS))
    torch.testing.assert_close(batch, alone)
    assert (batch[0] - batch[1]).abs().max() > 1e-3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=len(TAGS), max_size=len(TAGS)))
def test_tags_are_those_above_their_own_threshold(thresholds):
    model = tiny_model()
    probabilities = model(images()).logits.sigmoid().tolist()
    wanted = [[tag for tag, p, t in zip(TAGS, row, thresholds, strict=True) if p > t] for row in probabilities]
    assert model.generate_tags(images(), thresholds=thresholds) == wanted


def test_tags_in_both_languages_and_one_threshold_for_all():
    model = tiny_model()
    assert model.generate_tags(images(2), thresholds=0.0) == [TAGS, TAGS]
    assert model.generate_tags(images(1), language="zh", thresholds=0.0) == [TAGS_ZH]
    assert model.generate_tags(images(1), thresholds=torch.ones(len(TAGS))) == [[]]


def test_generate_tags_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="language"):
        tiny_model().generate_tags(images(), language="de")
    with pytest.raises(ValueError, match="tags_zh"):
        tiny_model(tags_zh=None).generate_tags(images(), language="zh")
    with pytest.raises(ValueError, match=r"config\.tags"):
        tiny_model(tags=None, tags_zh=None, num_tags=5).generate_tags(images())
    with pytest.raises(ValueError, match="thresholds"):
        tiny_model().generate_tags(images(), thresholds=[0.5, 0.5])


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"labels.*\(3, 5\)"):
        tiny_model()(images(), labels=torch.zeros(3, 4))


def test_tuple_output():
    model, labels = tiny_model(), torch.ones(3, len(TAGS))
    output = model(images(), labels=labels)
    loss, logits, image_embeds = model(images(), labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    assert torch.equal(image_embeds, output.image_embeds)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1, max_size=8),
    st.floats(0, 8),
    st.floats(0, 3),
    st.floats(0, 0.3),
)
def test_asymmetric_loss_is_the_formula_of_the_paper(entries, gamma_neg, gamma_pos, clip):
    logits = torch.tensor([logit for logit, _ in entries], dtype=torch.float64)
    wanted = 0.0
    for p, (_, positive) in zip(torch.sigmoid(logits), entries, strict=True):
        if positive:
            wanted -= (1 - p) ** gamma_pos * torch.log(p)
        else:
            shifted = torch.clamp(p - clip, min=0)
            wanted -= shifted**gamma_neg * torch.log(1 - shifted)
    labels = torch.tensor([positive for _, positive in entries])
    loss = asymmetric_loss(logits, labels, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    assert loss.item() == pytest.approx(float(wanted), rel=1e-3, abs=1e-4)


def test_focusing_weights_carry_no_gradient():
    logits = torch.tensor([1.0], requires_grad=True)
    asymmetric_loss(logits, torch.tensor([0.0]), gamma_neg=2.0, clip=0.0).backward()
    p = torch.sigmoid(logits.detach())
    torch.testing.assert_close(logits.grad, p**2 * p)  # weight times the gradient of -log(1 - p)


def test_every_parameter_learns():
    model = tiny_model()
    labels = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 1, 0]])
    model(images(), labels=labels).loss.backward()
    # The bias of the keys shifts all scores of a query alike, so attention does not depend on it.
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in untouched if ".key.bias" not in name and ".k_proj.bias" not in name] == []


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = tiny_model(vision_config={**VISION, "drop_path_rate": 0.0}, **still).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(images(), labels=torch.ones(3, len(TAGS))).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_few_steps_put_the_right_tags_first():
    # Gentle focusing: by default, the loss is content once a negative's probability is well below one half.
    model, pixel_values = tiny_model(loss_gamma_neg=1.0), images()
    labels = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 1, 0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()
    for scores, row in zip(model(pixel_values).logits, labels.bool(), strict=True):
        assert scores[row].min() > scores[~row].max()


def test_bfloat16_takes_float32_images():
    model, pixel_values = tiny_model(), images()
    reference = model(pixel_values).logits
    output = model.to(torch.bfloat16)(pixel_values, labels=torch.ones(3, len(TAGS)))
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits.float(), reference, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("options", [{}, {"device_map": "cpu"}, {"attn_implementation": "eager"}], ids=str)
def test_saved_and_loaded(tmp_path, options):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded, report = RamForImageTagging.from_pretrained(tmp_path, output_loading_info=True, **options)
    assert not any(report.values())
    assert loaded.config.tags_zh == TAGS_ZH
    torch.testing.assert_close(loaded(images()).logits, model(images()).logits, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_the_other_transformers_major_loads(tmp_path):
    # Version 4 writes Swin's relative_position_index, version 5 does not; otherwise their files are alike.
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    index = [name for name in weights if name.endswith("relative_position_index")]
    if transformers.__version__.startswith("4."):
        for name in index:
            del weights[name]
    else:
        assert not index
        weights["vision_model.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.zeros(
            16, 16
        ).long()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = RamForImageTagging.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(loaded(images()).logits, model(images()).logits, rtol=1e-5, atol=1e-5)


def test_config_round_trips(tmp_path):
    config = tiny_config(thresholds=[0.1, 0.2, 0.3, 0.4, 0.5], loss_gamma_neg=4.0)
    config.save_pretrained(tmp_path)
    for other in (RamConfig.from_pretrained(tmp_path), RamConfig.from_dict(config.to_dict())):
        assert other.thresholds == [0.1, 0.2, 0.3, 0.4, 0.5]
        assert other.loss_gamma_neg == 4.0
        assert (other.tags, other.tags_zh, other.num_tags) == (TAGS, TAGS_ZH, 5)
        assert other.vision_config.depths == [2, 1]
        assert other.vision_config.hidden_size == 16


def test_presets():
    config = RamConfig.from_preset("swin-large")
    assert config.vision_config.hidden_size == 1536
    assert (config.vision_config.image_size, config.vision_config.window_size) == (384, 12)
    assert (config.num_tags, config.tags, len(config.thresholds)) == (4585, None, 4585)
    assert set(config.thresholds) == {0.68}
    nano = RamConfig.from_preset("nano", tags=TAGS, vision_config={"image_size": 48, "window_size": 3})
    assert nano.num_tags == 5
    assert (nano.vision_config.image_size, nano.vision_config.embed_dim) == (48, 32)
    with pytest.raises(ValueError, match="swin-large"):
        RamConfig.from_preset("swin-huge")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 18, "num_attention_heads": 4}, "num_attention_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_tags": 6}, "tags must have one entry per tag: got 5 for num_tags=6"),
        ({"tags_zh": TAGS_ZH[:4]}, "tags_zh"),
        ({"thresholds": [0.5] * 4}, "thresholds"),
        ({"thresholds": [0.5, 0.5, 0.5, 0.5, 1.5]}, "thresholds"),
        ({"tags": "anchor"}, "tags"),
        ({"tags": []}, "num_tags"),
        ({"loss_clip": 1.0}, "loss_clip"),
        ({"loss_gamma_neg": -1}, "loss_gamma_neg"),
        ({"vision_config": {"model_type": "vit"}}, "swin"),
        ({"vision_config": 3}, "vision_config"),
        ({"vision_config": {"depths": [2, 2], "num_heads": [2]}}, "num_heads"),
        ({"vision_config": {"embed_dim": 9, "num_heads": [2, 3]}}, "num_heads"),
        ({"vision_config": {"image_size": 16, "window_size": 4}}, "window_size"),
    ],
)
def test_config_refuses_what_does_not_fit(fields, message):
    if isinstance(fields.get("vision_config"), dict):
        fields = {**fields, "vision_config": {**VISION, **fields["vision_config"]}}
    with pytest.raises(ValueError, match=message):
        RamConfig(**{"vision_config": VISION, "tags": TAGS, "tags_zh": TAGS_ZH, **fields})


@pytest.mark.parametrize("return_dict", [True, False])
def test_hidden_states_and_attentions(return_dict):
    config = tiny_config()
    model = RamForImageTagging._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        plain = model(images(2))
        output = model(images(2), output_hidden_states=True, output_attentions=True, return_dict=return_dict)
    if not return_dict:
        assert len(output) == 6
        output = dict(
            zip(list(plain) + ["hidden_states", "attentions", "tag_hidden_states", "cross_attentions"], output)
        )
    torch.testing.assert_close(output["logits"], plain.logits)
    assert plain.hidden_states is None
    assert plain.cross_attentions is None
    stages, layers = len(VISION["depths"]), config.num_hidden_layers
    assert len(output["hidden_states"]) == stages + 1
    assert len(output["attentions"]) >= stages
    assert [tuple(state.shape) for state in output["tag_hidden_states"]] == [(2, len(TAGS), 16)] * (layers + 1)
    torch.testing.assert_close(model.classifier(output["tag_hidden_states"][-1]).squeeze(-1), plain.logits)
    for weights in output["cross_attentions"]:
        assert weights.shape[0] == 2
        assert weights.shape[2:] == (len(TAGS), plain.image_embeds.shape[1])
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_attention_weights_are_refused_where_none_are_made():
    model = RamForImageTagging._from_config(tiny_config(), attn_implementation="sdpa")
    with pytest.raises(ValueError, match="output_attentions.*eager"):
        model(images(1), output_attentions=True)


def test_image_features_are_an_output_with_tokens_and_their_projection():
    model = tiny_model()
    features = model.get_image_features(images(2), output_hidden_states=True)
    assert isinstance(features, transformers.modeling_outputs.BaseModelOutputWithPooling)
    torch.testing.assert_close(model.image_projection(features.last_hidden_state), features.pooler_output)
    torch.testing.assert_close(model(images(2)).image_embeds, features.pooler_output)
    assert len(features.hidden_states) == len(VISION["depths"]) + 1


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_lora_trains_under_gradient_checkpointing(use_reentrant):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["query", "value"], r=2))
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.get_base_model().enable_input_require_grads()
    model.train()
    labels = torch.ones(2, len(TAGS))
    model(pixel_values=images(2), labels=labels).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name}
    assert gradients
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())
    model.get_base_model().disable_input_require_grads()


def test_tags_with_their_scores():
    model = tiny_model()
    probabilities = model(images(1)).logits.sigmoid()[0].tolist()
    (found,) = model.generate_tags(images(1), thresholds=0.0, return_scores=True)
    assert [tag for tag, _ in found] == TAGS
    assert [score for _, score in found] == pytest.approx(probabilities)


@pytest.mark.parametrize("thresholds", ["abc", 1.5, -0.1, float("nan"), [0.5, 2.0, 0.5, 0.5, 0.5]])
def test_thresholds_that_are_none_are_refused(thresholds):
    with pytest.raises(ValueError, match="thresholds must"):
        tiny_model().generate_tags(images(1), thresholds=thresholds)
