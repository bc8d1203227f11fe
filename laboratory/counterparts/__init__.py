"""Counterparts of the benchmarks in the synthetic world, in each dataset's own row schema."""
