"""Captions to try tokenizers and metrics on: everyday ones with all that is hard about them, and mutilated ones."""

from __future__ import annotations

import ast
import random
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path


_SUBJECTS = (
    "a man", "A woman", "two dogs", "Three kids", "an old couple", "a baseball player", "someone", "the cat",
    "A group of people", "several zebras", "A black-and-white photo of a boy", "a little girl", "An empty living room",
    "A close up of a plate", "a double-decker bus", "a man's dog", "the kids'", "James' bike", "the U.S. president",
    "Mr. Smith", "Dr. Jones", "a 10-year-old boy", "the players", "a St. Bernard",
)  # fmt: skip
_VERBS = (
    "is riding", "sits on", "are standing next to", "playing with", "doesn't look at", "isn't holding", "can't reach",
    "holding up", "with", "that's near", "who's eating", "won't eat", "they're cooking", "surfing on", "jumping over",
    "'s looking at", "cannot see", "walking down", "parked by", "gonna eat", "laying in front of",
)  # fmt: skip
_OBJECTS = (
    "a skateboard", "a horse", "the beach", "a slice of pizza", "a red-and-white kite", "a bottle of Coca-Cola",
    "a sign that says \"STOP\"", "a sign that reads 'No Parking'", "a T-shirt", "a Wi-Fi router", "the number 23",
    "No. 5 jersey", "a book titled \"The Cat's Cradle\"", "an ice-cream cone", "$5.99 worth of apples",
    "a clock showing 10:30 a.m.", "a clock at 3:45", "a bag of M&M's", "the AT&T building", "a 2 1/2 inch nail",
    "a 1/2 eaten sandwich", "a plate of hors d'oeuvres", "a café", "a jalapeño", "a phone (an iPhone 4S)",
    "St. Patrick's Day hats", "a bottle of Jack Daniel's No. 7", "Flight 1549", "a 50% off sale", "a R2-D2 toy",
    "an i7-4770K", "a Nokia N95 8GB", "www.nokia.com", "http://t.co/abc", "a page @nytimes", "#winning hashtag",
    "a U.S. flag", "a 1960's car", "a '57 Chevy", "rock 'n' roll records", "a cup o' tea", "5 o'clock",
    "the O'Reilly books", "1,000,000 people", "a 3-1 score", "two-thirds of it", "25¢", "£10", "€5",
    "a bottle of wine from 1997", "90° angle", "a jar labelled \"100% juice\"", "exit 12A/B", "and/or water", "a yo-yo",
    "a frisbee", "a laptop", "its mother", "the grass", "tracks", "traffic",
)  # fmt: skip
_ENDS = (
    "", " in a field", " on a sunny day", ", while others watch", ", near a tree", " at night.", ".", " .", "!", "...",
    " - close-up", " -- outside", "; it's raining", ": a view", " (blurry)", " & more", "?", " , outside .", " etc.",
    " in Washington, D.C.", " in the U.S.", " in the U.S.A.", " at 5 p.m.", " at 5 p.m", " with Co. logo",
    " by J. K. Rowling", " from Apple Inc.", " vs. the others", " #2", " *", " :)", " --", "  in   the  room", "\t",
    ", Jr.", " approx. 5 ft. away", " on Ave. B", " on Main St.", " in Sept.", " it is no. 1", " in Mt. Vernon",
)  # fmt: skip
_PIECES = (
    *"'\"`.,;:!?-–—…()[]{}<>/\\&%$#@*+=_~^|€£¥¢½¼¾°©®™²³´’‘“”«»•·×÷¿¡",
    "n't", "'s", "'S", "’s", "'d", "'ll", "--", "...", "....", ". . .", "''", "``", "1", "2.5", "1,000", "10:30", "3/4",
    "é", "ñ", "ü", "漢字", "日本", "Привет", "😀", "👍🏽", "\u200b", "\u00a0", "\xad", "I", "U.S.", "a.m.", "Mr.",
    "e.g.", "i.e.", "e-mail", "C++", "C#", "A.", "&amp;", "&lt;", "http://x.com", "a@b.com", "#tag", "@user",
    ":-)", ":(", "<3", "$5", "5%", "№", "no.", "St.", "10th", "1st", "'90s", "1990s", "90's", "mid-1990s",
    "x-ray", "T-shirt", "O'Neil", "l'eau", "d'or", "rock'n'roll", "y'all", "'tis", "'twas", "gonna", "wanna",
    "cannot", "lemme", "gimme", "gotta",
)  # fmt: skip


def captions(number: int, seed: int = 0) -> list[str]:
    """Captions as people write them under images, with abbreviations, quotes, prices, names and contractions."""
    rng = random.Random(seed)
    found = []
    for _ in range(number):
        text = " ".join((rng.choice(_SUBJECTS), rng.choice(_VERBS), rng.choice(_OBJECTS)))
        if rng.random() < 0.4:
            text += rng.choice((" and ", " with ", " in ", ", ", " near ")) + rng.choice(_OBJECTS)
        text += rng.choice(_ENDS)
        kind = rng.random()
        found.append(text.upper() if kind < 0.08 else text[0].upper() + text[1:] if kind < 0.25 else text)
    return found


def mutilated(number: int, seed: int = 0) -> list[str]:
    """Captions with one to four marks, signs, words or foreign letters put in anywhere, in the middle of words too."""
    rng = random.Random(seed)
    found = []
    for caption in captions(number, seed + 1):
        letters = list(caption)
        for _ in range(rng.randint(1, 4)):
            piece = rng.choice(("", " ")) + rng.choice(_PIECES) + rng.choice(("", " "))
            letters.insert(rng.randrange(len(letters) + 1), piece)
        found.append("".join(letters))
    return found


def prose(number: int, seed: int = 0) -> list[str]:
    """Lines of the docstrings of Python's standard library."""
    found: set[str] = set()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                lines = (ast.get_docstring(node) or "").split("\n")
                found.update(line.strip() for line in lines if len(re.findall("[A-Za-z]{2,}", line)) >= 4)
    lines = sorted(found)
    if len(lines) < number:
        raise ValueError(f"Python {sys.version_info.major}.{sys.version_info.minor} has only {len(lines)} such lines")
    return random.Random(seed).sample(lines, number)


def images(pool: Sequence[str], seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """A caption and one to six references for each of half as many images as the pool has captions."""
    rng = random.Random(seed)
    predictions, references = [], []
    for caption in pool[: len(pool) // 2]:
        references.append(
            [_varied(caption, rng) if rng.random() < 0.7 else rng.choice(pool) for _ in range(rng.randint(1, 6))]
        )
        predictions.append(_varied(caption, rng) if rng.random() < 0.8 else rng.choice(pool))
    return predictions, references


def _varied(caption: str, rng: random.Random) -> str:
    """A caption with up to four words left out, repeated, exchanged or replaced."""
    words = caption.split(" ")
    for _ in range(rng.randint(0, 4)):
        place, other, kind = rng.randrange(len(words)), rng.randrange(len(words)), rng.random()
        if kind < 0.3 and len(words) > 1:
            words.pop(place)
        elif kind < 0.6:
            words.insert(place, words[other])
        elif kind < 0.8:
            words[place], words[other] = words[other], words[place]
        else:
            words[place] = rng.choice(("the", "dog", "a", "running", "!"))
    return " ".join(words)
