"""Speed and memory of LION beside transformers' own models and a bare PyTorch loop."""
