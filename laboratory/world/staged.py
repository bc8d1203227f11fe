"""
Stage 0 of a nano whose stages do the work: a tower that knows what it sees, and a language model that has never seen it.

Phases, each of which can be resumed:

1. `tower` and `tagger`: as in [`~laboratory.world.backbones`];
2. `literacy`: the language model learns from text and symbols alone (see [`~laboratory.world.text_tasks`]), and is then
   frozen for good;
3. `alignment`: the Q-Former learns to say a caption's words.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from modeling_lion.modeling_lion import LionForConditionalGeneration
from laboratory.world.backbones import Phases, nano_config
from laboratory.world.dataset import LEVELS
from laboratory.world.initialization import initialize_by_similarity
from laboratory.world.language import TASKS
from laboratory.world.scene import SPLITS, sample_scene
from laboratory.world.text_tasks import (
    Exercise,
    LiteracyBatches,
    LiteracyTeacher,
    SymbolVocabulary,
    sample_exercise,
    scene_symbols,
    score_literacy,
)


logger = logging.getLogger(__name__)

STEPS = {"tower": 4000, "tagger": 1600, "literacy": 3000, "alignment": 300}
_FIRST_SCENES = {phase: 100_000_000 * number for number, phase in enumerate(STEPS)}
MOST_OBJECTS = 3


class StagedPhases(Phases):
    """Phases of a base model that is made for LION's stages; arguments as in [`~laboratory.world.backbones.Phases`]."""

    def build_student(self) -> tuple[LionForConditionalGeneration, SymbolVocabulary]:
        """The model before any training, and the symbols that it is to read; always the same."""
        processor = self.processor
        set_seed(self.seed)
        lion = LionForConditionalGeneration(nano_config(processor))
        initialize_by_similarity(lion.language_model, processor.tokenizer)
        nn.init.normal_(lion.query_tokens.weight, std=0.5)
        words = lion.get_input_embeddings().weight
        return lion, SymbolVocabulary(words, processor.tokenizer, lion.config.num_query_tokens)

    def run_literacy(self) -> None:
        """Train the language model; done already, it is left as it is."""
        if self.is_finished("literacy"):
            return
        lion, vocabulary = self.build_student()
        batches = LiteracyBatches(
            self.steps["literacy"],
            _FIRST_SCENES["literacy"],
            9,
            self.processor,
            num_slots=lion.config.num_query_tokens,
            most_objects=MOST_OBJECTS,
        )
        self.train(
            "literacy",
            LiteracyTeacher(lion, vocabulary),
            lion.language_model,
            batches,
            lambda name: name.startswith("lion.language_model."),
            learning_rate=1e-3,
        )


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
    return exam + [sample_exercise(rng) for _ in range(8 * samples)]
