"""
What pycocoevalcap makes of captions, and the golden file of it.

    python -m tests.lion_multimodal.evaluation.metrics.pycocoevalcap_scores

scores the captions of `caption_samples` with pycocoevalcap, which must be installed and needs Java, and writes
`golden/captions.json`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lion_multimodal.evaluation.metrics.caption_samples import captions, images, mutilated


GOLDEN = Path(__file__).parent / "golden" / "captions.json"
AVAILABLE = importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None


def pycocoevalcap_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """
    Tokens and figures.

    Returns:
        `predictions` and `references`: the captions as tokens between blanks; by key of our metrics, `figures`: of all
        images together, and `per_sample`: of each.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    theirs = tokenizer.tokenize({n: [{"caption": text} for text in group] for n, group in enumerate(references)})
    ours = tokenizer.tokenize({n: [{"caption": text}] for n, text in enumerate(predictions)})
    figures, per_sample = {}, {}
    for key, scorer in (("CIDEr", Cider()), ("ROUGE-L", Rouge()), ("METEOR", Meteor())):
        figure, scores = scorer.compute_score(theirs, ours)
        figures[key], per_sample[key] = float(figure), [float(score) for score in scores]
    bleu, scores = Bleu(4).compute_score(theirs, ours, verbose=0)
    for n in range(4):
        figures[f"BLEU-{n + 1}"], per_sample[f"BLEU-{n + 1}"] = float(bleu[n]), [float(score) for score in scores[n]]
    return {
        "tokens": {"predictions": [tokens for (tokens,) in ours.values()], "references": list(theirs.values())},
        "figures": figures,
        "per_sample": per_sample,
    }


def main() -> None:
    predictions, references = [], []
    for pool in (captions(60, seed=2024), mutilated(40, seed=2024)):
        more, groups = images(pool, seed=7)
        predictions += more
        references += groups
    # What has no words, and what is nothing.
    predictions += ["", "...", "a dog", "A Dog!"]
    references += [["a cat", "the cat"], ["a cat"], ["", "a dog"], ["a dog.", "a dog"]]
    content = {
        "origin": f"pycocoevalcap {importlib.metadata.version('pycocoevalcap')}, by pycocoevalcap_scores.py beside "
        "this folder, of captions made by caption_samples.py",
        "predictions": predictions,
        "references": references,
        **pycocoevalcap_scores(predictions, references),
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
