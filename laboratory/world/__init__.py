"""The synthetic world, and stage 0: a tower, an LLM and a tagger trained on it from scratch."""
