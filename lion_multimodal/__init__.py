"""What people run around LION: command line, evaluation, conversion of official files, the Hub, shipped checkpoints."""

__version__ = "0.2.0"
