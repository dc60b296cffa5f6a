"""The command `lamina-bench peers`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from lamina.samplers import ParameterError, UnknownNameError
from lamina.samplers.checks import check_count

from .. import results
from . import checks, report
from .cells import COMPILED_SECONDS, LOOPED_SECONDS, cells
from .contenders import CONTENDERS, PEERS
from .environments import default_folder, digest
from .measure import Bench, EnvironmentStart, Row, run

LINE = "our samplers against those of BlackJAX, NumPyro, TFP, torchebm and ebmkit"

DESCRIPTION = """Measure Lamina's samplers and those of its peers side by side.

Each peer gets a virtual environment of its own, built at first use with pinned versions; one that cannot be built is
reported and left out. All contenders of a cell run in turn, each in its own process on one CPU, and the medians of
their CPU times are compared. A speed counts only where the draws are right: see docs/benchmarks.md.

Rows are written as they are made, and those of the same versions, machine and settings are kept, so that an interrupted
run goes on with the same command. A row compares contenders that ran in turn, and says by which code, or is dropped; of
the cells that are asked for, those of other code are measured anew. OUT gets peers.json, peers.md and
pictures/peers.png.

cells: ALGORITHM/PROBLEM/CHAINS, with hmc, mala, ula, barker, ghmc and nuts; and first/..., threads/..., memory/...
  x BlackJAX       what BlackJAX costs as a multiple of what Lamina costs; above 1 Lamina is faster
  x fastest JAX    the same of the fastest of BlackJAX, NumPyro and TFP whose draws are right
  accept           share of steps that moved, of Lamina
  ESS/draw         bulk effective sample size of the worst coordinate per draw, of Lamina
"""

EXAMPLES = """examples:
  lamina-bench peers
  lamina-bench peers --cells 'hmc/gauss2/*' 'first/*'
  lamina-bench peers --cells 'hmc/gauss2/100' --peers blackjax tfp --quick --out /tmp/trial
"""

_QUICK = 0.02
_QUICK_REPEATS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--cells", nargs="+", default=["*"], metavar="PATTERN", help="such as 'hmc/gauss2/*' (default: all)")
    add("--peers", nargs="*", default=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)} (default: all)")
    add("--repeats", type=int, metavar="R", help="timed calls of each contender in each cell (default: 5)")
    add("--quick", action="store_true", help="short calls, and two of them: for a trial, not for figures")
    add("--envs", type=Path, default=default_folder(), metavar="DIR", help="environments (default: %(default)s)")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        LaminaError: If options are wrong, or results cannot be written.
    """
    for peer in options.peers:
        if peer not in PEERS:
            raise UnknownNameError("peer", peer, PEERS)
    if len(set(options.peers)) < len(options.peers):
        raise ParameterError(f"--peers must name each one once; got {' '.join(options.peers)}.")
    repeats = options.repeats if options.repeats is not None else _QUICK_REPEATS if options.quick else 5
    check_count("--repeats", repeats, 1)
    wanted = cells(options.cells, _QUICK if options.quick else 1.0)
    names = [name for name, contender in CONTENDERS.items() if contender.peer is None or name in options.peers]
    settings = {
        "repeats": repeats,
        "is_quick": options.quick,
        "environments": {peer: digest(peer) for peer in options.peers},
        "call_seconds": [COMPILED_SECONDS, LOOPED_SECONDS],
        "checked": [checks.NUM_CHAINS, checks.NUM_DRAWS, checks.FALSE_ALARM],
    }
    out = options.out or results.default_folder()
    for folder in (out / "pictures", options.envs):
        results.make_folder(folder)
    path = out / "peers.json"
    origin = results.provenance([4, 5])
    kept = results.rows_beside(path, settings, origin, asked=set(map(str, wanted)))
    with Bench(EnvironmentStart(options.envs), repeats) as bench:
        if kept:
            bench.versions.update(results.read(path)["versions"])

        def store(measured: Mapping[str, Row]) -> None:
            rows = _in_order(measured)
            content = {"settings": settings, "versions": bench.versions, "rows": rows, "summary": report.summary(rows)}
            results.write({"benchmark": "peers", **content, "provenance": origin}, path)
            with results.replacing(out / "peers.md") as file:
                file.write(report.markdown_report(rows, bench.versions).encode())

        rows = _in_order(run(wanted, names, bench, kept, results.made_by(origin), on_row=store, show_progress=True))
    picture = out / "pictures" / "peers.png"
    if any(row["kind"] == "speed" for row in rows.values()):
        report.picture(rows, picture)
    print(report.text_table({str(cell): rows[str(cell)] for cell in wanted}))
    print(f"figures: {path}   tables: {out / 'peers.md'}   picture: {picture}")


def _in_order(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Rows as the cells stand, in whatever order they were measured; those of cells that are no more are left out."""
    return {name: rows[name] for name in map(str, cells()) if name in rows}
