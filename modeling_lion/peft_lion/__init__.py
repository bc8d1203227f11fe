"""
LION's stages as a PEFT method of its own, `LION_ADAPTER`. Importing this package makes it known to PEFT, so that
`PeftModel.from_pretrained` and everything else there works with it.
"""

from modeling_lion.extras_lion import needs_extra


with needs_extra("train", "LION's PEFT method"):
    from peft.mapping import (
        PEFT_TYPE_TO_CONFIG_MAPPING,
        PEFT_TYPE_TO_PREFIX_MAPPING,
        PEFT_TYPE_TO_TUNER_MAPPING,
    )

    from modeling_lion.peft_lion.config import LION_ADAPTER, LionAdapterConfig
    from modeling_lion.peft_lion.folding import combine_adapters, fold_adapters, initialize_adapter
    from modeling_lion.peft_lion.layer import LionAdapterLayer, LionTrainedModuleLayer
    from modeling_lion.peft_lion.model import LionAdapterModel


__all__ = [
    "LION_ADAPTER",
    "LionAdapterConfig",
    "LionAdapterLayer",
    "LionAdapterModel",
    "LionTrainedModuleLayer",
    "combine_adapters",
    "fold_adapters",
    "initialize_adapter",
]

# `peft.utils.register_peft_method` knows only the names of PEFT's own enum.
PEFT_TYPE_TO_CONFIG_MAPPING[LION_ADAPTER] = LionAdapterConfig
PEFT_TYPE_TO_TUNER_MAPPING[LION_ADAPTER] = LionAdapterModel
PEFT_TYPE_TO_PREFIX_MAPPING[LION_ADAPTER] = LionAdapterModel.prefix
