"""Official LION and RAM files to checkpoints of this package, and back."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from lion_multimodal.conversion.checkpoint import convert_lion_checkpoint
    from lion_multimodal.conversion.from_official import OfficialConversion, OfficialFiles
    from lion_multimodal.conversion.plan import ConversionError
    from lion_multimodal.conversion.ram import convert_ram_checkpoint
    from lion_multimodal.conversion.to_official import to_official


__all__ = [
    "ConversionError",
    "OfficialConversion",
    "OfficialFiles",
    "convert_lion_checkpoint",
    "convert_ram_checkpoint",
    "to_official",
]

_MODULES = {
    "ConversionError": "plan",
    "OfficialConversion": "from_official",
    "OfficialFiles": "from_official",
    "convert_lion_checkpoint": "checkpoint",
    "convert_ram_checkpoint": "ram",
    "to_official": "to_official",
}


def __getattr__(name: str) -> Any:
    # On demand: reading the names of tensors needs no model.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
