"""Batches for the pretraining of the nano's parts: batch number i is always the same, so that runs can be resumed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BatchEncoding

from laboratory.world.dataset import LEVELS, MISSING_TAGS, WRONG_TAGS, ask, noisy_tags
from laboratory.world.language import TAGS, Sample, scene_tags
from laboratory.world.scene import SPLITS, Scene, render, sample_scene
from laboratory.world.targets import ObjectTargets, patch_targets, slot_targets
from processing_lion.image_processing_lion import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from processing_lion.processing_lion import LionProcessor


LAYOUTS = {"qformer": ("image_level",), "aggregator": ("region_level",), "both": ("image_level", "region_level")}
"""Visual branches that a batch uses, and the task levels that are then asked, as in LION's stages 1, 2 and 3."""

# Tasks that take comparing or finding nothing are learnt last: they are asked more often.
TASK_WEIGHTS = {
    "caption": 2,
    "color": 1,
    "object": 1,
    "count": 3,
    "side": 1,
    "position": 1,
    "direction": 4,
    "relation": 5,
    "statement": 2,
    "existence": 3,
    "rec": 3,
    "reg": 2,
}
"""How often each task is asked, beside the others of its level."""

_CROWDED = 0.7
_TAG_SENTENCES = {"qformer": 0.6, "aggregator": 0.2, "both": 0.4}


class WorldBatches(Dataset):
    """
    Args:
        num_batches (`int`): How many batches there are.
        first_scene (`int`): Training scene that the first image shows.
        num_scenes (`int`): Scenes of a batch.
    """

    def __init__(self, num_batches: int, first_scene: int, num_scenes: int):
        self.num_batches, self.first_scene, self.num_scenes = num_batches, first_scene, num_scenes

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = self.first_scene + index * self.num_scenes
        return self.make(index, SPLITS["train"][start : start + self.num_scenes])

    @abstractmethod
    def make(self, index: int, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of a number, from the scenes of `seeds`."""


class PatchBatches(WorldBatches):
    """Images, most of them crowded, with dense targets for each patch and tags."""

    def __init__(self, num_batches: int, first_scene: int, num_scenes: int, patch_size: int, for_tagger: bool = False):
        super().__init__(num_batches, first_scene, num_scenes)
        self.patch_size = patch_size
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if for_tagger else (CLIP_MEAN, CLIP_STD)

    def make(self, index, seeds):
        rng = np.random.default_rng([self.first_scene, index])
        scenes = [sample_scene(s, int(rng.integers(3, 9)) if rng.random() < _CROWDED else None) for s in seeds]
        return {
            "pixel_values": pixel_values(scenes, self.mean, self.std),
            "tags": torch.tensor([[tag in scene_tags(scene) for tag in TAGS] for scene in scenes]).long(),
            **stack_targets([patch_targets(scene, self.patch_size) for scene in scenes]),
        }


class InstructionBatches(WorldBatches):
    """
    Scenes with several instructions each, in a layout that changes from batch to batch.

    Args:
        num_batches, first_scene, num_scenes: See [`WorldBatches`].
        processor ([`LionProcessor`]): For the texts.
        questions (`int`): Instructions a scene.
        patch_size (`int`): For the targets of the patches.
        num_slots (`int`): For the targets of the slots.
        images (`bool`): Whether to draw the scenes; otherwise there are only targets.
        task_weights (`Mapping[str, int]`): How often each task is asked, beside the others of its level.
        layouts (`Sequence[str]`): Layouts, keys of [`LAYOUTS`], which the batches have in turns.
    """

    def __init__(
        self,
        num_batches: int,
        first_scene: int,
        num_scenes: int,
        processor: LionProcessor,
        questions: int,
        patch_size: int,
        num_slots: int,
        images: bool,
        task_weights: Mapping[str, int] = TASK_WEIGHTS,
        layouts: Sequence[str] = tuple(LAYOUTS),
    ):
        super().__init__(num_batches, first_scene, num_scenes)
        self.processor, self.questions, self.images = processor, questions, images
        self.patch_size, self.num_slots = patch_size, num_slots
        self.task_weights, self.layouts = task_weights, layouts

    def make(self, index, seeds):
        rng = np.random.default_rng([self.first_scene, index])
        layout = self.layouts[index % len(self.layouts)]
        with_tags = rng.random() < _TAG_SENTENCES[layout]
        tasks = [task for level in LAYOUTS[layout] for task in LEVELS[level] for _ in range(self.task_weights[task])]
        scenes = [sample_scene(seed) for seed in seeds]
        samples = [sample for scene in scenes for sample in ask(scene, tasks, self.questions)]
        tags = None
        if with_tags:
            noisy = (noisy_tags(scene, MISSING_TAGS, WRONG_TAGS) for scene in scenes)
            tags = [row for row in noisy for _ in range(self.questions)]
        batch = dict(encode_instructions(self.processor, samples, tags))
        batch["scene_index"] = torch.arange(len(scenes)).repeat_interleave(self.questions)
        batch["layout"] = layout
        if self.images:
            batch["pixel_values"] = pixel_values(scenes, CLIP_MEAN, CLIP_STD)
        patches = stack_targets([patch_targets(scene, self.patch_size) for scene in scenes])
        slots = stack_targets([slot_targets(scene, self.num_slots) for scene in scenes])
        batch |= {f"patch_{name}": values for name, values in patches.items()}
        batch |= {f"slot_{name}": values for name, values in slots.items()}
        return batch


def encode_instructions(
    processor: LionProcessor, samples: Sequence[Sample], tags: Sequence[Sequence[str]] | None
) -> BatchEncoding:
    """The model's text inputs and labels."""
    return processor(
        text=[sample.prompt for sample in samples],
        tags=None if tags is None else [", ".join(row) for row in tags],
        level=[sample.level for sample in samples],
        answers=[sample.completion for sample in samples],
        return_tensors="pt",
    )


def pixel_values(scenes: Sequence[Scene], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalised images of scenes, `(B, 3, H, W)` float32. They have the model's size: nothing is resized."""
    return normalize(draw(scenes), mean, std)


def draw(scenes: Sequence[Scene]) -> np.ndarray:
    """Images of scenes, `(B, H, W, 3)` uint8."""
    return np.stack([np.asarray(render(scene)) for scene in scenes])


def normalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """What [`draw`] gives -> `(B, 3, H, W)` float32."""
    values = (images.astype(np.float32) / 255 - np.asarray(mean, "float32")) / np.asarray(std, "float32")
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()


def stack_targets(targets: Sequence[ObjectTargets]) -> dict[str, torch.Tensor]:
    """Targets of several scenes as int64 tensors."""
    return {
        name: torch.from_numpy(np.stack([getattr(item, name) for item in targets]))
        for name in ("glyph", "color", "box", "rank")
    }
