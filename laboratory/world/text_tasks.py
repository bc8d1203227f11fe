"""
What a language model learns from text and symbols alone, before it has anything to do with images.

A symbol is a vector that stands where visual tokens will stand and packs several words into one: the sum of their
embeddings. Two kinds of prefixes are made of symbols:

- a scene in words: for each object a symbol with its kind, its colour and roughly where it stands, asked about with the
  tasks of the image level. There are no boxes in it, and nobody asks for one;
- named lists of numbers, of several lengths: a symbol holds a name and a list, asked for the list of a name or for the
  name of a list. Names are words that are neither kinds nor colours.

Then there is plain text without symbols: named numbers, lists to copy, and lists (boxes among them) to look up. Such a
look-up is worded as some questions of REC and REG are, with the boxes in the question itself: what ties a box to a
image belongs to the stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from laboratory.world.batches import encode_instructions
from laboratory.world.language import COLORS, TAGS, Sample, coordinate
from laboratory.world.scene import GLYPHS, IMAGE_SIZE, Scene
from laboratory.world.targets import random_rotation
from laboratory.world.tokenizer import COORDINATES, WORDS
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion.processing_lion import LionProcessor


MOST_NUMBERS = 6
"""Length of the longest list of numbers."""

SCENE_TASK_WEIGHTS = {
    "caption": 3,
    "color": 2,
    "object": 2,
    "count": 4,
    "side": 2,
    "position": 2,
    "direction": 4,
    "relation": 5,
    "statement": 2,
    "existence": 4,
}
"""How often each task of the image level is asked of a scene in words."""

_SIDES = ("left", "top", "right", "bottom")
_MOST_SYMBOLS = 8
_SYMBOL_NOISE = 0.15
# Words of the instructions below are no names.
_ASKING = set("a the of is are at what which write numbers list box read has where locate describe region".split())
NAMES = tuple(
    word
    for word in dict.fromkeys(WORDS)
    if word not in _ASKING and word not in TAGS and word not in _SIDES and len(word) > 3
)
"""Words that name lists: a name is one with an even number, then one with an odd number."""


@dataclass
class Exercise:
    """
    An instruction with symbols in front of it.

    Args:
        prompt, completion (`str`): The texts.
        symbols (`list[Symbol]`): The symbols, in the order in which they stand.
        task (`str`): What is practised.
    """

    prompt: str
    completion: str
    symbols: list[Symbol] = field(default_factory=list)
    task: str = ""


@dataclass
class Symbol:
    """
    One symbol.

    Args:
        words (`tuple[str, ...]`): Whole words of the vocabulary.
        numbers (`tuple[int, ...]`): A list of numbers, in pixels.
        place (`tuple[float, float]`): From -1 (left, top) to 1 (right, bottom).
        slot (`int`): Number of the object slot from 1 on; 0 for none.
    """

    words: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    place: tuple[float, float] = (0.0, 0.0)
    slot: int = 0


def scene_symbols(scene: Scene, num_slots: int) -> list[Symbol]:
    """A scene in words: its objects from left to right, one a slot; slots that are left over hold nothing."""
    half = IMAGE_SIZE / 2
    symbols = [
        Symbol((item.glyph, item.color), (), (item.center[0] / half - 1, item.center[1] / half - 1), slot)
        for slot, item in enumerate(scene.objects[:num_slots], start=1)
    ]
    return symbols + [Symbol(slot=slot) for slot in range(len(symbols) + 1, num_slots + 1)]


def list_text(numbers: Sequence[int]) -> str:
    """Numbers as LION writes a box's: `"[0.125,0.250]"`."""
    return "[" + ",".join(coordinate(number) for number in numbers) + "]"


def _numbers(rng: np.random.Generator) -> tuple[int, ...]:
    length = 4 if rng.random() < 0.7 else int(rng.integers(1, MOST_NUMBERS + 1))
    if length == 4 and rng.random() < 0.7:
        return _box(rng)
    return tuple(int(number) for number in rng.integers(0, IMAGE_SIZE + 1, length))


def _box(rng: np.random.Generator) -> tuple[int, ...]:
    size = rng.integers(14, 38, 2)
    x, y = (int(rng.integers(IMAGE_SIZE - side + 1)) for side in size)
    return x, y, x + int(size[0]), y + int(size[1])


def _distinct(rng: np.random.Generator, options: Sequence[str], count: int) -> list[str]:
    return [options[index] for index in rng.choice(len(options), count, replace=False)]


def _pick(rng: np.random.Generator, options: Sequence) -> Any:
    return options[int(rng.integers(len(options)))]


def _packed(rng: np.random.Generator) -> Exercise:
    """A list by its name, or a name by its list, the lists being symbols."""
    count = int(rng.integers(1, 4))
    names = list(zip(_distinct(rng, NAMES[::2], count), _distinct(rng, NAMES[1::2], count)))
    if count > 1 and rng.random() < 0.5:  # one word in common, as two stars have
        names[1] = (names[0][0], names[1][1]) if rng.random() < 0.5 else (names[1][0], names[0][1])
    lists = [_numbers(rng) for _ in range(count)]
    symbols = []
    for pair, numbers in zip(names, lists):
        symbols += [Symbol(pair, numbers)] * int(rng.integers(1, 1 + _MOST_SYMBOLS // count))
    symbols += [Symbol()] * int(rng.integers(0, 1 + _MOST_SYMBOLS - len(symbols)))
    symbols = [symbols[index] for index in rng.permutation(len(symbols))]
    asked = int(rng.integers(count))
    name = " ".join(names[asked])
    if rng.random() < 0.6:
        wording = _pick(rng, ("Write the numbers of the {}.", "What are the numbers of the {}?", "Write the {}."))
        return Exercise(str(wording).format(name), list_text(lists[asked]), symbols, "packed list")
    if rng.random() < 0.6:
        return Exercise(f"Which has {list_text(lists[asked])}?", name, symbols, "packed name")
    unique = [word for word in names[asked] if sum(word in other for other in names) == 1]
    if not unique:
        return Exercise(f"Write the numbers of the {name}.", list_text(lists[asked]), symbols, "packed list")
    # Only one of the two words is wanted, and the other is given: "Which history has [0.125,0.250]?"
    wanted = str(_pick(rng, unique))
    given = next(word for word in names[asked] if word != wanted)
    return Exercise(f"Which {given} has {list_text(lists[asked])}?", wanted, symbols, "packed word")


def _looked_up(rng: np.random.Generator) -> Exercise:
    """The same in plain text, and boxes of coloured things among the lists."""
    count = int(rng.integers(1, 3))
    if rng.random() < 0.5:
        names = [f"{color} {glyph}" for color, glyph in zip(_many(rng, COLORS, count), _many(rng, GLYPHS, count))]
        lists = [_box(rng) for _ in range(count)]
    else:
        names = _distinct(rng, NAMES, count)
        lists = [_numbers(rng) for _ in range(count)]
    if len(set(names)) < count:
        names, lists = names[:1], lists[:1]
    asked = int(rng.integers(len(names)))
    text = ", ".join(f"{name} {list_text(numbers)}" for name, numbers in zip(names, lists))
    if rng.random() < 0.5:
        return Exercise(f"{text}. Where is {names[asked]}?", list_text(lists[asked]), task="text list")
    return Exercise(f"{text}. What is at {list_text(lists[asked])}?", f"the {names[asked]}", task="text name")


def _many(rng: np.random.Generator, options: Mapping[str, object], count: int) -> list[str]:
    names = tuple(options)
    return [names[index] for index in rng.integers(len(names), size=count)]


def _named_numbers(rng: np.random.Generator) -> Exercise:
    box = _box(rng)
    parts = [f"{_SIDES[index]} {coordinate(box[index])}" for index in rng.permutation(4)]
    text = ", ".join(parts)
    if rng.random() < 0.7:
        return Exercise(f"{text}. Write the box.", list_text(box), task="named numbers")
    side = int(rng.integers(4))
    return Exercise(f"{text}. What is {_SIDES[side]}?", coordinate(box[side]), task="named number")


def _copied(rng: np.random.Generator) -> Exercise:
    numbers = _numbers(rng)
    if rng.random() < 0.75:
        return Exercise(f"Read {list_text(numbers)}.", list_text(numbers), task="copy")
    pair = rng.choice(IMAGE_SIZE + 1, 2, replace=False)
    first, second = (coordinate(int(number)) for number in pair)
    return Exercise(f"Which is larger, {first} or {second}?", max(first, second), task="larger")


EXERCISES = {"packed": (_packed,), "text": (_looked_up, _named_numbers, _copied)}
"""Exercises without a scene, those with symbols and those of text alone; each of a family is given equally often."""

_PACKED = 0.6


def sample_exercises(rng: np.random.Generator, count: int) -> list[Exercise]:
    """Exercises of one family of [`EXERCISES`]: texts are longer, and are best read by themselves."""
    family = EXERCISES["packed" if rng.random() < _PACKED else "text"]
    return [_pick(rng, family)(rng) for _ in range(count)]


def encode_exercises(
    processor: LionProcessor, exercises: Sequence[Exercise], tags: Sequence[Sequence[str]] | None = None
) -> dict[str, torch.Tensor]:
    """
    Texts and symbols as tensors.

    Returns:
        `input_ids`, `attention_mask`, `labels`, and for S symbols `symbol_words` (B, S, 2) token ids, `symbol_numbers`
        (B, S, MOST_NUMBERS) in pixels with -1 for none, `symbol_place` (B, S, 2), `symbol_slot` (B, S),
        `symbol_mask` (B, S). Symbols are padded in front, so that the text follows at once, as it does visual tokens.
    """
    samples = [Sample("", "image_level", item.prompt, item.completion) for item in exercises]
    batch = encode_instructions(processor, samples, tags)
    size = len(exercises), max(len(item.symbols) for item in exercises)
    words = np.full((*size, 2), processor.tokenizer.pad_token_id, dtype=np.int64)
    numbers = np.full((*size, MOST_NUMBERS), -1, dtype=np.int64)
    place = np.zeros((*size, 2), dtype=np.float32)
    slot, mask = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    named = sorted({word for item in exercises for symbol in item.symbols for word in symbol.words})
    ids = dict(zip(named, processor.tokenizer.convert_tokens_to_ids([f"▁{word}" for word in named])))
    for row, item in enumerate(exercises):
        first = size[1] - len(item.symbols)
        mask[row, first:] = 1
        for column, symbol in enumerate(item.symbols, first):
            if symbol.words:
                words[row, column, : len(symbol.words)] = [ids[word] for word in symbol.words]
            if symbol.numbers:
                numbers[row, column, : len(symbol.numbers)] = symbol.numbers
            if symbol.slot:
                place[row, column], slot[row, column] = symbol.place, symbol.slot
    return {
        **{name: batch[name] for name in ("input_ids", "attention_mask", "labels")},
        "symbol_words": torch.from_numpy(words),
        "symbol_numbers": torch.from_numpy(numbers),
        "symbol_place": torch.from_numpy(place),
        "symbol_slot": torch.from_numpy(slot),
        "symbol_mask": torch.from_numpy(mask),
    }


class SymbolVocabulary(nn.Module):
    """
    Symbols as vectors, made of a language model's word embeddings as they are at the start, and fixed from then on.

    A symbol is the sum of its words' embeddings, of its numbers' embeddings (each turned by a rotation that belongs
    to its place in the list), and of its place: a step from the word "left" to "right" and one from "top" and "above"
    to "bottom" and "below". Slots have vectors of their own.

    Args:
        embeddings (`torch.Tensor` of shape `(vocab_size, d_model)`): Word embeddings.
        tokenizer: Their tokenizer.
        num_slots (`int`): Number of object slots.
    """

    def __init__(self, embeddings: torch.Tensor, tokenizer: Any, num_slots: int):
        super().__init__()
        width = embeddings.shape[1]
        embeddings = embeddings.detach().clone()

        def words(pieces):
            return embeddings[tokenizer.convert_tokens_to_ids(list(pieces))]

        embeddings[tokenizer.pad_token_id] = 0
        self.register_buffer("word", embeddings)
        self.register_buffer("glyph", words(f"▁{glyph}" for glyph in GLYPHS))
        self.register_buffer("color", words(f"▁{color}" for color in COLORS))
        # Partly unturned, so that a number in the question resembles it at any place.
        turns = [0.3 * torch.eye(width) + 0.6 * random_rotation(width) for _ in range(MOST_NUMBERS)]
        numbers = torch.stack([words(COORDINATES) @ turn for turn in turns])
        self.register_buffer("number", torch.cat([numbers, torch.zeros(MOST_NUMBERS, 1, width)], dim=1))
        left, right, top, bottom, above, below = words(
            f"▁{word}" for word in ("left", "right", "top", "bottom", "above", "below")
        )
        self.register_buffer("axes", torch.stack([(right - left) / 2, (bottom - top + below - above) / 4**0.75]))
        slots = 0.5 * torch.randn(num_slots, width)
        self.register_buffer("slot", torch.cat([torch.zeros(1, width), slots]))
        self.register_buffer("nothing", torch.randn(width))

    def kinds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Words of the kinds and of the colours, each behind a vector for nothing."""
        nothing = self.nothing[None]
        return torch.cat([nothing, self.glyph]), torch.cat([torch.zeros_like(nothing), self.color])

    def objects(self, glyph: torch.Tensor, color: torch.Tensor) -> torch.Tensor:
        """Numbers of kinds and colours, `NOTHING` among them -> the sums of their words, `(..., d_model)`."""
        kinds, colors = self.kinds()
        return kinds[glyph] + colors[color]

    def forward(
        self,
        symbol_words: torch.Tensor,
        symbol_numbers: torch.Tensor,
        symbol_place: torch.Tensor,
        symbol_slot: torch.Tensor,
    ) -> torch.Tensor:
        """What [`encode_exercises`] gives -> `(B, S, d_model)`."""
        numbers = sum(self.number[index][symbol_numbers[..., index]] for index in range(MOST_NUMBERS))
        vectors = self.word[symbol_words].sum(-2) + numbers + symbol_place @ self.axes + self.slot[symbol_slot]
        empty = (symbol_words[..., 0] == 0).unsqueeze(-1)  # T5's padding is token 0
        return vectors + self.nothing * empty


def encoder_inputs(
    lion: LionForConditionalGeneration,
    vocabulary: SymbolVocabulary,
    batch: Mapping[str, torch.Tensor],
    noise: float = _SYMBOL_NOISE,
) -> dict[str, torch.Tensor]:
    """What the language model's encoder reads for what [`encode_exercises`] gives."""
    symbols = vocabulary(batch["symbol_words"], batch["symbol_numbers"], batch["symbol_place"], batch["symbol_slot"])
    symbols = symbols + noise * torch.randn_like(symbols)
    embeds = lion.get_input_embeddings()(batch["input_ids"])
    return {
        "inputs_embeds": torch.cat([symbols, embeds], dim=1),
        "attention_mask": torch.cat([batch["symbol_mask"], batch["attention_mask"]], dim=1),
    }


@torch.no_grad()
def score_literacy(
    lion: LionForConditionalGeneration,
    vocabulary: SymbolVocabulary,
    processor: LionProcessor,
    exercises: Sequence[Exercise],
    batch_size: int = 100,
) -> dict[str, tuple[float, int]]:
    """Share of exercises that a language model answers word for word, and how many there were, by task."""
    correct: dict[str, list[bool]] = {}
    for start in range(0, len(exercises), batch_size):
        chosen = exercises[start : start + batch_size]
        inputs = encoder_inputs(lion, vocabulary, encode_exercises(processor, chosen), noise=0.0)
        ids = lion.language_model.generate(**inputs, max_new_tokens=32, num_beams=1, do_sample=False)
        for item, answer in zip(chosen, processor.batch_decode(ids, skip_special_tokens=True)):
            correct.setdefault(item.task, []).append(answer.strip() == item.completion)
    return {task: (float(np.mean(values)), len(values)) for task, values in sorted(correct.items())}
