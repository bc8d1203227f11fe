"""
Look for faults at random, and say what was found; exit status 1 if anything was.

    python -m laboratory.campaigns fuzz --count 120000
    python -m laboratory.campaigns kill --count 200 --output kill.json
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path


COUNTS = {"damaged": 200, "fuzz": 120_000, "kill": 200, "threads": 300}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; 1 if it found something."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.campaigns", description=__doc__.splitlines()[1])
    parser.add_argument("campaign", choices=sorted(COUNTS))
    parser.add_argument("--count", type=int, help=f"cases (default: {COUNTS})")
    parser.add_argument("--seed", type=int, default=0, help="what they are drawn by (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one (default: 0)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="report")
    args = parser.parse_args(arguments)
    count = COUNTS[args.campaign] if args.count is None else args.count
    report = importlib.import_module(f"laboratory.campaigns.{args.campaign}").run(count, args.seed, args.first)
    print(report.summary())
    for finding in report.findings[:50]:
        print(f"  case {finding['case']} ({finding['kind']}): {finding['what']}")
    if args.output:
        report.write(args.output)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
