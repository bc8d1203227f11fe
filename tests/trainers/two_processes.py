"""The training that `test_distributed.py` runs in one process, and in two: `torchrun two_processes.py DIRECTORY`."""

import sys
from pathlib import Path

from accelerate import PartialState

from tests.trainers.conftest import make_processor, make_rows, tiny_model
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import get_stage


GLOBAL_BATCH = 4
KINDS = ("map", "stream")


def train(path: Path, kind: str, processes: int) -> None:
    rows = make_rows(12).add_column("index", list(range(12)))
    trainer = LionSFTTrainer(
        tiny_model(dropout=0.0),
        LionSFTConfig(
            output_dir=str(path),
            use_cpu=True,
            max_steps=4,
            per_device_train_batch_size=GLOBAL_BATCH // processes,
            per_device_eval_batch_size=GLOBAL_BATCH // processes,
            gradient_accumulation_steps=2,
            # Adam would blow rounding errors up where gradients are next to nothing.
            optim="sgd",
            learning_rate=1e-1,
            logging_steps=1,
            save_strategy="no",
            generation_max_new_tokens=4,
            disable_tqdm=True,
        ),
        train_dataset=rows.to_iterable_dataset().repeat(None) if kind == "stream" else rows,
        eval_dataset=make_rows(5),
        processing_class=make_processor(),
        peft_config=get_stage("stage3").peft_config(bottleneck_size=4),
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()


if __name__ == "__main__":
    for name in KINDS:
        train(Path(sys.argv[1]) / name, name, processes=2)
    PartialState().destroy_process_group()
