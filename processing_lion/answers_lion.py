"""Answers as they are compared."""


def plain_answer(answer: str) -> str:
    """An answer in lower case, with single blanks between its words and without a full stop at its end."""
    return " ".join(answer.casefold().split()).removesuffix(".").rstrip()
