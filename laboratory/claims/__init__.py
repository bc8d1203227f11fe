"""
The paper's claims, each trained and measured on the synthetic world from the start of the staged nano.

    python -m laboratory.claims --base runs/nano_staged/stage0 --output runs/claims

trains every variant of [`~laboratory.claims.claims.CLAIMS`] for each seed and writes tables and figures. A run that was
stopped goes on where it was; seeds can run in processes of their own.
"""
