"""
Stage 0 of a nano whose stages do the work: a tower that knows what it sees, a language model that has never seen it.

Phases, each of which can be resumed; the first three need nothing of each other:

1. `tower` and `tagger`: as in [`~laboratory.world.backbones`];
2. `literacy`: the language model learns from text and symbols alone (see [`~laboratory.world.text_tasks`]), and is then
   frozen for good;
3. `alignment`: the Q-Former learns to say a caption's words: what stands there, from left to right, but not where. The
   tower is frozen, but for its last norm, which is the Q-Former's own.

Aggregator, adapters and soft prompt stay untrained. The aggregator's projection starts as a regression from the tower's
features to the words of what each patch shows (see [`start_projection`]); places are not in it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import set_seed

from laboratory.world.backbones import (
    Phase,
    Phases,
    build_processor,
    check_processes,
    is_finished,
    nano_config,
    steps_by_phase,
    write_base,
)
from laboratory.world.batches import (
    WorldBatches,
    encode_instructions,
    pixel_values,
    stack_targets,
)
from laboratory.world.dataset import LEVELS
from laboratory.world.initialization import initialize_by_similarity
from laboratory.world.language import CAPTION_PROMPTS, TASKS, Sample, scene_caption
from laboratory.world.literacy import ExercisePool, LiteracyBatches, LiteracyTeacher
from laboratory.world.scene import SPLITS, sample_scene
from laboratory.world.targets import patch_targets, slot_targets
from laboratory.world.teachers import TaggerTeacher, TowerTeacher
from laboratory.world.text_tasks import (
    Exercise,
    SymbolVocabulary,
    sample_exercises,
    scene_symbols,
    score_literacy,
)
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion.image_processing_lion import CLIP_MEAN, CLIP_STD
from processing_lion.processing_lion import LionProcessor
from processing_lion.prompts_lion import format_prompt
from trainers.atomic import atomic_file
from trainers.precision import has_fast_bfloat16
from trainers.stages import Q_FORMER_PARTS


logger = logging.getLogger(__name__)

PHASES = {
    "tower": Phase(4000, 1.5e-3),
    "tagger": Phase(1600, 2e-3),
    "literacy": Phase(3000, 1.5e-3),
    "alignment": Phase(300, 2e-3),
}
"""The phases."""

MOST_OBJECTS = 3
"""Objects of the fullest scene that language model, Q-Former and stages learn from."""

NUM_SLOTS = 4
"""Query tokens: one an object, and one to spare."""

_CHAINS = (("literacy",), ("tower", "tagger"))
_ALIGNMENT_BATCH, _LITERACY_BATCH = 32, 512
_LITERACY_SCENES = 150_000
_RIDGE_SCENES = 3000
_RIDGE_PENALTY = 1.0


def pretrain_staged_base(
    output_dir: Path,
    resume: bool = False,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
    bf16: bool | None = None,
    save_steps: int = 250,
    processes: int = 1,
) -> Path:
    """
    Train the base model and the tagger; arguments as in [`~laboratory.world.backbones.pretrain_backbones`].

    Returns:
        `Path`: A directory with a LION without adapters, its processor, and the tagger in `tagger/`.
    """
    output_dir = Path(output_dir)
    check_processes(processes)
    steps = steps_by_phase(PHASES, steps)
    base = output_dir / "base"
    if is_finished(base, resume):
        return base
    build_processor(output_dir / "tokenizers").save_pretrained(output_dir / "processor")
    phases = StagedPhases(output_dir, steps, seed, has_fast_bfloat16() if bf16 is None else bf16, save_steps)
    phases.run_chains(_CHAINS, processes)
    phases.run("alignment")
    return write_base(phases, phases.build_base(), base)


class StagedPhases(Phases):
    """Phases of a base model that is made for LION's stages; arguments as in [`~laboratory.world.backbones.Phases`]."""

    phases = PHASES

    def build_student(self) -> tuple[LionForConditionalGeneration, SymbolVocabulary]:
        """The model before any training, and the symbols that it is to read; always the same."""
        processor = self.processor
        set_seed(self.seed)
        config = nano_config(processor)
        config.num_query_tokens = NUM_SLOTS
        lion = LionForConditionalGeneration(config)
        initialize_by_similarity(lion.language_model, processor.tokenizer)
        nn.init.normal_(lion.query_tokens.weight, std=0.5)
        words = lion.get_input_embeddings().weight
        return lion, SymbolVocabulary(words, processor.tokenizer, lion.config.num_query_tokens)

    def check_symbols(self, phase: str, vocabulary: SymbolVocabulary) -> None:
        """
        Keep the symbols that a phase is trained with beside its weights, or compare: language model and Q-Former
        understand each other only by the same ones, which are drawn at random.

        Raises:
            ValueError: the phase has been trained, or begun, with others, or is finished and does not say with which.
        """
        path = self.output_dir / phase / "symbols.safetensors"
        symbols = dict(vocabulary.named_buffers())
        if not path.is_file() and self.is_finished(phase):
            raise ValueError(f"{path.parent} does not say which symbols it was trained with: run {phase} anew")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as partial:
                save_file({name: value.contiguous() for name, value in symbols.items()}, partial)
            return
        before = load_file(path)
        if before.keys() != symbols.keys() or not all(
            before[name].shape == value.shape and torch.allclose(before[name], value, atol=1e-3)
            for name, value in symbols.items()
        ):
            raise ValueError(f"{path.parent} was trained with other symbols than this code draws: run {phase} anew")

    def run(self, phase: str) -> None:
        """Run a phase from its last checkpoint; one that is finished is left as it is."""
        if self.is_finished(phase):
            return
        if phase == "tagger":
            tagger = self.build_tagger()
            self.train(phase, TaggerTeacher(tagger), tagger, self.patches(phase, for_tagger=True))
            return
        lion, vocabulary = self.build_student()
        if phase == "tower":
            self.train(phase, TowerTeacher(lion), lion.vision_model, self.patches(phase))
        elif phase == "literacy":
            self.check_symbols(phase, vocabulary)
            pool = self.exercises(phase, lion.config.num_query_tokens)
            # A CPU pays for what is padded, a GPU for every call of a model that is so small.
            parts = 2 if torch.cuda.is_available() else 8
            batches = LiteracyBatches(pool, self.steps[phase], _LITERACY_BATCH, self.seed, parts)
            teacher = LiteracyTeacher(lion, vocabulary)
            is_trained, decay_steps = _begins_with("language_model"), max(1, self.steps[phase] // 6)
            self.train(phase, teacher, lion.language_model, batches, is_trained, decay_steps)
            self.exercise_file(phase).unlink(missing_ok=True)
        else:
            self.check_symbols(phase, vocabulary)
            self.load_tower(lion)
            batches = AlignmentBatches(
                self.steps[phase],
                self.first_scene(phase),
                _ALIGNMENT_BATCH,
                self.processor,
                lion.config.num_query_tokens,
                MOST_OBJECTS,
            )
            teacher = AlignmentTeacher(lion, vocabulary)
            self.train(phase, teacher, lion, batches, _begins_with(*Q_FORMER_PARTS))

    def exercise_file(self, phase: str) -> Path:
        """Where exercises are kept until the phase is finished: making them takes minutes."""
        return self.output_dir / phase / "exercises.safetensors"

    def exercises(self, phase: str, num_slots: int) -> ExercisePool:
        """The exercises of a phase, as an earlier call has left them or made now."""
        path = self.exercise_file(phase)
        with PartialState().main_process_first():
            if path.is_file():
                return ExercisePool.load(path)
            logger.info("Making exercises of %d scenes.", _LITERACY_SCENES)
            pool = ExercisePool.make(self.processor, _LITERACY_SCENES, self.first_scene(phase), num_slots, MOST_OBJECTS)
            with atomic_file(path) as partial:
                pool.save(partial)
            return pool

    def load_tower(self, lion: LionForConditionalGeneration) -> None:
        """Give a model the trained tower, its last norm as new: that one is trained with the Q-Former."""
        lion.vision_model.load_state_dict(self.weights("tower"))
        nn.init.ones_(lion.vision_model.post_layernorm.weight)
        nn.init.zeros_(lion.vision_model.post_layernorm.bias)

    def build_base(self) -> LionForConditionalGeneration:
        """What stage 1 starts from: tower, language model, aligned Q-Former, and the rest untrained."""
        lion, vocabulary = self.build_student()
        for phase in ("literacy", "alignment"):
            self.check_symbols(phase, vocabulary)
        self.load_tower(lion)
        own = {name: value for name, value in self.weights("alignment").items() if name.startswith(Q_FORMER_PARTS)}
        lion.load_state_dict(own, strict=False)
        lion.language_model.load_state_dict(self.weights("literacy"))
        start_projection(lion, vocabulary, SPLITS["train"][self.first_scene("alignment") :][:_RIDGE_SCENES])
        return lion


def _begins_with(*parts: str) -> Callable[[str], bool]:
    return lambda name: name.removeprefix("lion.").startswith(parts)


class AlignmentBatches(WorldBatches):
    """
    Images with the words of their captions.

    Args:
        num_batches, first_scene, num_scenes: See [`~laboratory.world.batches.WorldBatches`].
        processor ([`LionProcessor`]): For the texts.
        num_slots (`int`): Object slots.
        most_objects (`int`, *optional*): Objects of the fullest scene.
    """

    def __init__(
        self,
        num_batches: int,
        first_scene: int,
        num_scenes: int,
        processor: LionProcessor,
        num_slots: int,
        most_objects: int | None = None,
    ):
        super().__init__(num_batches, first_scene, num_scenes)
        self.processor, self.num_slots, self.most_objects = processor, num_slots, most_objects

    def make(self, index, seeds):
        rng = np.random.default_rng([self.first_scene, index])
        scenes = [sample_scene(seed, most_objects=self.most_objects) for seed in seeds]
        prompts = [*CAPTION_PROMPTS, format_prompt("caption_long")]
        samples = [
            Sample("caption", "image_level", prompts[rng.integers(len(prompts))], scene_caption(scene))
            for scene in scenes
        ]
        texts = encode_instructions(self.processor, samples, None)
        slots = stack_targets([slot_targets(scene, self.num_slots) for scene in scenes])
        return {
            "pixel_values": pixel_values(scenes, CLIP_MEAN, CLIP_STD),
            "qformer_input_ids": texts["qformer_input_ids"],
            "qformer_attention_mask": texts["qformer_attention_mask"],
            "glyph": slots["glyph"],
            "color": slots["color"],
        }


class AlignmentTeacher(nn.Module):
    """Teaches the Q-Former to turn images into the symbols of their captions' words, without places."""

    def __init__(self, lion: LionForConditionalGeneration, vocabulary: SymbolVocabulary):
        super().__init__()
        self.lion, self.vocabulary = lion, vocabulary

    def forward(
        self,
        pixel_values: torch.Tensor,
        qformer_input_ids: torch.Tensor,
        qformer_attention_mask: torch.Tensor,
        glyph: torch.Tensor,
        color: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """A batch of [`AlignmentBatches`]."""
        self.lion.set_active_branches(("qformer",))
        features = self.lion.encode_images(pixel_values)
        tokens = self.lion.get_visual_embeds(features, qformer_input_ids, qformer_attention_mask).float()
        slots = self.vocabulary.slot[1:]
        loss = 2 * F.mse_loss(tokens, self.vocabulary.objects(glyph, color) + slots)
        for words, target in zip(self.vocabulary.kinds(), (glyph, color)):
            scores = (tokens - slots) @ words.T * (8 / tokens.shape[-1])
            loss = loss + F.cross_entropy(scores.flatten(0, 1), target.flatten())
        return {"loss": loss}


@torch.no_grad()
def start_projection(lion: LionForConditionalGeneration, vocabulary: SymbolVocabulary, seeds: Sequence[int]) -> float:
    """
    Start the aggregator's projection so that the tokens of an untrained aggregator name what the patches show.

    Its first layer is random, its second the ridge regression from there to the words of each patch's kind and colour.

    Args:
        lion ([`LionForConditionalGeneration`]): Its tower is trained, its aggregator is not; changed in place.
        vocabulary ([`SymbolVocabulary`]): Words as vectors.
        seeds (`Sequence[int]`): Scenes to regress on.

    Returns:
        `float`: Share of the words' variance that is left unexplained.
    """
    lion.set_active_branches(("aggregator",))
    config, projection = lion.config, lion.aggregator_projection
    width = projection.fc1.in_features
    generator = torch.Generator().manual_seed(0)
    projection.fc1.weight.copy_(torch.randn(projection.fc1.weight.shape, generator=generator) * 1.5 / math.sqrt(width))
    projection.fc1.bias.copy_(torch.randn(projection.fc1.bias.shape, generator=generator) * 0.5)
    size = projection.fc1.out_features + 1
    gram = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(size, projection.fc2.out_features, dtype=torch.float64)
    square, total, count = 0.0, torch.zeros(projection.fc2.out_features, dtype=torch.float64), 0
    for start in range(0, len(seeds), 100):
        scenes = [sample_scene(seed, most_objects=MOST_OBJECTS) for seed in seeds[start : start + 100]]
        kept = (config.aggregator_config.query_layer, *config.aggregator_config.context_layers)
        _, blocks = lion.vision_model(pixel_values(scenes, CLIP_MEAN, CLIP_STD), kept_blocks=kept)
        aggregated = lion.vision_aggregator(blocks[kept[0]], [blocks[index] for index in kept[1:]])
        hidden = F.gelu(projection.fc1(lion.aggregator_norm(aggregated)))[:, 1:].flatten(0, 1).double()
        hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        targets = stack_targets([patch_targets(scene, config.vision_config.patch_size) for scene in scenes])
        words = vocabulary.objects(targets["glyph"], targets["color"]).flatten(0, 1).double()
        gram += hidden.T @ hidden
        cross += hidden.T @ words
        square, total, count = square + float((words**2).sum()), total + words.sum(0), count + len(words)
    solution = torch.linalg.solve(gram + _RIDGE_PENALTY * torch.eye(size, dtype=torch.float64), cross)
    projection.fc2.weight.copy_(solution[:-1].T)
    projection.fc2.bias.copy_(solution[-1])
    lion.set_active_branches(config.visual_branches)
    residual = square - 2 * float((solution * cross).sum()) + float((solution * (gram @ solution)).sum())
    left = residual / (square - float((total**2).sum()) / count)
    logger.info("Projection: %.3f of the words' variance is left unexplained.", left)
    return left


def examine_literacy(phases: StagedPhases, samples: int, split: str = "test") -> dict[str, tuple[float, int]]:
    """Share of held-out questions that the finished language model answers word for word, and their number, by task."""
    lion, vocabulary = phases.build_student()
    lion.language_model.load_state_dict(phases.weights("literacy"))
    exam = literacy_exam(samples, lion.config.num_query_tokens, split)
    return score_literacy(lion.eval(), vocabulary, phases.processor, exam)


def literacy_exam(samples: int, num_slots: int, split: str = "validation") -> list[Exercise]:
    """Questions about held-out scenes in words, `samples` for each task, and as many exercises without a scene."""
    exam = []
    for task in LEVELS["image_level"]:
        count = 0
        for seed in SPLITS[split]:
            scene = sample_scene(seed, most_objects=MOST_OBJECTS)
            sample = TASKS[task](scene, np.random.default_rng([seed, 4]))
            if sample is None or sample.form == "long":
                continue
            exam.append(Exercise(sample.prompt, sample.completion, scene_symbols(scene, num_slots), task))
            count += 1
            if count == samples:
                break
    rng = np.random.default_rng(SPLITS[split].start)
    return exam + [item for _ in range(8) for item in sample_exercises(rng, samples)]
