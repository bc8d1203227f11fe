"""
The paper's claims, run again on the synthetic world with the nano's base.

    python -m laboratory.ablations --base runs/nano/stage0 --output runs/ablations --seeds 0 1 2

trains every variant of [`~laboratory.ablations.claims.CLAIMS`] for each seed and writes a table and figures. A run
that was stopped goes on where it was; seeds can run in processes of their own.
"""
