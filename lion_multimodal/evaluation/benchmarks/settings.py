"""What several benchmarks share: decoding, and where the lmms-lab data sets are."""

from __future__ import annotations

from typing import Any

from lion_multimodal.evaluation.benchmark import Decoding, HubDataset


# LION's authors give no decoding for their tables. Beams, lengths and length penalty are those of InstructBLIP's code
# base, LAVIS: `predict_answers` of blip2_t5_instruct.py for answers, caption_coco_flant5xl_eval.yaml for captions. The
# repetition penalty is the default of `generate` both there and in LION's own code.
ANSWER_DECODING = Decoding(num_beams=5, max_new_tokens=10, length_penalty=-1.0, repetition_penalty=1.5)
CAPTION_DECODING = Decoding(num_beams=5, max_new_tokens=30, min_new_tokens=8, repetition_penalty=1.5)
# LION's playground.ipynb calls `generate` with its defaults, among them 256 tokens; a box has about 30.
BOX_DECODING = Decoding(num_beams=5, max_new_tokens=64, repetition_penalty=1.5)

LAVIS_ANSWERS = "beam search of 5, length penalty -1 and at most 10 tokens, as InstructBLIP answers in LAVIS"


def lmms_lab(repo: str, /, *arguments: Any, **keywords: Any) -> tuple[HubDataset, HubDataset]:
    """
    A data set of the lmms-lab family, under both of its names: `lmms-lab/REPO`, as everybody cites it, and
    `lmms-lab-encoder/REPO`, as lmms-eval has it since 0.7.
    """
    return (
        HubDataset(f"lmms-lab/{repo}", *arguments, **keywords),
        HubDataset(f"lmms-lab-encoder/{repo}", *arguments, **keywords),
    )
