"""The parts of the nano model, each with the losses that it is pretrained with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from laboratory.world.scene import COLORS, GLYPHS, IMAGE_SIZE
from laboratory.world.targets import NOTHING, VisualVocabulary
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging


_NUM_GLYPHS, _NUM_COLORS = len(GLYPHS) + 1, len(COLORS) + 1
_MOST_OBJECTS = 8
_SYMBOL_NOISE = 0.15


class TowerTeacher(nn.Module):
    """
    Teaches the vision tower to tell for every patch what object it shows: kind, colour, box, and how many objects
    begin further left. The heads are thrown away afterwards.
    """

    def __init__(self, lion: LionForConditionalGeneration):
        super().__init__()
        self.tower = lion.vision_model
        width = lion.config.vision_config.hidden_size
        self.glyph = nn.Linear(width, _NUM_GLYPHS)
        self.color = nn.Linear(width, _NUM_COLORS)
        self.rank = nn.Linear(width, _MOST_OBJECTS + 1)
        self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))

    def forward(
        self,
        pixel_values: torch.Tensor,
        glyph: torch.Tensor,
        color: torch.Tensor,
        box: torch.Tensor,
        rank: torch.Tensor,
        tags: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Images `(B, 3, H, W)` and targets `(B, N)`, boxes `(B, N, 4)` in pixels."""
        patches = self.tower(pixel_values)[0][:, 1:]
        loss = 1.5 * _classification(self.glyph(patches), glyph) + _classification(self.color(patches), color)
        loss = loss + _classification(self.rank(patches), rank)
        seen = glyph != NOTHING
        predicted, true = self.box(patches)[seen].float().sigmoid(), box[seen] / IMAGE_SIZE
        return {"loss": loss + 8 * F.l1_loss(predicted, true) + (1 - _overlap(predicted, true)).mean()}


class SymbolTeacher(nn.Module):
    """Teaches the language model to answer from symbolic visual tokens in place of images."""

    def __init__(self, lion: LionForConditionalGeneration, vocabulary: VisualVocabulary):
        super().__init__()
        self.lion, self.vocabulary = lion, vocabulary

    def forward(
        self, layout: str, scene_index: torch.Tensor, labels: torch.Tensor, **batch: Any
    ) -> dict[str, torch.Tensor]:
        """A batch of [`~laboratory.world.batches.InstructionBatches`]."""
        tokens = []
        if layout != "aggregator":
            tokens.append(self.vocabulary.slots(batch["slot_glyph"], batch["slot_color"], batch["slot_box"]))
        if layout != "qformer":
            tokens.append(self.vocabulary.patches(batch["patch_glyph"], batch["patch_color"], batch["patch_box"]))
        visual = torch.cat(tokens, dim=1)[scene_index]
        visual = visual + _SYMBOL_NOISE * torch.randn_like(visual)
        embeds = self.lion.get_input_embeddings()(batch["input_ids"])
        if "soft_prompt_mask" in batch:
            mask = batch["soft_prompt_mask"]
            mask = F.pad(mask, (0, embeds.shape[1] - mask.shape[1]))  # it covers the head of the prompt
            embeds = torch.where(mask.unsqueeze(-1).bool(), self.lion.soft_prompt(), embeds)
        mask = batch["attention_mask"]
        logits = self.lion.language_model(
            inputs_embeds=torch.cat([visual, embeds], dim=1),
            attention_mask=torch.cat([mask.new_ones(visual.shape[:2]), mask], dim=1),
            labels=labels,
        ).logits
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())}


class ConnectorTeacher(nn.Module):
    """Teaches Q-Former and aggregator to turn images into the symbolic visual tokens; the tower is frozen."""

    def __init__(self, lion: LionForConditionalGeneration, vocabulary: VisualVocabulary):
        super().__init__()
        self.lion, self.vocabulary = lion, vocabulary

    def forward(
        self, pixel_values: torch.Tensor, scene_index: torch.Tensor, **batch: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """A batch of [`~laboratory.world.batches.InstructionBatches`] with images and one instruction each."""
        self.lion.set_active_branches(("qformer", "aggregator"))
        features = self.lion.encode_images(pixel_values).select(scene_index)
        visual = self.lion.get_visual_embeds(features, batch["qformer_input_ids"], batch["qformer_attention_mask"])
        slots, patches = visual.float().split(
            [len(self.vocabulary.slot), visual.shape[1] - len(self.vocabulary.slot)], 1
        )
        loss = self._loss("slot", slots, self.vocabulary.slot, self.vocabulary.slots, batch, scene_index)
        return {"loss": loss + self._loss("patch", patches, 0, self.vocabulary.patches, batch, scene_index)}

    def _loss(
        self,
        kind: str,
        tokens: torch.Tensor,
        offset: Any,
        target_tokens: Callable[..., torch.Tensor],
        batch: dict[str, torch.Tensor],
        scene_index: torch.Tensor,
    ) -> torch.Tensor:
        glyph, color, box = (batch[f"{kind}_{name}"][scene_index] for name in ("glyph", "color", "box"))
        target = target_tokens(glyph, color, box)
        glyph_scores, color_scores = self.vocabulary.read((tokens - offset)[:, -glyph.shape[1] :])
        seen = glyph != NOTHING
        loss = _classification(glyph_scores, glyph) + F.cross_entropy(color_scores[seen], color[seen])
        return loss + 2 * F.mse_loss(tokens, target)


class AnswerTeacher(nn.Module):
    """Teaches connectors and language model together to answer about images, each encoded once for its questions."""

    def __init__(self, lion: LionForConditionalGeneration):
        super().__init__()
        self.lion = lion

    def forward(
        self, layout: str, pixel_values: torch.Tensor, scene_index: torch.Tensor, **batch: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """A batch of [`~laboratory.world.batches.InstructionBatches`] with images."""
        self.lion.set_active_branches([layout] if layout != "both" else ["qformer", "aggregator"])
        features = self.lion.encode_images(pixel_values).select(scene_index)
        inputs = {name: values for name, values in batch.items() if not name.startswith(("slot_", "patch_"))}
        return {"loss": self.lion(image_features=features, **inputs).loss}


class TaggerTeacher(nn.Module):
    """Trains the tagger with its asymmetric loss, and its tower with dense targets besides."""

    def __init__(self, tagger: RamForImageTagging):
        super().__init__()
        self.tagger = tagger
        width = tagger.config.vision_config.hidden_size
        self.glyph, self.color = nn.Linear(width, _NUM_GLYPHS), nn.Linear(width, _NUM_COLORS)

    def forward(
        self,
        pixel_values: torch.Tensor,
        tags: torch.Tensor,
        glyph: torch.Tensor,
        color: torch.Tensor,
        **_: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Images `(B, 3, H, W)`, tags `(B, num_tags)` and targets `(B, N)` for the N tokens of the tower."""
        kept = []
        handle = self.tagger.vision_model.register_forward_hook(lambda *call: kept.append(call[2].last_hidden_state))
        try:
            asymmetric = self.tagger(pixel_values, labels=tags).loss
        finally:
            handle.remove()
        dense = _classification(self.glyph(kept[0]), glyph) + _classification(self.color(kept[0]), color)
        return {"loss": asymmetric / (4 * len(pixel_values)) + dense}


def _classification(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(scores.flatten(0, 1).float(), target.flatten())


def _overlap(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """
    Intersection over union of `(N, 4)` boxes, row by row, as a loss needs it: with gradients, and for predicted corners
    in any order.
    """
    low, high = torch.maximum(predicted[:, :2], true[:, :2]), torch.minimum(predicted[:, 2:], true[:, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = sum((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (predicted, true))
    return common / (areas - common + 1e-6)
