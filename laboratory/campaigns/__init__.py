"""Campaigns: faults looked for at random, by a seed, as many as there is time for. `python -m laboratory.campaigns`."""
