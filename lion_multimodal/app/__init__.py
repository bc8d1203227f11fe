"""A page in the browser: ask about an image, correct its tags, compare answers, answer about many images."""

from lion_multimodal.app.launching import launch


__all__ = ["launch"]
