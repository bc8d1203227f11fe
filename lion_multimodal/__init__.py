"""What people run around LION: command line, evaluation, conversion of official files, the Hub, shipped checkpoints."""

from importlib.metadata import PackageNotFoundError, version


try:
    __version__ = version("lion-multimodal")
except PackageNotFoundError:  # the source tree on the path, not installed
    __version__ = "0.2.0"
