"""python -m sim_clients.conformance [--check]: writes, or compares, the golden frames."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sim_clients.conformance.golden import text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sim_clients.conformance", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if they differ")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("frames.json"))
    given = parser.parse_args(arguments)
    new = text()
    if not given.check:
        given.output.write_text(new, encoding="utf-8")
        print(f"wrote {given.output}")
        return 0
    if given.output.exists() and given.output.read_text(encoding="utf-8") == new:
        return 0
    print(
        f"{given.output} differs from what the codec writes: run without --check.", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
