"""
The training that `test_sharded.py` runs in one process, and with all weights shared out over two:
`torchrun sharded_processes.py fsdp|deepspeed_zero3 DIRECTORY`.
"""

import os
import shutil
import sys
from pathlib import Path

import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType

from tests.trainers.conftest import make_processor, make_rows, tiny_model
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import get_stage


GLOBAL_BATCH = 4
RECIPES = Path(__file__).parents[2] / "trainers" / "recipes" / "accelerate"


def follow_recipe(engine: str) -> None:
    """What `accelerate launch --config_file ENGINE.yaml` tells its processes, the precision aside."""
    recipe = yaml.safe_load((RECIPES / f"{engine}.yaml").read_text())
    if engine == "fsdp":
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        for name, value in recipe["fsdp_config"].items():
            name = {"fsdp_transformer_layer_cls_to_wrap": "fsdp_transformer_cls_to_wrap"}.get(name, name)
            os.environ[name.upper()] = str(value)
    else:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        for name, value in recipe["deepspeed_config"].items():
            name = name.removesuffix("_flag")
            os.environ[f"ACCELERATE_DEEPSPEED_{name.upper()}"] = str(value).lower()


def allow_processors(engine: str, args: LionSFTConfig) -> None:
    """Let processors shard weights, and small ones."""
    if engine == "fsdp":
        # accelerate shards nothing where there are no GPUs. Beyond that word, it works on processors.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    elif engine == "deepspeed_zero3":
        import deepspeed  # noqa: F401

        # Shared memory is for speed, and takes minutes to compile; gloo is there.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
        # All weights of a tiny model are below what is worth sharing out.
        settings = args.deepspeed_plugin.hf_ds_config.config["zero_optimization"]
        settings["stage3_param_persistence_threshold"] = 0


def train(path: Path, engine: str | None = None, resume: bool = False, max_steps: int = 2) -> LionSFTTrainer:
    args = LionSFTConfig(
        output_dir=str(path),
        use_cpu=True,
        max_steps=max_steps,
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        # Large enough that rounding errors of next to no gradient stay small.
        adam_epsilon=1e-2,
        logging_steps=1,
        save_steps=1,
        generation_max_new_tokens=4,
        gradient_checkpointing=True,
        plots=False,
        disable_tqdm=True,
    )
    args.per_device_train_batch_size = GLOBAL_BATCH // args.world_size
    if engine is not None:
        allow_processors(engine, args)
    trainer = LionSFTTrainer(
        tiny_model(dropout=0.0),
        args,
        train_dataset=make_rows(12).add_column("index", list(range(12))),
        eval_dataset=make_rows(4),
        processing_class=make_processor(),
        peft_config=get_stage("stage3").peft_config(bottleneck_size=4),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def is_shared_out(trainer: LionSFTTrainer) -> bool:
    """Whether this process holds a part only of every large weight."""
    weights = [p for p in trainer.model.parameters() if p.ndim == 2]
    held = [p.to_local() if hasattr(p, "to_local") else p for p in weights]
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p.ds_tensor.new_empty(p.ds_shape) for p in weights]
    return all(own.numel() < all_of_it.numel() for own, all_of_it in zip(held, whole))


def main(engine: str, path: Path) -> None:
    follow_recipe(engine)
    trainer = train(path / "whole", engine)
    assert is_shared_out(trainer)
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        shutil.copytree(path / "whole" / "checkpoint-1", path / "resumed" / "checkpoint-1")
        # Its last step is not the last one of its epoch.
        shutil.copytree(path / "whole" / "checkpoint-1", path / "finished" / "checkpoint-1")
    trainer.accelerator.wait_for_everyone()
    trainer = train(path / "resumed", engine, resume=True)
    trainer.save_model()
    trainer.save_state()
    trainer = train(path / "finished", engine, resume=True, max_steps=1)
    assert is_shared_out(trainer)
    trainer.save_model()
    trainer.save_state()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    PartialState().destroy_process_group()
