"""Print the benchmark tables: `python -m bench [--quick] [--only NAME] [--match TEXT] [--no-postgres]`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from bench import api, audit, large, pages, peers, queries, remote, resume, steps
from bench.databases import Shelf, shelf

SIZES = (2_000, 200_000)
QUICK_SIZES = (2_000, 20_000)
ENTRIES = 1_000_000
QUICK_ENTRIES = 50_000
ROUNDS = 40
QUICK_ROUNDS = 10
_TABLES = ["pages", "api", "steps", "resume", "large", "peers", "remote", "audit"]


def main() -> None:
    """Build what is missing, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Print the benchmark tables.")
    parser.add_argument("--quick", action="store_true", help="20,000 runs instead of 200,000, fewer rounds")
    parser.add_argument(
        "--only",
        choices=[*_TABLES, "queries"],
        help="print this table alone",
    )
    parser.add_argument("--match", default="", help="only pages or questions whose name contains this")
    parser.add_argument("--no-postgres", action="store_true", help="measure SQLite alone")
    options = parser.parse_args()
    sizes = QUICK_SIZES if options.quick else SIZES
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    tables: dict[str, Callable[[Shelf], str]] = {
        "pages": lambda found: pages.report(found, sizes, rounds, options.match),
        "api": lambda found: api.report(found, sizes, rounds, options.match),
        "steps": lambda found: steps.report(found, rounds // 2),
        "resume": lambda found: resume.report(found, rounds // 2),
        "large": lambda found: large.report(found, sizes[-1], max(5, rounds * 2)),
        "peers": lambda found: peers.report(found, max(3, rounds // 8)),
        "remote": lambda _: remote.report(max(3, rounds // 8)),
        "audit": lambda _: audit.report(QUICK_ENTRIES if options.quick else ENTRIES),
        "queries": lambda found: queries.report(found, sizes, rounds, options.match),
    }
    started = time.perf_counter()
    with shelf(with_postgres=not options.no_postgres) as databases:
        for name in [options.only] if options.only else _TABLES:
            print(f"{tables[name](databases)}\n", flush=True)
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
