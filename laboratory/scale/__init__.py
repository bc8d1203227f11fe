"""Plans of memory and time for training at scale."""
