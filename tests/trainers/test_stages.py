import pytest

from tests.trainers.conftest import tiny_model
from trainers.stages import STAGES, get_stage


BOTH = ["region_level", "image_level"]

# What each stage trains, by the top-level part of the parameter's name.
TRAINED = {
    "stage1": {
        "vision_model.post_layernorm",
        "query_tokens",
        "qformer",
        "language_projection",
        "soft_prompt",
        "adapters.1",
    },
    "stage2": {"vision_aggregator", "aggregator_norm", "aggregator_projection", "soft_prompt", "adapters.0"},
}
TRAINED["stage3"] = TRAINED["stage1"] | TRAINED["stage2"] | {"router_ratios"}


def part_of(name: str) -> str:
    if ".adapter." in name:
        return "router_ratios" if "router_ratios" in name else "adapters." + name.split(".adapter.adapters.")[1][0]
    if name.startswith("vision_model.post_layernorm"):
        return "vision_model.post_layernorm"
    return name.split(".")[0]


@pytest.mark.parametrize("name", STAGES)
def test_exactly_the_parts_of_the_stage_are_trainable(name):
    model = tiny_model(BOTH)
    trainable = get_stage(name).freeze(model)
    assert {part_of(p) for p in trainable} == TRAINED[name]
    assert trainable == [n for n, p in model.named_parameters() if p.requires_grad]
    # Nothing of these parts is left out.
    assert all((part_of(n) in TRAINED[name]) == p.requires_grad for n, p in model.named_parameters())
    assert model.active_branches == STAGES[name].visual_branches


def test_stages_can_follow_each_other_on_one_model():
    model = tiny_model(BOTH)
    get_stage("stage1").freeze(model)
    trainable = get_stage("stage2").freeze(model)
    assert {part_of(p) for p in trainable} == TRAINED["stage2"]


def test_names_that_match_nothing_are_errors():
    with pytest.raises(ValueError, match="trains the adapter 'image_level', but the model has none"):
        get_stage("stage1").freeze(tiny_model())
    model = tiny_model(["image_level"])
    with pytest.raises(ValueError, match="'region_level', but the model has"):
        get_stage("stage3").freeze(model)
    del model.soft_prompt
    with pytest.raises(ValueError, match="trains `soft_prompt`, but LionForConditionalGeneration has no parameters"):
        get_stage("stage1").freeze(model)
    with pytest.raises(ValueError, match="`stage` must be one of"):
        get_stage("stage4")


@pytest.mark.parametrize("name", STAGES)
def test_peft_trains_the_same_parts(name):
    from peft import get_peft_model

    stage = get_stage(name)
    model = get_peft_model(tiny_model(), stage.peft_config(bottleneck_size=4))
    plain = tiny_model(BOTH)
    stage.freeze(plain)
    counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (model, plain)]
    assert counts[0] == counts[1]
    assert tuple(model.get_base_model().active_branches) == stage.visual_branches
