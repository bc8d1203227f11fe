"""What a picture's patches should tell: dense targets, and the word-like visual tokens that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from laboratory.world.scene import COLORS, GLYPHS, IMAGE_SIZE, Scene, object_mask


NOTHING = 0
"""Class of a patch or slot without an object; kinds and colours are numbered from 1 on."""

_GLYPH_INDEX = {glyph: index for index, glyph in enumerate(GLYPHS, start=1)}
_COLOR_INDEX = {color: index for index, color in enumerate(COLORS, start=1)}
# An object that covers less of a patch does not count as seen there.
_LEAST_COVERAGE = 1 / 32


@dataclass
class ObjectTargets:
    """
    What each of N places (patches or slots) shows.

    Args:
        glyph (`np.ndarray` of shape `(N,)`): Kind, `NOTHING` where there is none; int64.
        color (`np.ndarray` of shape `(N,)`): Colour, `NOTHING` where there is none; int64.
        box (`np.ndarray` of shape `(N, 4)`): Box in pixels, zeros where there is none; int64.
        rank (`np.ndarray` of shape `(N,)`): 1 for the leftmost object, 2 for the next; `NOTHING` for none; int64.
    """

    glyph: np.ndarray
    color: np.ndarray
    box: np.ndarray
    rank: np.ndarray


def patch_targets(scene: Scene, patch_size: int) -> ObjectTargets:
    """The object that covers most of each patch, patches in reading order."""
    side = IMAGE_SIZE // patch_size
    covered = np.zeros((len(scene.objects) + 1, side, side))
    covered[NOTHING] = _LEAST_COVERAGE * patch_size**2
    for number, item in enumerate(scene.objects, start=1):
        canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
        x1, y1, x2, y2 = item.box
        canvas[y1:y2, x1:x2] = np.asarray(object_mask(item)) > 0
        covered[number] = canvas.reshape(side, patch_size, side, patch_size).sum((1, 3))
    return _look_up(scene, covered.argmax(0).reshape(-1))


def slot_targets(scene: Scene, num_slots: int) -> ObjectTargets:
    """The objects from left to right, one a slot; slots that are left over hold nothing."""
    numbers = np.zeros(num_slots, dtype=np.int64)
    numbers[: len(scene.objects)] = np.arange(1, len(scene.objects) + 1)[:num_slots]
    return _look_up(scene, numbers)


def _look_up(scene: Scene, numbers: np.ndarray) -> ObjectTargets:
    glyphs = np.array([NOTHING, *(_GLYPH_INDEX[item.glyph] for item in scene.objects)])
    colors = np.array([NOTHING, *(_COLOR_INDEX[item.color] for item in scene.objects)])
    boxes = np.array([(0, 0, 0, 0), *(item.box for item in scene.objects)], dtype=np.int64)
    return ObjectTargets(glyphs[numbers], colors[numbers], boxes[numbers], numbers.astype(np.int64))


class VisualVocabulary(nn.Module):
    """
    Visual tokens that a language model can read from its first step on.

    An object's token is the sum of the word embeddings of its kind and its colour and of its four coordinates, each
    turned by a rotation of its own: attention by similarity then finds the token that a word of the question names.
    The tokens are fixed; the connectors are trained to produce them from pixels, the language model to read them.

    Args:
        embeddings (`torch.Tensor` of shape `(vocab_size, d_model)`): Word embeddings of the language model.
        tokenizer: Its tokenizer.
        num_slots (`int`): Number of object slots (query tokens).
    """

    def __init__(self, embeddings: torch.Tensor, tokenizer: PreTrainedTokenizerBase, num_slots: int):
        super().__init__()
        from laboratory.world.tokenizer import COORDINATES

        width = embeddings.shape[1]

        def words(pieces):
            return embeddings.detach()[tokenizer.convert_tokens_to_ids(list(pieces))]

        self.register_buffer("glyph", torch.cat([torch.randn(1, width), words(f"▁{glyph}" for glyph in GLYPHS)]))
        self.register_buffer("color", torch.cat([torch.zeros(1, width), words(f"▁{color}" for color in COLORS)]))
        coordinates = words(COORDINATES)
        # Partly unturned, so that a coordinate in the question resembles it in any role.
        turns = [0.3 * torch.eye(width) + 0.45 * random_rotation(width) for _ in range(4)]
        self.register_buffer("coordinate", torch.stack([coordinates @ turn for turn in turns]))
        self.register_buffer("slot", 0.5 * torch.randn(num_slots, width))
        self.register_buffer("class_token", torch.randn(1, 1, width))

    def objects(self, glyph: torch.Tensor, color: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """`(B, N)` kinds, `(B, N)` colours and `(B, N, 4)` boxes in pixels -> tokens `(B, N, d_model)`."""
        place = sum(self.coordinate[side][box[..., side]] for side in range(4))
        return self.glyph[glyph] + self.color[color] + place * (glyph != NOTHING).unsqueeze(-1)

    def patches(self, glyph: torch.Tensor, color: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Tokens of a picture's patches behind the class token, `(B, N + 1, d_model)`."""
        tokens = self.objects(glyph, color, box)
        return torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)

    def slots(self, glyph: torch.Tensor, color: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Tokens of the object slots, `(B, num_slots, d_model)`."""
        return self.objects(glyph, color, box) + self.slot

    def read(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of each kind and of each colour (nothing included) for tokens `(B, N, d_model)`, by similarity."""
        scale = 8 / tokens.shape[-1]
        return tokens @ self.glyph.T * scale, tokens @ self.color.T * scale


def random_rotation(size: int) -> torch.Tensor:
    """A random orthonormal matrix of shape `(size, size)`."""
    return torch.linalg.qr(torch.randn(size, size))[0]


def ordinal_embeddings(count: int, width: int, near: float = 0.06, far: float = 0.4) -> torch.Tensor:
    """
    Random embeddings of evenly spaced numbers from 0 to 1 that resemble each other the more, the closer the numbers.

    Numbers that are nearly equal resemble each other most; a smaller part of the resemblance reaches far, which lays
    the numbers along a line: which of two is the larger can then be read off without knowing each number.

    Args:
        count (`int`): How many numbers.
        width (`int`): Size of an embedding.
        near, far (`float`): Distances at which the two parts of the resemblance have fallen to exp(-1/2).
    """
    numbers = torch.linspace(0, 1, count, dtype=torch.float64)
    squares = (numbers[:, None] - numbers[None]) ** 2
    likeness = 0.7 * torch.exp(-0.5 * squares / near**2) + 0.3 * torch.exp(-0.5 * squares / far**2)
    likeness = likeness + 0.05 * torch.eye(count)
    return (torch.linalg.cholesky(likeness).float() @ torch.randn(count, width)) / math.sqrt(1.05)
