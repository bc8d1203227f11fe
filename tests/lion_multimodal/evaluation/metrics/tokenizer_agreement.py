"""
How often the tokenizer without Java gives the words of the one with it.

    python -m tests.lion_multimodal.evaluation.metrics.tokenizer_agreement --captions 20000 --seed 101

needs pycocoevalcap and Java. Compared are the words that metrics see, punctuation left out.
"""

from __future__ import annotations

import argparse
import logging

from lion_multimodal.evaluation.metrics.captions import tokenize_captions
from tests.lion_multimodal.evaluation.metrics.caption_samples import captions, mutilated, prose


logger = logging.getLogger(__name__)

# Python's standard library has not many more lines of prose than this.
_MOST_PROSE = 6000


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the tokenizers of captions.")
    parser.add_argument("--captions", type=int, default=20000, help="captions of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=101, help="which captions (default: %(default)s)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for make in (captions, prose, mutilated):
        number = min(options.captions, _MOST_PROSE) if make is prose else options.captions
        lines = make(number, options.seed)
        # All as references of one picture: one text, as a file of captions is.
        with_java, without = (
            tokenize_captions(["a"], [lines], tokenizer).references[0] for tokenizer in ("java", "approximation")
        )
        same = sum(words == others for words, others in zip(with_java, without, strict=True))
        logger.info("%s: %d of %d agree, %.3f %%", make.__name__, same, number, 100 * same / number)


if __name__ == "__main__":
    main()
