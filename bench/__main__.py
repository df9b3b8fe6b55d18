"""Print the benchmark tables: `python -m bench [--quick] [--only NAME]`."""

from __future__ import annotations

import argparse
import time

from bench import queries
from bench.databases import shelf

SIZES = (2_000, 200_000)
QUICK_SIZES = (2_000, 20_000)
ROUNDS = 40
QUICK_ROUNDS = 10


def main() -> None:
    """Build what is missing, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 runs instead of 200,000, fewer rounds")
    parser.add_argument("--only", choices=["queries"], help="print this table alone")
    parser.add_argument("--match", default="", help="only questions whose name contains this")
    parser.add_argument("--no-postgres", action="store_true", help="measure SQLite alone")
    options = parser.parse_args()
    sizes = QUICK_SIZES if options.quick else SIZES
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    started = time.perf_counter()
    with shelf(with_postgres=not options.no_postgres) as databases:
        if options.only == "queries":
            print(queries.report(databases, sizes, rounds, options.match))
    print(f"\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
