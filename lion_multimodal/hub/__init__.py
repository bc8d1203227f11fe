"""Checkpoints and adapters to the Hub: complete, in one commit, and without traces of the machine they come from."""

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


__all__ = ["HubError", "Machine", "Push", "Selection", "Trace", "TracesError", "push_directory", "push_lion", "select"]
