"""`lion push` of what has a card, or is wrong, does not wait for torch."""

import subprocess
import sys
from pathlib import Path


def test_publishing_loads_neither_torch_nor_transformers():
    code = "import sys, lion_multimodal.hub, lion_multimodal.cli.push\n"
    code += "print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == "set()\n"
