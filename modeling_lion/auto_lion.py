"""
LION among transformers' Auto classes and PEFT's methods, at no cost until either is imported.

`import modeling_lion` runs [`register`]. Nothing that takes time is imported by it: registration follows once the
module it concerns is there.
"""

import functools
import importlib
import importlib.abc
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any


class _ImportWatcher(importlib.abc.MetaPathFinder):
    """
    Calls back when a module has been imported, and with it all that was waiting for it: in the midst of an import of
    transformers, LION's own classes could not be imported.
    """

    packages = ("configuration_lion", "modeling_lion", "peft", "processing_lion", "transformers")

    def __init__(self) -> None:
        self.waiting: dict[str, Callable[[], None]] = {}
        self.state = threading.local()

    def when_imported(self, module: str, function: Callable[[], None]) -> None:
        if module in sys.modules:
            function()
        else:
            self.waiting[module] = function
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self.packages:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in finders if hasattr(finder, "find_spec"))
        spec: Any = next((spec for spec in specs if spec is not None), None)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        setattr(spec.loader, "exec_module", functools.partial(self._exec_module, spec.loader.exec_module))  # noqa: B010
        return spec

    def _exec_module(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        depth = getattr(self.state, "depth", 0)
        self.state.depth = depth + 1
        try:
            exec_module(module)
        finally:
            self.state.depth = depth
        if depth == 0:
            for name in [name for name in self.waiting if name in sys.modules]:
                function = self.waiting.pop(name, None)
                if function is not None:
                    function()
            if not self.waiting and self in sys.meta_path:
                sys.meta_path.remove(self)


def register() -> None:
    """Make `lion` and `lion_ram` known to transformers' Auto classes, and `LION_ADAPTER` to PEFT."""
    watcher = _ImportWatcher()
    auto = "transformers.models.auto."
    watcher.when_imported(auto + "configuration_auto", _register_configurations)
    watcher.when_imported(auto + "modeling_auto", _register_models)
    watcher.when_imported(auto + "image_processing_auto", _register_image_processors)
    watcher.when_imported(auto + "processing_auto", _register_processors)
    watcher.when_imported("peft", _register_peft_method)

    _restore_auto_model_for_vision2seq()
    # This module replaces `sys.modules["transformers"]` by a fresh one (transformers 5.23).
    watcher.when_imported("transformers.processing_utils", _restore_auto_model_for_vision2seq)


def _register_configurations() -> None:
    from transformers import AutoConfig

    from configuration_lion.configuration_lion import LionConfig
    from configuration_lion.configuration_ram import RamConfig

    for config in (LionConfig, RamConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_models() -> None:
    import transformers

    from configuration_lion.configuration_lion import LionConfig
    from configuration_lion.configuration_ram import RamConfig
    from modeling_lion.hub_lion import LION_AUTO_MAP
    from modeling_lion.modeling_lion import LionForConditionalGeneration
    from modeling_lion.modeling_ram import RamForImageTagging

    for name in LION_AUTO_MAP:
        # Which of them exist depends on the version of transformers.
        if name.startswith("AutoModel") and hasattr(transformers, name):
            getattr(transformers, name).register(LionConfig, LionForConditionalGeneration, exist_ok=True)
    transformers.AutoModel.register(RamConfig, RamForImageTagging, exist_ok=True)


def _register_image_processors() -> None:
    from transformers import AutoImageProcessor

    from configuration_lion.configuration_lion import LionConfig
    from configuration_lion.configuration_ram import RamConfig
    from processing_lion.image_processing_lion import LionImageProcessor

    for config in (LionConfig, RamConfig):
        AutoImageProcessor.register(config, slow_image_processor_class=LionImageProcessor, exist_ok=True)


def _register_processors() -> None:
    from transformers import AutoProcessor

    from configuration_lion.configuration_lion import LionConfig
    from processing_lion.processing_lion import LionProcessor

    AutoProcessor.register(LionConfig, LionProcessor, exist_ok=True)


def _register_peft_method() -> None:
    importlib.import_module("modeling_lion.peft_lion")


@functools.cache
def auto_model_for_vision2seq() -> type:
    """
    `transformers.AutoModelForVision2Seq`. Where transformers has dropped it, a class that does the same: what
    `AutoModelForImageTextToText` loads, and remote code that gives only the old name.
    """
    modeling_auto: Any = importlib.import_module("transformers.models.auto.modeling_auto")
    if hasattr(modeling_auto, "AutoModelForVision2Seq"):
        return modeling_auto.AutoModelForVision2Seq

    # Its own name makes it read its own entry of a repo's `auto_map`.
    class AutoModelForVision2Seq(modeling_auto.AutoModelForImageTextToText):
        """The image-text-to-text models under the name they had in transformers 4."""

    AutoModelForVision2Seq.__module__ = "transformers"
    AutoModelForVision2Seq.__qualname__ = "AutoModelForVision2Seq"
    # Where a class from a repo looks whether there is such an Auto class.
    auto: Any = importlib.import_module("transformers.models.auto")
    auto.AutoModelForVision2Seq = AutoModelForVision2Seq
    return AutoModelForVision2Seq


def _restore_auto_model_for_vision2seq() -> None:
    """Put the name back under `transformers`; looking it up, and not this, is what imports models."""
    transformers = sys.modules["transformers"]
    # By the version, because asking the module itself would import its models.
    if int(transformers.__version__.split(".")[0]) < 5 or hasattr(type(transformers), "AutoModelForVision2Seq"):
        return

    module_type: Any = type(transformers)

    class TransformersWithVision2Seq(module_type):
        @property
        def AutoModelForVision2Seq(self) -> type:
            return auto_model_for_vision2seq()

    transformers.__class__ = TransformersWithVision2Seq
