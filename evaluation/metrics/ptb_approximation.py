"""
Penn Treebank tokens without Java: an approximation of the tokenizer of Stanford CoreNLP 3.4.1.

As in a generated lexer, several rules are tried at each place of the text and the one that reaches furthest wins, the
first of these in a tie. What a rule captures becomes the token; what it reads behind that only decides its reach.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


_LETTER = r"[^\W\d_]"
_ALNUM = r"[^\W_]"
_APOSTROPHE = "['’]"
_NOT_BEFORE_ALNUM = rf"(?!{_ALNUM})"

# Abbreviations that keep their full stop anywhere; those that do so when capitalized; those that do before a number.
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc atty attys aug ave bldg blvd brig bros calif capt cf cie cmdr co col
    colo comdr conn corp cos cpl ct dak dec dept det dr esq est etc ext feb fla fri ft ga gen gov govs hon inc ind intl
    invt jan jos jr jul jun kan ky lt ltd maj mar md messrs mich minn mo mon mont mr mrs ms msgr mt neb nev nov oct
    okla penn pfc plc pres prof pvt rd rep rev rt sen sens sep sept sgt sq sr st ste supt tel tenn thu thurs treas tue
    tues univ va vs vt wed wis wm wyo
""".split()
_CAPITALIZED_ABBREVIATIONS = "Ark Del Ill La Mass Miss Ore Pa Tex Wash".split()
_NUMBER_ABBREVIATIONS = "art ca fig figs no nos op pp".split()
# Words that are read as two: "cannot" as "can not".
_SPLIT_WORDS = ("can|not", "gon|na", "wan|na", "got|ta", "lem|me", "gim|me")


def _any_of(words: list[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_RULES = tuple(
    re.compile(rule)
    for rule in (
        # "does|n't", "they|'re" and the second halves of these.
        rf"({_LETTER}+)(?i:n{_APOSTROPHE}t)(?![A-Za-z])",
        rf"({_ALNUM}+){_APOSTROPHE}(?i:[smd]|ll|ve|re)(?![A-Za-z])",
        rf"({_APOSTROPHE}(?i:[smd]|ll|ve|re)|(?i:n{_APOSTROPHE}t))(?![A-Za-z])",
        *(rf"(?i:({word.replace('|', ')')}){_NOT_BEFORE_ALNUM}" for word in _SPLIT_WORDS),
        rf"({_APOSTROPHE}[Tt])(?i:is|was){_NOT_BEFORE_ALNUM}",
        rf"([Yy]{_APOSTROPHE}){_LETTER}+",
        # Words with an apostrophe that belongs to them.
        rf"({_APOSTROPHE}(?i:n{_APOSTROPHE}?|em|till?|cause|[2-9]0s)){_NOT_BEFORE_ALNUM}",
        rf"((?i:dunkin|somethin|ol){_APOSTROPHE}){_NOT_BEFORE_ALNUM}",
        rf"((?i:d{_APOSTROPHE}ye|o{_APOSTROPHE}o|[cC]{_APOSTROPHE}mon|e{_APOSTROPHE}er|li{_APOSTROPHE}l|s{_APOSTROPHE}mores"
        rf"|nor{_APOSTROPHE}easter|ev{_APOSTROPHE}ry|nat{_APOSTROPHE}l|cap{_APOSTROPHE}n)){_NOT_BEFORE_ALNUM}",
        rf"([dDoOlLjJ]{_APOSTROPHE}{_LETTER}{{2,}}(?:-{_ALNUM}+)*)",
        rf"({_LETTER}*[aeiouyAEIOUY]{_APOSTROPHE}[aeiouA-Z]{_LETTER}*(?:-{_ALNUM}+)*)",
        rf"({_LETTER}+){_APOSTROPHE}[nN]{_APOSTROPHE}?{_LETTER}*",
        rf"({_APOSTROPHE}[nN]{_APOSTROPHE})",
        # Letters, digits, and what may join them.
        rf"({_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*)",
        rf"({_ALNUM}+(?:[-_]{_ALNUM}+)*)",
        rf"({_ALNUM}(?:{_ALNUM}|[.,](?={_ALNUM}))*(?:-{_ALNUM}+)+)",
        rf"({_ALNUM}+(?:-{_ALNUM}+)*(?:/{_ALNUM}+)+(?:-{_LETTER}{_ALNUM}*)*)",
        r"([A-Z]+(?:&[A-Z]+)+)",
        rf"([Cc]\+\+|[CcFf]#){_NOT_BEFORE_ALNUM}",
        # Abbreviations.
        rf"([A-Za-z](?:\.[A-Za-z])+\.?){_NOT_BEFORE_ALNUM}",
        # Not where it ends a caption, as the next one begins with a capital.
        rf"({_LETTER}\.)(?!{_ALNUM}|\s*$)",
        rf"((?i:{_any_of(_ABBREVIATIONS)}|ph\.d)\.){_NOT_BEFORE_ALNUM}",
        rf"((?:{_any_of(_CAPITALIZED_ABBREVIATIONS)})\.){_NOT_BEFORE_ALNUM}",
        rf"((?i:{_any_of(_NUMBER_ABBREVIATIONS)})\.) ?\d",
        # Numbers: "10,000.50", "3:45", "-5", "2 1/2", "(555) 123-4567".
        r"([-+]?(?:\d+(?:[.,:]\d+)*|(?:[.,:]\d+)+))",
        r"(\d{1,4}[- \xa0]\d{1,4}/\d{1,4})",
        r"(\(\d{2,3}\)[ \xa0]?\d{3,4}[- ]\d{4})(?!\d)",
        r"((?:US|HK|NZ|[ACMRS])\$)",
        # The web.
        r"(https?://[^\s\"<>|()]+[^\s\"<>|().,;:!?'-])",
        r"((?:www\.)?(?:[A-Za-z0-9][\w-]*\.)+(?:com|net|org|edu|gov|co\.uk)(?:/[^\s\"<>|()]*[^\s\"<>|().,;:!?'-])?)",
        r"(<?[A-Za-z0-9][\w.%+-]*@[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*>?)",
        r"([@#][A-Za-z_]\w*)",
        r"(</?[A-Za-z][\w:-]*(?: [\w:-]+=\"[^\"<>]*\")* ?/?>)",
        r"(&(?:amp|lt|gt|quot|apos|nbsp);)",
        # Marks.
        r"([<>]?[:;=][-o*']?[()DPdpO{}@|\[\]\\])(?![A-Za-z])",
        r"(\.{3,}|\. \. \.)",
        r"(--+|``|''|[?!]+|##+|\*\*+|__+|<<|>>)",
        r"(\S)",
    )
)
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=\s|$)")
_SPLIT_WHOLE = frozenset(word.replace("|", "") for word in _SPLIT_WORDS)

_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "£": "#", "€": "$", "¢": "cents",
    "\"": "''", "“": "``", "”": "''", "„": "``", "«": "``", "»": "''", "‘": "`", "’": "'", "‛": "`",
    "–": "--", "—": "--", "―": "--", "…": "...", "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''",
    "&apos;": "'", "&nbsp;": "",
}  # fmt: skip


def tokenize(text: str) -> list[str]:
    """
    Splits a text as the Penn Treebank does, in lower case: `"A man's dog isn't (so) big."` to `a`, `man`, `'s`, `dog`,
    `is`, `n't`, `-lrb-`, `so`, `-rrb-`, `big`, `.`.
    """
    text = "".join(map(_readable, text))
    tokens, position = [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _PLAIN_WORD.match(text, position)
        if match is not None and match[0].lower() not in _SPLIT_WHOLE:
            tokens.append(match[0].lower())
            position = match.end()
            continue
        matches = [match for rule in _RULES if (match := rule.match(text, position)) is not None]
        match = max(matches, key=re.Match.end)
        tokens.append(_written(match[1]))
        position = match.end(1)
    return [token for token in tokens if token]


def _readable(character: str) -> str:
    """Characters that the lexer knows; soft hyphens vanish, what is unknown to it separates words."""
    if character == "\xad":
        return ""
    if (
        ord(character) > 0xFFFF
        or character in "‐‑‒₹\ufe0e\ufe0f"
        or unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs")
    ):
        return " "
    return character


def _written(token: str) -> str:
    if token in _WRITTEN:
        return _WRITTEN[token]
    if token in ("---", "----"):
        return "--"
    if token.startswith(("...", ". ")):
        return "..."
    if _CONTRACTION.fullmatch(token):
        token = token.replace("’", "'")
    for bracket in "()":
        if bracket in token:
            token = token.replace(bracket, _WRITTEN[bracket])
    return token.replace(" ", "\xa0").lower() if token[0] != "<" else token.lower()


_CONTRACTION = re.compile(rf"{_APOSTROPHE}(?i:[smdt]|ll|ve|re)|(?i:n{_APOSTROPHE}t)")


def tokenize_lines(lines: Sequence[str]) -> list[list[str]]:
    """The tokens of each line."""
    return [tokenize(line) for line in lines]
