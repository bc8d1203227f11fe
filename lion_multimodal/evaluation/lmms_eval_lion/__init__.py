"""
LION as a model of lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval): `python -m lmms_eval --model lion`.

lmms-eval finds `manifest` by the entry-point group `lmms_eval.models`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """What lmms-eval registers. It asks all of its plugins for theirs, whichever model is wanted: nothing is loaded."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="lion", simple_class_path=f"{__name__}.model.Lion")
