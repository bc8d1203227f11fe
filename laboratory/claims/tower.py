"""A tower, or its last blocks, trained on image-level targets only: the last block has no reason to keep places."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from laboratory.claims.rows import scene_of
from laboratory.world.batches import WorldBatches, pixel_values
from laboratory.world.language import TAGS, scene_tags
from laboratory.world.staged import StagedPhases
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion.image_processing_lion import CLIP_MEAN, CLIP_STD


_IMAGES, _LATE_BLOCKS = 64, 2


class TaggedImages(WorldBatches):
    """Images of the world of few boxes, and whether each has each tag."""

    def make(self, index, seeds):
        scenes = [scene_of(seed) for seed in seeds]
        return {
            "pixel_values": pixel_values(scenes, CLIP_MEAN, CLIP_STD),
            "tags": torch.tensor([[tag in scene_tags(scene) for tag in TAGS] for scene in scenes]),
        }


class ImageLevelTeacher(nn.Module):
    """
    Teaches the vision tower to tell from any patch which tags the image has, wherever they are.

    Args:
        lion ([`LionForConditionalGeneration`]): Its tower is trained. The head is thrown away afterwards.
    """

    def __init__(self, lion: LionForConditionalGeneration):
        super().__init__()
        self.tower = lion.vision_model
        self.head = nn.Linear(lion.config.vision_config.hidden_size, len(TAGS))

    def forward(self, pixel_values: torch.Tensor, tags: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images `(B, 3, H, W)` and whether each has each tag, `(B, num_tags)`."""
        scores = self.head(self.tower(pixel_values)[0]).float()
        targets = tags[:, None].expand_as(scores).float()
        return {"loss": F.binary_cross_entropy_with_logits(scores, targets)}


def train_image_level_tower(
    base: Path, directory: Path, steps: int, seed: int = 0, late: bool = False
) -> dict[str, torch.Tensor]:
    """
    The tower's weights, trained unless they have been; a run that was stopped goes on.

    Args:
        base (`Path`): Directory of a finished stage 0 ([`~laboratory.world.staged.pretrain_staged_base`]).
        directory (`Path`): Where checkpoints and weights go.
        steps (`int`): Optimiser steps, each of 64 images.
        seed (`int`): Of the initialisation.
        late (`bool`): Whether only the last two blocks are trained, a quarter as long, on top of the base's own.
    """
    phases = StagedPhases(directory, {"tower": max(1, steps // 4) if late else steps}, seed, False, 200)
    if not phases.is_finished("tower"):
        lion, _ = StagedPhases(base, {}, seed, False, 200).build_student()
        trained: tuple[str, ...] = ("",)
        if late:
            own = LionForConditionalGeneration.from_pretrained(base / "base").vision_model
            lion.vision_model.load_state_dict(own.state_dict())
            blocks = range(len(own.encoder.layers) - _LATE_BLOCKS, len(own.encoder.layers))
            trained = ("head.", "tower.post_layernorm.", *(f"tower.encoder.layers.{block}." for block in blocks))
        images = TaggedImages(phases.steps["tower"], phases.first_scene("tower"), _IMAGES)
        teacher = ImageLevelTeacher(lion)
        phases.train("tower", teacher, lion.vision_model, images, lambda name: name.startswith(trained))
    return phases.weights("tower")
