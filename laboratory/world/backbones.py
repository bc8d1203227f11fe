"""
Stage 0: the base model and the tagger of the nano checkpoint, from scratch.

Six phases, each a run of `transformers.Trainer` that can be resumed; `connectors` needs `tower`, `places` needs
`language`, `answers` all four, and what needs nothing of each other can run side by side:

1. `tower`: the vision tower learns what each patch of an image shows;
2. `language`: the language model learns to answer from symbolic visual tokens, without images;
3. `places`: it learns to compare places in the same way, one object's with the middle before those of two;
4. `connectors`: Q-Former and aggregator learn to turn images into those tokens, the tower being frozen;
5. `answers`: connectors and language model learn together to answer about images;
6. `tagger`: the tagger learns the world's tags, and its thresholds are set on the validation split.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from configuration_lion.configuration_lion import LionConfig
from configuration_lion.configuration_ram import RamConfig
from laboratory.world.batches import LAYOUTS, TASK_WEIGHTS, InstructionBatches, PatchBatches
from laboratory.world.initialization import initialize_by_similarity
from laboratory.world.language import TAGS
from laboratory.world.scene import IMAGE_SIZE
from laboratory.world.tagger_thresholds import calibrate_thresholds
from laboratory.world.targets import VisualVocabulary
from laboratory.world.teachers import AnswerTeacher, ConnectorTeacher, SymbolTeacher, TaggerTeacher, TowerTeacher
from laboratory.world.tokenizer import write_qformer_tokenizer, write_t5_tokenizer
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion.image_processing_lion import LionImageProcessor
from processing_lion.processing_lion import LionProcessor
from trainers.atomic import atomic_directory, atomic_file
from trainers.precision import has_fast_bfloat16
from trainers.stages import AGGREGATOR_PARTS, Q_FORMER_PARTS


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """
    What a phase does.

    Args:
        steps (`int`): Optimiser steps.
        learning_rate (`float`): The highest.
        starts_from (`tuple[str, ...]`): Phases whose weights it takes over; each brings only what it has learnt itself.
        task_weights (`Mapping[str, int]`): How often each task is asked, where it asks any.
        layouts (`tuple[str, ...]`): Visual branches of its batches, in turns.
    """

    steps: int
    learning_rate: float
    starts_from: tuple[str, ...] = ()
    task_weights: Mapping[str, int] = field(default_factory=lambda: TASK_WEIGHTS)
    layouts: tuple[str, ...] = tuple(LAYOUTS)


# To compare two places, a model must have learnt to find each of them and to judge one: until then relations stay at
# what can be guessed, whatever their share.
_LOOKING_UP = {**TASK_WEIGHTS, "position": 0, "statement": 0}
_COMPARING = dict.fromkeys(TASK_WEIGHTS, 1) | dict.fromkeys(
    ("side", "position", "direction", "relation", "statement"), 4
)

PHASES = {
    "tower": Phase(4000, 1.5e-3),
    "language": Phase(4000, 1e-3, task_weights=_LOOKING_UP),
    "connectors": Phase(1500, 2e-3, ("tower",), _LOOKING_UP),
    "answers": Phase(2500, 6e-4, ("connectors", "places")),
    "tagger": Phase(1600, 2e-3),
    # Slots alone are quickest to read; the patches are not to be forgotten.
    "places": Phase(2000, 1e-3, ("language",), _COMPARING, ("qformer", "qformer", "both")),
}
"""The phases."""

_CONNECTORS = (*Q_FORMER_PARTS, *AGGREGATOR_PARTS)
# Phases in the order in which one process can run them; the chains need nothing of each other.
_CHAINS = (("tower", "connectors", "tagger"), ("language", "places"))
_SCENES_OF_A_PHASE = 100_000_000
_WEIGHTS = "weights.safetensors"
_BASE = "base"
_PROCESSOR = "processor"


def pretrain_backbones(
    output_dir: Path,
    resume: bool = False,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
    bf16: bool | None = None,
    save_steps: int = 250,
    processes: int = 1,
) -> Path:
    """
    Train the base model and the tagger.

    Args:
        output_dir (`Path`): Where checkpoints of the phases and the result go.
        resume (`bool`): Whether to go on where an earlier call stopped; phases that are finished are not repeated.
        steps (`Mapping[str, int]`, *optional*): Optimiser steps by phase, in place of those of [`PHASES`].
        seed (`int`): Seed of the initialisations.
        bf16 (`bool`, *optional*):
            Whether to compute in bfloat16 where that is safe. Defaults to where the device has instructions for it.
        save_steps (`int`): Steps between checkpoints.
        processes (`int`): How many phases may run side by side, each on its share of torch's threads.

    Returns:
        `Path`: A directory with a LION without adapters, its processor, and the tagger in `tagger/`.

    Raises:
        ValueError: `steps` names a phase that does not exist, `processes` is less than 1, or there is an earlier run
            and not `resume`.
    """
    output_dir = Path(output_dir)
    check_processes(processes)
    steps = steps_by_phase(PHASES, steps)
    base = output_dir / _BASE
    if is_finished(base, resume):
        return base

    build_processor(output_dir / "tokenizers").save_pretrained(output_dir / _PROCESSOR)
    bf16 = has_fast_bfloat16() if bf16 is None else bf16
    phases = Phases(output_dir, steps, seed, bf16, save_steps)
    phases.run_chains(_CHAINS, processes)
    phases.run("answers")
    lion, _ = phases.build_lion()
    phases.load(lion, "answers")
    return write_base(phases, lion, base)


def check_processes(processes: int) -> None:
    """`ValueError` unless it is the number of some processes."""
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")


def steps_by_phase(phases: Mapping[str, Phase], steps: Mapping[str, int] | None) -> dict[str, int]:
    """The steps of each phase, `steps` in place of its own; `ValueError` for a phase that does not exist."""
    steps = {**{name: phase.steps for name, phase in phases.items()}, **(steps or {})}
    unknown = sorted(set(steps) - set(phases))
    if unknown:
        raise ValueError(f"steps must name phases among {', '.join(phases)}, got {', '.join(unknown)}")
    return steps


def is_finished(base: Path, resume: bool) -> bool:
    """Whether a run has written its base; `ValueError` for an earlier run that is not to be resumed."""
    if resume and (base / "tagger" / "config.json").is_file():
        return True
    if not resume and base.parent.is_dir() and any(base.parent.iterdir()):
        raise ValueError(f"{base.parent} holds an earlier run: resume it, or choose another directory")
    return False


def _start_process(threads: int, level: int) -> None:
    logging.basicConfig(level=level)
    torch.set_num_threads(threads)


def write_base(phases: Phases, lion: LionForConditionalGeneration, base: Path) -> Path:
    """Write a model, the run's processor and its tagger (whose thresholds are set first) to `base`."""
    tagger = phases.build_tagger()
    tagger.load_state_dict(phases.weights("tagger"))
    tagger.config.thresholds = calibrate_thresholds(tagger)

    lion.set_active_branches(lion.config.visual_branches)
    lion.generation_config.update(num_beams=1, max_new_tokens=48, repetition_penalty=1.0)
    with atomic_directory(base, replace=True) as partial:
        lion.save_pretrained(partial)
        phases.processor.save_pretrained(partial)
        tagger.save_pretrained(partial / "tagger")
        LionImageProcessor.for_tagging(IMAGE_SIZE).save_pretrained(partial / "tagger")
    return base


def build_processor(directory: Path) -> LionProcessor:
    """The nano's processor; its tokenizers are written to `directory`."""
    return LionProcessor(
        LionImageProcessor(size=IMAGE_SIZE),
        write_t5_tokenizer(directory / "t5"),
        write_qformer_tokenizer(directory / "qformer"),
    )


def nano_config(processor: LionProcessor) -> LionConfig:
    """The nano's configuration without adapters, its vocabularies those of the processor."""
    config = LionConfig.from_preset("nano").to_dict()
    config["text_config"]["vocab_size"] = len(processor.tokenizer)
    config["qformer_config"]["vocab_size"] = len(processor.qformer_tokenizer)
    config["adapter_config"]["adapters"] = []
    return LionConfig.from_dict(config)


@dataclass
class Phases:
    """
    The phases of one run; what they make is kept in files, so that each can run in a process of its own.

    Args:
        output_dir (`Path`): The run's directory; each phase has a subdirectory.
        steps (`Mapping[str, int]`): Optimiser steps of each phase.
        seed (`int`): Seed of the initialisations.
        bf16 (`bool`): Whether to compute in bfloat16 where that is safe.
        save_steps (`int`): Steps between checkpoints.
    """

    output_dir: Path
    steps: Mapping[str, int]
    seed: int
    bf16: bool
    save_steps: int

    phases: ClassVar[Mapping[str, Phase]] = PHASES

    @property
    def processor(self) -> LionProcessor:
        """The run's processor, read from its files."""
        return LionProcessor.from_pretrained(self.output_dir / _PROCESSOR)

    def build_lion(self) -> tuple[LionForConditionalGeneration, VisualVocabulary]:
        """The model as it is before any training, and the visual tokens that it is to read; always the same."""
        processor = self.processor
        set_seed(self.seed)
        lion = LionForConditionalGeneration(nano_config(processor))
        initialize_by_similarity(lion.language_model, processor.tokenizer)
        nn.init.normal_(lion.query_tokens.weight, std=0.5)
        words = lion.get_input_embeddings().weight
        return lion, VisualVocabulary(words, processor.tokenizer, lion.config.num_query_tokens)

    def build_tagger(self) -> RamForImageTagging:
        """The tagger as it is before any training; always the same."""
        config = RamConfig.from_preset(
            "nano", tags=list(TAGS), loss_gamma_neg=4.0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        set_seed(self.seed)
        return RamForImageTagging(config)

    def first_scene(self, phase: str) -> int:
        """The first scene of a phase: each sees images of its own."""
        return _SCENES_OF_A_PHASE * list(self.phases).index(phase)

    def is_finished(self, phase: str) -> bool:
        """Whether a phase has ended."""
        return (self.output_dir / phase / _WEIGHTS).is_file()

    def weights(self, phase: str) -> dict[str, torch.Tensor]:
        """What a finished phase has learnt."""
        return load_file(self.output_dir / phase / _WEIGHTS)

    def load(self, lion: LionForConditionalGeneration, *phases: str) -> None:
        """Give a model what finished phases have learnt, each its own part."""
        for phase in phases:
            learnt = self.weights(phase)
            if phase == "tower":
                lion.vision_model.load_state_dict(learnt)
            elif phase == "answers":
                lion.load_state_dict(learnt)
            else:
                is_visual = phase == "connectors"
                own = {name: value for name, value in learnt.items() if _is_visual(name) is is_visual}
                lion.load_state_dict(own, strict=False)

    def patches(self, phase: str, for_tagger: bool = False) -> PatchBatches:
        """A phase's images with dense targets."""
        patch_size = LionConfig.from_preset("nano").vision_config.patch_size
        return PatchBatches(self.steps[phase], self.first_scene(phase), 64, patch_size, for_tagger)

    def instructions(self, phase: str, num_scenes: int, questions: int, images: bool) -> InstructionBatches:
        """A phase's instructions; arguments as in [`~laboratory.world.batches.InstructionBatches`]."""
        config = LionConfig.from_preset("nano")
        return InstructionBatches(
            self.steps[phase],
            self.first_scene(phase),
            num_scenes,
            self.processor,
            questions,
            config.vision_config.patch_size,
            config.num_query_tokens,
            images,
            self.phases[phase].task_weights,
            self.phases[phase].layouts,
        )

    def run_in_turn(self, phases: Sequence[str]) -> None:
        """Run phases one after the other."""
        for phase in phases:
            self.run(phase)

    def run_chains(self, chains: Sequence[Sequence[str]], processes: int) -> None:
        """
        Run the phases of each chain one after the other, as many chains at once as there are processes for.

        Under `torchrun` all processes share the batches of one phase, so the chains run one after the other.
        """
        if processes == 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            for chain in chains:
                self.run_in_turn(chain)
            return
        threads = max(1, torch.get_num_threads() // processes)
        logger.info("%s: side by side, %d threads each.", " and ".join(map(", ".join, chains)), threads)
        # Forked, a process would share the parent's thread pools.
        with ProcessPoolExecutor(
            processes, get_context("spawn"), _start_process, (threads, logging.getLogger().getEffectiveLevel())
        ) as pool:
            list(pool.map(self.run_in_turn, chains))

    def run(self, phase: str) -> None:
        """Run a phase from its last checkpoint; one that is finished is left as it is."""
        if self.is_finished(phase):
            return
        if phase == "tagger":
            tagger = self.build_tagger()
            self.train(phase, TaggerTeacher(tagger), tagger, self.patches(phase, for_tagger=True))
            return
        lion, vocabulary = self.build_lion()
        self.load(lion, *self.phases[phase].starts_from)
        if phase == "tower":
            self.train(phase, TowerTeacher(lion), lion.vision_model, self.patches(phase))
        elif phase in ("language", "places"):
            self.train(phase, SymbolTeacher(lion, vocabulary), lion, self.instructions(phase, 16, 4, False))
        elif phase == "connectors":
            self.train(
                phase,
                ConnectorTeacher(lion, vocabulary),
                lion,
                self.instructions(phase, 64, 1, True),
                is_of_a_connector,
            )
        else:
            self.train(phase, AnswerTeacher(lion), lion, self.instructions(phase, 16, 8, True), _not_of_the_tower)

    def train(
        self,
        phase: str,
        teacher: nn.Module,
        learner: nn.Module,
        batches: Dataset,
        is_trained: Callable[[str], bool] = lambda name: True,
        decay_steps: int | None = None,
    ) -> None:
        """Train `teacher`'s parameters that `is_trained` names; keep the state of `learner`, a part of it.

        The learning rate falls along a cosine, or stays as it is until the last `decay_steps`: a run of which nobody
        knows how long it takes can then be ended at any time.
        """
        directory = self.output_dir / phase
        finished = directory / _WEIGHTS
        for name, parameter in teacher.named_parameters():
            parameter.requires_grad_(is_trained(name))
        rate = self.phases[phase].learning_rate
        args = TrainingArguments(
            output_dir=str(directory),
            max_steps=self.steps[phase],
            per_device_train_batch_size=1,  # an item of the dataset is a batch
            learning_rate=rate,
            lr_scheduler_type="cosine_with_min_lr" if decay_steps is None else "warmup_stable_decay",
            lr_scheduler_kwargs={"min_lr": 0.03 * rate} if decay_steps is None else {"num_decay_steps": decay_steps},
            warmup_steps=min(200, self.steps[phase] // 10),
            weight_decay=0.02,
            adam_beta2=0.98,
            bf16=self.bf16,
            seed=self.seed,
            save_steps=self.save_steps,
            save_total_limit=1,
            logging_steps=50,
            report_to=[],
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = _InOrder(teacher, args, train_dataset=batches, data_collator=_the_one)
        checkpoint = get_last_checkpoint(directory) if directory.is_dir() else None
        logger.info("Phase %s: %d steps%s.", phase, args.max_steps, f", from {checkpoint}" if checkpoint else "")
        trainer.train(resume_from_checkpoint=checkpoint)
        if not trainer.is_world_process_zero():
            return
        trainer.state.save_to_json(str(directory / "trainer_state.json"))
        # Written last and in one go: it says that the phase is finished.
        with atomic_file(finished) as partial:
            save_file({name: value.contiguous().clone() for name, value in learner.state_dict().items()}, partial)


def is_of_a_connector(name: str) -> bool:
    """
    Whether a parameter (of the model, or of a teacher of it) belongs to Q-Former, aggregator or their
    projections.
    """
    return name.removeprefix("lion.").startswith(_CONNECTORS)


def _is_visual(name: str) -> bool:
    return is_of_a_connector(name) or name.startswith("vision_model.")


def _not_of_the_tower(name: str) -> bool:
    return is_of_a_connector(name) or not name.removeprefix("lion.").startswith("vision_model.")


class _InOrder(Trainer):
    """Takes the batches by their numbers, and saves models that are none of transformers' own."""

    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def _save(self, output_dir=None, state_dict=None):
        # T5's embeddings have three names; the stock method writes no tensor twice only for models of transformers.
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(Path(output_dir) / "model.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # The stock method takes the names that `save_model` left out for missing ones, and fails while it says so.
        load_model(self.model, str(Path(resume_from_checkpoint) / "model.safetensors"))


def _the_one(items: list[dict]) -> dict:
    return items[0]
