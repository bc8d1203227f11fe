"""
Writes the code files of the shipped checkpoints anew; they are copies of the packages' own.

    make checkpoint-code
"""

from lion_multimodal import checkpoints
from processing_lion.remote_code_lion import LION_CODE, TAGGER_CODE, write_code


def write_checkpoint_code() -> None:
    """Replace the code files of every shipped checkpoint and of its tagger."""
    for name in checkpoints.available():
        for folder, files in ((checkpoints.path(name), LION_CODE), (checkpoints.path(name) / "tagger", TAGGER_CODE)):
            if folder.is_dir():
                for old in folder.glob("*.py"):
                    old.unlink()
                write_code(folder, files)


if __name__ == "__main__":
    write_checkpoint_code()
