"""QLoRA's way: stages of LION trained beside a base in four bits."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

from configuration_lion import LionConfig
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.peft_lion import LionAdapterConfig
from tests.trainers.conftest import make_rows, tiny_config
from trainers import LionSFTConfig, LionSFTTrainer
from trainers.stages import get_stage


pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def base_checkpoint(tmp_path_factory) -> Path:
    """bitsandbytes packs four bits for processors with bfloat16 instructions only where sizes are multiples of 64."""
    config = tiny_config().to_dict()
    for part in ("vision_config", "qformer_config"):
        config[part].update(hidden_size=64, intermediate_size=64)
    config["text_config"].update(d_model=64, d_kv=32, d_ff=64)
    config["aggregator_config"]["intermediate_size"] = 64
    path = tmp_path_factory.mktemp("base_of_multiples")
    torch.manual_seed(0)
    LionForConditionalGeneration(LionConfig.from_dict(config)).save_pretrained(path)
    return path


def load(path, **options) -> LionForConditionalGeneration:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **options)
    return LionForConditionalGeneration.from_pretrained(
        path, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )


def test_a_stage_trains_on_four_bits(base_checkpoint, processor, tmp_path):
    stage = get_stage("stage3")
    model = get_peft_model(load(base_checkpoint), stage.peft_config(bottleneck_size=4))
    lion = model.get_base_model()
    frozen = lion.language_model.encoder.block[0].layer[0].SelfAttention.q.weight
    before = frozen.detach().clone()
    args = LionSFTConfig(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        logging_steps=1,
        use_cpu=True,
        plots=False,
        disable_tqdm=True,
    )
    trainer = LionSFTTrainer(model, args, train_dataset=make_rows(16), processing_class=processor)
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    assert frozen.dtype == torch.uint8
    assert torch.equal(frozen, before)
    moved = {name for name, p in model.named_parameters() if p.requires_grad and not torch.equal(p, start[name])}
    for part in ("qformer", "vision_aggregator", "soft_prompt", "up_proj", "router_ratios"):
        assert [name for name in moved if part in name], part

    trainer.save_model(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(base_checkpoint), tmp_path / "adapter")
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    with torch.no_grad():
        trained, loaded, untrained = (m.eval()(**inputs).logits for m in (model, again, load(base_checkpoint)))
    # TRL trains in bfloat16 beside four bits; loaded beside a base in float32, the same weights compute in float32.
    assert (loaded - trained).norm() < 0.02 * (untrained - trained).norm()


def test_what_is_quantised_cannot_be_trained(base_checkpoint):
    with pytest.raises(ValueError, match="quantised"):
        get_peft_model(
            load(base_checkpoint, llm_int8_skip_modules=["lm_head"]), LionAdapterConfig(trained_modules=["qformer"])
        )
