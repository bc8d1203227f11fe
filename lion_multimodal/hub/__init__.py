"""Checkpoints and adapters to the Hub: complete, in one commit, and without traces of the machine they come from."""

from lion_multimodal.hub.space import PushedSpace, push_space, space_files, write_space
from trainers.publishing import (
    HubError,
    Machine,
    Push,
    Selection,
    Trace,
    TracesError,
    push_directory,
    push_lion,
    select,
)


__all__ = [
    "HubError",
    "Machine",
    "Push",
    "PushedSpace",
    "Selection",
    "Trace",
    "TracesError",
    "push_directory",
    "push_lion",
    "push_space",
    "select",
    "space_files",
    "write_space",
]
