"""Which code travels with a checkpoint, and how it is written beside one."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path


# What goes into a repo as remote code: these files and no others. They import torch, transformers, Pillow, NumPy and
# safetensors, beside the standard library. In a repo all lie in one folder, so their names are unique.
IMAGE_PROCESSOR_CODE = (
    "processing_lion/fetching_lion.py",
    "processing_lion/image_loading_lion.py",
    "processing_lion/image_processing_lion.py",
    "processing_lion/remote_code_lion.py",
)
PROCESSOR_CODE = (
    *IMAGE_PROCESSOR_CODE,
    "processing_lion/grounding_lion.py",
    "processing_lion/panics_lion.py",
    "processing_lion/processing_lion.py",
    "processing_lion/prompts_lion.py",
    "processing_lion/levels_lion.py",
)
TAGGER_CODE = (
    *IMAGE_PROCESSOR_CODE,
    "configuration_lion/configuration_ram.py",
    "configuration_lion/validation_lion.py",
    "modeling_lion/attention_lion.py",
    "modeling_lion/hub_lion.py",
    "modeling_lion/modeling_ram.py",
)
LION_CODE = tuple(
    sorted(
        {
            *PROCESSOR_CODE,
            *TAGGER_CODE,
            "configuration_lion/configuration_lion.py",
            "modeling_lion/handler.py",
            "modeling_lion/language_model_lion.py",
            "modeling_lion/mixture_of_adapters_lion.py",
            "modeling_lion/modeling_lion.py",
            "modeling_lion/pipeline_lion.py",
            "modeling_lion/tagger_lion.py",
            "modeling_lion/vision_aggregator_lion.py",
            "modeling_lion/vision_model_lion.py",
        }
    )
)

# transformers fetches the files that an entry of `auto_map` names in relative imports; where these lead further,
# version 4 stops for local directories, and neither version sees what no import leads to. So entries name all.
_ENTRIES = {
    "image_processing_lion": IMAGE_PROCESSOR_CODE,
    "modeling_lion": LION_CODE,
    "modeling_ram": TAGGER_CODE,
    "pipeline_lion": LION_CODE,
    "processing_lion": PROCESSOR_CODE,
}
_FOOTER = "\n\nif False:  # Never runs: names the files that belong to this one, for transformers to copy them.\n"
# transformers 5 finds a model's class by that of its configuration, and tells configurations apart by their own file
# alone: of two checkpoints whose models differ and whose configurations don't, the second would run the first's code.
_CONFIGURATIONS = ("configuration_lion", "configuration_ram")
_DIGEST = "\n\n# Made by write_code, of all code in this folder: "

_PACKAGES = "|".join(sorted({file.partition("/")[0] for file in LION_CODE}))
_ABSOLUTE_IMPORT = re.compile(rf"^(\s*)from (?:{_PACKAGES})\.(\w+) import", re.MULTILINE)


def write_code(directory: str | os.PathLike, files: Sequence[str]) -> None:
    """
    Put `files` (see `LION_CODE`) flat into `directory`, with relative imports of one another.

    They are taken from the installed packages or, where this very module is a repo's code, from beside it.
    """
    codes = {Path(file).name: _portable_code(file) for file in files}
    digest = hashlib.sha256("".join(f"{name}\0{codes[name]}\0" for name in sorted(codes)).encode()).hexdigest()
    for name, code in codes.items():
        if Path(name).stem in _CONFIGURATIONS:
            code += f"{_DIGEST}{digest[:32]}\n"
        (Path(directory) / name).write_text(code, encoding="utf-8")


def _portable_code(file: str) -> str:
    here = Path(__file__).parent
    beside = here / Path(file).name
    code = (beside if beside.is_file() else here.parent / file).read_text(encoding="utf-8")
    code = _ABSOLUTE_IMPORT.sub(r"\1from .\2 import", code).partition(_FOOTER)[0].partition(_DIGEST)[0]
    others = [Path(other).stem for other in _ENTRIES.get(beside.stem, ()) if other != file]
    if others:
        code += _FOOTER + "".join(f"    from .{other} import __name__ as _\n" for other in others)
    return code
