"""The training that `test_streams.py` runs: `torchrun stream_processes.py PICTURES DIRECTORY...`."""

import json
import shutil
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from tests.trainers.conftest import make_processor, make_rows, tiny_model
from trainers.collator import LionDataCollator
from trainers.datasets_lion import build_dataset
from trainers.recipe import SourceRecipe
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer
from trainers.stages import get_stage


NUM_ROWS = 24
GLOBAL_BATCH = 4
MAX_STEPS = 6


def write_shards(folder: Path, images: Path, count: int) -> None:
    """`make_rows` as JSON Lines in `count` files of equal length."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "image": f"{i}.png"} for i, row in enumerate(make_rows(NUM_ROWS))]
    length = NUM_ROWS // count
    for i in range(count):
        lines = [json.dumps(row) + "\n" for row in rows[i * length : (i + 1) * length]]
        (folder / f"rows-{i}.jsonl").write_text("".join(lines))


class RecordingTrainer(LionSFTTrainer):
    """Writes down the rows of every step, once they have arrived in the main process."""

    def training_step(self, model, inputs, *args, **kwargs):
        names = [f"{int(number)}.png" for number in inputs.pop("rows")]
        path = Path(self.args.output_dir) / f"seen-{self.args.process_index}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(names) + "\n")
        return super().training_step(model, inputs, *args, **kwargs)


class RecordingCollator(LionDataCollator):
    def __call__(self, rows):
        return {**super().__call__(rows), "rows": torch.tensor([int(Path(r["image"]["path"]).stem) for r in rows])}


def read_seen(path: Path, process: int = 0) -> list[list[str]]:
    return [json.loads(line) for line in (path / f"seen-{process}.jsonl").read_text().splitlines()]


def train(shards: Path, images: Path, path: Path, workers: int = 0, resume: bool = False) -> None:
    args = LionSFTConfig(
        output_dir=str(path),
        use_cpu=True,
        max_steps=MAX_STEPS,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=3,
        dataloader_num_workers=workers,
        own_streams=True,
        plots=False,
        disable_tqdm=True,
    )
    args.per_device_train_batch_size = GLOBAL_BATCH // args.world_size
    # transformers 4 cannot load an optimiser's state to what it calls the device of several processes, `cpu:0`.
    args.__dict__["_setup_devices"] = torch.device("cpu")
    source = SourceRecipe(
        path=str(shards / "*.jsonl"),
        name="rows",
        streaming=True,
        shuffle_buffer=4,
        tags="column",
        level="column",
        image_folder=str(images),
    )
    processor = make_processor()
    trainer = RecordingTrainer(
        tiny_model(),
        args,
        train_dataset=build_dataset([source], process_index=args.process_index, num_processes=args.world_size),
        processing_class=processor,
        data_collator=RecordingCollator(processor),
        peft_config=get_stage("stage3").peft_config(bottleneck_size=4),
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()


def train_and_resume(shards: Path, images: Path, path: Path, workers: int = 0) -> None:
    """Train in `path/whole`, and in `path/resumed` from the checkpoint that a run killed half-way would leave."""
    train(shards, images, path / "whole", workers)
    state = PartialState()
    if state.is_main_process:
        shutil.copytree(path / "whole" / "checkpoint-3", path / "resumed" / "checkpoint-3")
    state.wait_for_everyone()
    train(shards, images, path / "resumed", workers, resume=True)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[2:]):
        train_and_resume(folder / "shards", Path(sys.argv[1]), folder)
    PartialState().destroy_process_group()
