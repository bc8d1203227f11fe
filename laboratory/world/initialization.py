"""
An initialisation from which a tiny T5 learns to look things up.

From T5's own initialisation, nets of this size stay for thousands of steps at what can be guessed without reading the
question. Here attention starts out as attention by similarity (queries equal keys, outputs undo values), so that the
word of a question already finds the visual token that contains it and brings its content back; training only has to
sharpen this.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

from laboratory.world.language import TAGS, plural
from laboratory.world.scene import GLYPHS
from laboratory.world.targets import ordinal_embeddings, random_rotation
from laboratory.world.tokenizer import COORDINATES


# Scores of q·k for equal directions stay around 8, for unrelated ones around 1.
_QUERY_KEY_SCALE = 0.5
_NOISE = 0.02
_OUTPUT_SCALE = 0.7
# Buckets of T5's relative positions in the encoder: 0 the token itself, 1 the one before, half + 1 the one behind.
_SELF, _BEFORE = 0, 1
_AWAY_FROM_SELF, _TO_NEIGHBOUR = -6.0, 4.0


@torch.no_grad()
def initialize_by_similarity(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Initialise a T5 in place.

    - Embeddings have unit variance; forms of a word resemble each other, and so do yes and true, no and false, and
      coordinates that are close. The output layer starts as the embeddings.
    - In every attention, queries equal keys and the output projection is the transpose of the values, up to noise.
    - In the encoder no token looks at itself at first; head 0 looks at the token before, head 1 at the one behind.

    Args:
        model (`T5ForConditionalGeneration`): The model; its output layer is not tied to the embeddings.
        tokenizer: The tokenizer of [`~laboratory.world.tokenizer.write_t5_tokenizer`].
    """
    width = model.config.d_model
    _initialize_embeddings(model.shared.weight, tokenizer)
    model.lm_head.weight.copy_(model.shared.weight / math.sqrt(width))
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            for layer in block.layer[:-1]:
                _initialize_attention(getattr(layer, "SelfAttention", None) or layer.EncDecAttention)
    encoder_bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    behind = model.config.relative_attention_num_buckets // 2 + 1
    encoder_bias.zero_()
    encoder_bias[_SELF] = _AWAY_FROM_SELF
    encoder_bias[_BEFORE, 0] = _TO_NEIGHBOUR
    encoder_bias[behind, 1] = _TO_NEIGHBOUR
    decoder_bias = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    decoder_bias.zero_()
    decoder_bias[_BEFORE, 0] = _TO_NEIGHBOUR
    decoder_bias[_SELF, 1] = _TO_NEIGHBOUR / 2


def _initialize_embeddings(embeddings: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    def rows(*pieces: str) -> list[int]:
        return tokenizer.convert_tokens_to_ids(list(pieces))

    nn.init.normal_(embeddings)
    width = embeddings.shape[1]
    embeddings[rows(*COORDINATES)] = ordinal_embeddings(len(COORDINATES), width)
    embeddings[rows(*TAGS)] = embeddings[rows(*(f"▁{tag}" for tag in TAGS))]
    # What is true is answered with "yes" or with "true", as the question wants.
    for word, other in (("▁yes", "▁true"), ("▁no", "▁false")):
        embeddings[rows(other)] = (embeddings[rows(word)] + 0.5 * torch.randn(1, width)) / math.sqrt(1.25)
    for glyph in GLYPHS:
        alike = embeddings[rows(f"▁{glyph}")] + 0.5 * torch.randn(2, width)
        embeddings[rows(f"▁{plural(glyph)}", plural(glyph))] = alike / math.sqrt(1.25)


def _initialize_attention(attention: nn.Module) -> None:
    width, head_size = attention.d_model, attention.key_value_proj_dim
    for head in range(attention.n_heads):
        rows = slice(head * head_size, (head + 1) * head_size)
        directions = _QUERY_KEY_SCALE * random_rotation(width)[:head_size]
        for projection in (attention.q, attention.k):
            projection.weight[rows] = directions + _NOISE * torch.randn_like(directions)
    values = random_rotation(max(width, attention.inner_dim))[: attention.inner_dim, :width]
    attention.v.weight.copy_(values)
    attention.o.weight.copy_(_OUTPUT_SCALE * values.T)
