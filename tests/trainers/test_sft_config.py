import dataclasses
import re

import pytest

from trainers.sft_config import LionSFTConfig


def config(tmp_path, **fields) -> LionSFTConfig:
    return LionSFTConfig(output_dir=str(tmp_path), use_cpu=True, **fields)


def test_every_own_field_is_documented_with_its_default():
    parent = {field.name for field in dataclasses.fields(LionSFTConfig.__base__)}
    entries = re.findall(r"^        (\w+) \((.*)\):", LionSFTConfig.__doc__, re.M)
    documented = {name: kind.partition("defaults to ")[2].strip("`") for name, kind in entries}
    for field in dataclasses.fields(LionSFTConfig):
        if field.name in parent:
            continue
        assert field.metadata.get("help"), field.name
        assert field.name in documented
        if field.default is not None:
            assert documented[field.name].strip('"') == str(field.default), field.name


def test_changed_defaults_are_the_documented_ones(tmp_path):
    args = config(tmp_path)
    assert args.label_names == ["labels"]
    assert args.remove_unused_columns is False
    assert args.gradient_checkpointing is False
    assert args.bf16 is False
    assert args.report_to == []
    assert args.crop_scale == (0.5, 1.0)


@pytest.mark.filterwarnings("error:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("enabled", [False, True])
def test_gradient_checkpointing_is_set_under_its_old_and_new_name(tmp_path, enabled):
    args = config(tmp_path, gradient_checkpointing=enabled)
    assert args.gradient_checkpointing is enabled
    assert getattr(args, "activation_checkpointing", enabled) is enabled


def test_warmup_below_one_is_a_share_of_the_steps(tmp_path):
    assert config(tmp_path, warmup_steps=0.25).get_warmup_steps(200) == 50
    assert config(tmp_path, warmup_steps=7).get_warmup_steps(200) == 7


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"stage": "stage4"}, "`stage` must be one of"),
        ({"bad_rows": "ignore"}, "`bad_rows`"),
        ({"aggregator_learning_rate_scale": 0}, "`aggregator_learning_rate_scale`"),
        ({"crop_scale": (0.9, 0.5)}, "`crop_scale`"),
        ({"flip_probability": 2}, "`flip_probability`"),
        ({"remove_unused_columns": True}, "`remove_unused_columns`"),
        ({"packing": True}, "`packing`"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor`"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path, fields, problem):
    with pytest.raises(ValueError, match=problem):
        config(tmp_path, **fields)
