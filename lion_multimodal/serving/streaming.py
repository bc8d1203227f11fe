"""Answers piece by piece, several at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.generation import BaseStreamer, StoppingCriteria


class PieceStreamer(BaseStreamer):
    """
    Makes words of the tokens of a batch's answers, one beam each, as they come. A piece goes out once the next token
    cannot change it any more.

    Args:
        tokenizer: The language model's.
        ends (`Sequence[int]`): Tokens that end an answer.
        emit (`Callable[[int, str], None]`): What is called with an answer's number and its next piece.
        size (`int`): How many answers there are.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int], emit: Callable[[int, str], None], size: int):
        self._tokenizer, self._ends, self._emit = tokenizer, frozenset(ends), emit
        self._cleans_up = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        self._tokens: list[list[int]] = [[] for _ in range(size)]
        self._texts, self.sent, self._ended = [""] * size, [""] * size, [False] * size

    def put(self, value: torch.Tensor) -> None:
        """Take the next token of every answer."""
        if value.dim() > 1:  # where the answers begin
            return
        for row, token in enumerate(value.tolist()):
            if self._ended[row] or token in self._ends:
                self._ended[row] = True
                continue
            self._tokens[row].append(token)
            text = self._tokenizer.decode(self._tokens[row], skip_special_tokens=True).lstrip()
            # Characters of which only some bytes are there change with the next token, and so may blanks.
            stable = os.path.commonprefix([self._texts[row], text]).rstrip(" \n\ufffd")
            if self._cleans_up:  # "do n" becomes "don't"
                stable = stable.rpartition(" ")[0].rstrip(" \n\ufffd")
            self._texts[row] = text
            if len(stable) > len(self.sent[row]) and stable.startswith(self.sent[row]):
                self._emit(row, stable[len(self.sent[row]) :])
                self.sent[row] = stable

    def end(self) -> None:
        """There are no more tokens."""


class Cancellable(StoppingCriteria):
    """
    Ends the answers that nobody waits for any more.

    Args:
        is_cancelled (`Sequence[Callable[[], bool]]`): One for each answer of the batch.
    """

    def __init__(self, is_cancelled: Sequence[Callable[[], bool]]):
        self._is_cancelled = is_cancelled

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([asked() for asked in self._is_cancelled], device=input_ids.device)
