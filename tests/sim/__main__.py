"""Run seeds of the simulator: ``python -m tests.sim --seed N [--count M] [--trace]``."""

from __future__ import annotations

import argparse

from tests.sim.scenario import HARSH_QUIET, QUIET, Scenario, SimulationFailed


def main() -> int:
    """Prints the digest of each seed, or how it failed; the exit status counts failures."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--harsh", action="store_true", help="as much trouble as there may be, and early quiet")
    parser.add_argument(
        "--restarts", action=argparse.BooleanOptionalAction, default=True, help="whether the scheduler crashes as well"
    )
    parser.add_argument("--durable", action="store_true", help="the scheduler has a journal, which fails as well")
    parser.add_argument("--digests", action="store_true", help="print the digest of each run")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    options = parser.parse_args()
    failures = 0
    for seed in range(options.seed, options.seed + options.count):
        scenario = Scenario(
            seed,
            print if options.trace else None,
            HARSH_QUIET if options.harsh else QUIET,
            options.harsh,
            options.restarts,
            options.durable,
        )
        try:
            digest = scenario.run()
        except SimulationFailed as error:
            failures += 1
            print(error)
        else:
            if options.count == 1 or options.digests:
                print(f"seed {seed}: {digest} ({scenario.world.happened} events, {scenario.world.now:.1f} s)")
    if options.count > 1:
        print(f"{options.count} seeds, {failures} failed")
    return min(failures, 100)


if __name__ == "__main__":
    raise SystemExit(main())
