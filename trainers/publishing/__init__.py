"""Checkpoints and adapters to the Hub: complete, in one commit, and without traces of the machine they come from."""

from trainers.publishing.hub import HubError
from trainers.publishing.push import Push, push_directory, push_lion
from trainers.publishing.selection import Selection, select
from trainers.publishing.traces import Machine, Trace, TracesError


__all__ = ["HubError", "Machine", "Push", "Selection", "Trace", "TracesError", "push_directory", "push_lion", "select"]
