"""Answers about many images: what is asked, by whom, and where the answers go."""
