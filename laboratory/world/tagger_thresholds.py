"""Thresholds of the tagger: for each tag, the one with the best F1 on pictures of the validation split."""

from __future__ import annotations

import torch

from laboratory.world.batches import pixel_values
from laboratory.world.language import TAGS, scene_tags
from laboratory.world.scene import SPLITS, sample_scene
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion.image_processing_lion import IMAGENET_MEAN, IMAGENET_STD


_CANDIDATES = torch.linspace(0.1, 0.95, 86)


@torch.no_grad()
def calibrate_thresholds(tagger: RamForImageTagging, num_scenes: int = 3000, batch_size: int = 100) -> list[float]:
    """
    Find each tag's threshold.

    Args:
        tagger ([`RamForImageTagging`]): The trained model, its tags being the world's.
        num_scenes (`int`): How many validation pictures to judge by.
        batch_size (`int`): Pictures at a time.
    """
    training = tagger.training
    tagger.eval()
    seeds = SPLITS["validation"][:num_scenes]
    probabilities, truth = [], []
    for start in range(0, num_scenes, batch_size):
        scenes = [sample_scene(seed) for seed in seeds[start : start + batch_size]]
        pixels = pixel_values(scenes, IMAGENET_MEAN, IMAGENET_STD)
        probabilities.append(tagger(pixels.to(tagger.device)).logits.float().sigmoid().cpu())
        truth.append(torch.tensor([[tag in scene_tags(scene) for tag in TAGS] for scene in scenes]))
    tagger.train(training)
    return best_thresholds(torch.cat(probabilities), torch.cat(truth))


def best_thresholds(probabilities: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """For each column of `(N, num_tags)`, the threshold with the best F1; of several the middle one."""
    chosen = probabilities[None] > _CANDIDATES[:, None, None]
    correct = (chosen & truth).sum(1)
    scores = 2 * correct / (chosen.sum(1) + truth.sum(0)).clamp(min=1)
    best = scores == scores.amax(0)
    return [float(_CANDIDATES[column].median()) for column in best.T]
