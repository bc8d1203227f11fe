"""
Penn Treebank tokens without Java: an approximation of the tokenizer of Stanford CoreNLP 3.4.1.

As in a generated lexer, several rules are tried at each place of the text and the one that reaches furthest wins, the
first of these in a tie. What a rule captures becomes the token; what it reads behind that only decides its reach.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence


def _characters(*categories: str) -> str:
    """A range for a character class: what is of these Unicode categories, as far as the tokenizer knows Unicode."""
    codes = [code for code in range(0x10000) if unicodedata.category(chr(code)).startswith(categories)]
    starts = [code for previous, code in zip([-1, *codes], codes) if code != previous + 1]
    ends = [code for code, following in zip(codes, [*codes[1:], -1]) if following != code + 1]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


# Soft hyphens may stand in words, which lose them.
_SOFT_HYPHEN = "\xad"
_LETTERS, _DIGITS = _characters("L"), _characters("Nd")
_WORD_LETTERS = _LETTERS + _characters("M") + _SOFT_HYPHEN
_LETTER = f"[{_LETTERS}]"
_ALNUM = f"[{_LETTERS}{_DIGITS}]"
_WORD = f"[{_WORD_LETTERS}][{_WORD_LETTERS}{_DIGITS}]*"
_APOSTROPHE = "['’]"
_NOT_BEFORE_ALNUM = rf"(?!{_ALNUM})"
# "o'neil-x", "10-year-o'neil".
_THING = rf"(?:[dDoOlL]{_APOSTROPHE}{_ALNUM})?{_ALNUM}+"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_TAG_NAME = r"[A-Za-z][A-Za-z0-9:._-]*"
_TAG_VALUE = r"""(?:"[^"\r\n<>]*"|'[^'\r\n<>]*')"""

# Abbreviations that keep their full stop. Those of the first two kinds may end a sentence, which then gets a full stop
# of its own; those of the last keep theirs before a number only.
_ABBREVIATIONS = """
    al ala apr ariz assn aug bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga inc
    ind intl jan jr jul jun kan ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc rd rt sep sept seq sq
    sr sys tel tenn thu thurs tue tues univ va vt wed wis wyo
""".split()
_CAPITALIZED_ABBREVIATIONS = "Ark Del Ill La Mass Miss Ore Pa Tex Wash".split()
_TITLES = """
    adj adm adv alex assoc atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs ft gen gov govs hon invt
    jos lt maj messrs mr mrs ms msgr mt pfc ph pres prof pvt rep rev sen sens sgt st ste supt treas vs wm
""".split()
_NUMBER_ABBREVIATIONS = "art ca fig figs no nos op pp".split()
# Words that begin a sentence, behind an initial or an abbreviation of letters.
_BEGINNINGS = """
    A About According Additionally After An As At But Earlier He Here However If In It Last Many More Now Once One Other
    Our Since So Some Such That The Their Then There These They This We What When While Yet You
""".split()
# Words that are read as two: "cannot" as "can not".
_SPLIT_WORDS = ("can|not", "gon|na", "wan|na", "got|ta", "lem|me", "gim|me")


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_BEGINNING = rf"\s+(?:{_any_of(f'{word[0]}(?i:{word[1:]})' for word in _BEGINNINGS)}|M(?i:[rs])\.)\s"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+"

_RULES = tuple(
    re.compile(rule)
    for rule in (
        # "does|n't", "they|'re" and the second halves of these. A curly apostrophe needs no end of the word.
        rf"([A-Za-z]+)(?i:n{_APOSTROPHE}t)",
        rf"({_ALNUM}+)'(?i:[smd]|ll|ve|re)(?![A-Za-z])",
        rf"({_ALNUM}+)’(?i:[smd]|ll|ve|re)",
        rf"('(?i:[smd]|ll|ve|re)|(?i:n{_APOSTROPHE}t))(?:[^A-Za-z]|$)",
        r"(’(?i:[smd]|ll|ve|re))",
        *(rf"(?i:({word.replace('|', ')')}){_NOT_BEFORE_ALNUM}" for word in _SPLIT_WORDS),
        r"('[Tt])(?i:is|was)",
        rf"([Yy]{_APOSTROPHE}){_LETTER}+",
        # Words with an apostrophe that belongs to them.
        rf"({_APOSTROPHE}(?i:n{_APOSTROPHE}))",
        rf"({_APOSTROPHE}(?i:em|n|till?|cause|[2-9]0s))",
        rf"({_APOSTROPHE}\d\d)(?=\s|$)",
        rf"((?i:dunkin|somethin|ol){_APOSTROPHE})",
        rf"([lLdDjJ]{_APOSTROPHE})",
        rf"((?i:d{_APOSTROPHE}ye|o{_APOSTROPHE}o|c{_APOSTROPHE}mon|e{_APOSTROPHE}er|li{_APOSTROPHE}l"
        rf"|s{_APOSTROPHE}mores|nor{_APOSTROPHE}easter|ev{_APOSTROPHE}ry|nat{_APOSTROPHE}l|cap{_APOSTROPHE}n))"
        rf"{_NOT_BEFORE_ALNUM}",
        rf"([A-HJ-XZn]{_APOSTROPHE}{_LETTER}{{2,}})",
        rf"({_LETTER}+[aeiouyAEIOUY]'[aeiouA-Z]{_LETTER}*)",
        rf"({_LETTER}+){_APOSTROPHE}[nN]{_APOSTROPHE}?{_LETTER}*",
        # Letters, digits, and what may join them.
        rf"({_WORD}(?:[.!?]{_WORD})*)",
        rf"({_THING}(?:[-_‐‑]{_THING})*)",
        r"([A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\xad]+))+)",
        rf"({_SLASHED}(?:\\?/{_SLASHED}){{1,2}})",
        r"([A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)",
        r"([Cc]\+\+|[CcFf]#)",
        # Abbreviations.
        rf"({_INITIALS}\.?)",
        rf"([A-Za-z]\.)(?!{_BEGINNING})",
        rf"((?i:ph\.d|{_any_of(_ABBREVIATIONS + _TITLES)})\.)",
        rf"((?:{_any_of(_CAPITALIZED_ABBREVIATIONS)})\.)",
        rf"((?i:{_any_of(_NUMBER_ABBREVIATIONS)})\.)\s?\d",
        rf"({_ALNUM}+(?:\.{_ALNUM}+)*\.)[,;:]",
        # Numbers: "10,000.50", "3:45", "-5", "2 1/2", "(555) 123-4567".
        r"([-+]?(?:\d+(?:[.,:]\d+)*|(?:[.,:]\d+)+))",
        r"((?:\d{1,4}[- \xa0])?\d{1,4}/\d{1,4})",
        r"(\d{1,2}[-/]\d{1,2}[-/]\d{2,4})",
        r"((?:\(\d{2,3}\)[ \xa0]?|(?:\+\+?)?(?:\d{2,4}[- \xa0])?\d{2,4}[- \xa0])\d{3,4}[- \xa0]?\d{3,5})(?!\d)",
        r"((?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5})(?!\d)",
        r"([⁰¹²³⁴-⁹]+|[₀-₉]+)",
        r"([A-Z]*\$)",
        # The web.
        r"((?i:https?)://[^\s\"<>|(){}]+[^\s\"<>|().!?{},-])",
        r"(www\.(?:[^\s`<>|.!?,]+\.)+[a-zA-Z]{2,4}(?:/[^\s`<>|]+[^\s`<>|.!?,-])?)",
        r"((?:[^\s`<>|.!?,/$'\"()@:;={}-]+\.)+(?:com|net|org|edu)(?:/[^\s`<>|\"]+[^\s`<>|.!?,-])?)",
        r"(<?[A-Za-z0-9][^\s\"<>|()\xa0]*@(?:[^\s\"<>|().\xa0]+\.)*[^\s\"<>|().\xa0]+>?)",
        r"(@[A-Za-z_][A-Za-z_0-9]*)",
        rf"(#{_LETTER}+)",
        rf"(</?{_TAG_NAME}(?: +{_TAG_NAME}(?: *= *{_TAG_VALUE})?)* */?>|<[!?][A-Za-z-][^<>\r\n]*>)",
        r"(&(?:amp|lt|gt|quot|apos|nbsp);)",
        # Marks.
        r"([<>]?[:;=][-o*']?[()DPdpO{}@|\[\]\\])(?![A-Za-z0-9])",
        r"([-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\))",
        r"(-[lr][rsc]b-)",
        r"(\.{3,}|\. \. \.)",
        r"(--+|``|''|[?!]+|##+|@@+|\*\*+|__+|<<|>>)",
        r"(')[A-Za-z]\S",
        r"(\S)",
    )
)
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=\s|$)")
_SPLIT_WHOLE = frozenset(word.replace("|", "") for word in _SPLIT_WORDS)

# Where an abbreviation is the last word of a sentence: those that are words need a capital or the end of a paragraph
# behind them, those of letters one of the words that begin sentences.
_ENDS_AS_WORD = re.compile(
    rf"(?:(?i:{_any_of(_ABBREVIATIONS)})|{_any_of(_CAPITALIZED_ABBREVIATIONS)})\.(?=\s(?:\s|[A-ZÀ-ÖØ-Þ])|\s?$)"
)
_ENDS_AS_LETTERS = re.compile(rf"{_INITIALS}\.(?={_BEGINNING})")

_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "£": "#", "€": "$", "¢": "cents",
    "“": "``", "”": "''", "„": "``", "«": "``", "»": "''", "‘": "`", "’": "'", "‛": "`",
    "–": "--", "—": "--", "―": "--", "…": "...", "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''",
    "&apos;": "'", "&nbsp;": "", _SOFT_HYPHEN: "-",
}  # fmt: skip


def tokenize(text: str, following: str = "") -> list[str]:
    """
    Splits a text as the Penn Treebank does, in lower case: `"A man's dog isn't (so) big."` to `a`, `man`, `'s`, `dog`,
    `is`, `n't`, `-lrb-`, `so`, `-rrb-`, `big`, `.`.

    Args:
        text: a line.
        following: the line behind it, whose beginning decides whether an abbreviation is the end of a sentence.
    """
    text = "".join(map(_readable, text))
    end = len(text)
    text = f"{text}\n{''.join(map(_readable, following[:_FOLLOWING]))}"
    tokens, position = [], 0
    while position < end:
        if text[position].isspace():
            position += 1
            continue
        match = _PLAIN_WORD.match(text, position)
        if match is not None and match[0].lower() not in _SPLIT_WHOLE:
            tokens.append(match[0].lower())
            position = match.end()
            continue
        match = _longest(text, position)
        tokens.append(_written(match, text))
        position = match.end(1)
        if any((found := rule.match(text, match.start(1))) and found.end() == position for rule in _SENTENCE_ENDS):
            tokens.append(".")
    return [token for token in tokens if token]


def tokenize_lines(lines: Sequence[str]) -> list[list[str]]:
    """The tokens of each line of a text."""
    return [tokenize(line, following) for line, following in zip(lines, [*lines[1:], ""])]


# Enough to hold a word.
_FOLLOWING = 40
_SENTENCE_ENDS = (_ENDS_AS_WORD, _ENDS_AS_LETTERS)


def _longest(text: str, position: int) -> re.Match[str]:
    matches = (match for rule in _RULES if (match := rule.match(text, position)) is not None)
    return max(matches, key=re.Match.end)


def _readable(character: str) -> str:
    """What the lexer does not know separates words."""
    unknown = ord(character) > 0xFFFF or character in "₹\ufe0e\ufe0f"
    if not unknown and character != _SOFT_HYPHEN and not character.isspace():
        unknown = unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs")
    return " " if unknown else character


def _written(match: re.Match[str], text: str) -> str:
    token = match[1]
    if token == '"':
        return "``" if _OPENS_DOUBLE.match(text, match.end(1)) else "''"
    if token == "'" and _OPENS_SINGLE.match(text, match.end(1)):
        return "`"
    if token in _WRITTEN:
        return _WRITTEN[token]
    if token in ("---", "----"):
        return "--"
    if token.startswith(("...", ". ")):
        return "..."
    if _CONTRACTION.fullmatch(token):
        token = token.replace("’", "'")
    for bracket in "()":
        token = token.replace(bracket, _WRITTEN[bracket])
    return token.replace("&amp;", "&").replace(_SOFT_HYPHEN, "").replace(" ", "\xa0").lower()


_OPENS_DOUBLE = re.compile(r"[A-Za-z0-9$]")
_OPENS_SINGLE = re.compile(r"[A-Za-z]\S")
_CONTRACTION = re.compile(rf"{_APOSTROPHE}(?i:[smdt]|ll|ve|re)|(?i:n{_APOSTROPHE}t)")


__all__ = ["tokenize", "tokenize_lines"]
