"""The `lamina-bench` command: samplers against exact truth, and the comparison of priors on digits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from lamina.samplers import KERNELS, LaminaError, ParameterError
from lamina.samplers.checks import check_count

from . import digits, exactness, results, samplers
from .densities import DENSITIES, make_density
from .pictures import draws_over_density

_T = TypeVar("_T")

_EXAMPLES = """examples:
  lamina-bench samplers
  lamina-bench samplers --densities banana funnel --kernels mala hmc --draws 500
  lamina-bench exactness
  lamina-bench digits
  lamina-bench digits --seeds 0 1 --max-steps 300 --out /tmp/trial
"""

_SAMPLERS = """Run every kernel on every toy density and compare with exact truth.

Chains start from exact draws, so that errors are faults of the kernel and not what is left of a bad start.
Step sizes are adapted in the warm-up; a kernel without acceptance (ula) takes 0.3 of what mala settles on.

columns:
  mean err   distance of the mean from the exact one, in Monte Carlo standard errors, worst coordinate:
             below about 4 for an exact kernel, more where there is bias
  x^2 err    the same of the second moment, without coordinates whose squares have too heavy a tail
  ESS/s      bulk effective sample size of the worst coordinate, per second of sampling
  ESS/grad   the same per gradient of one chain
  R-hat      of the worst coordinate; above 1.01 the chains have not mixed
  accept     mean acceptance; of an unadjusted kernel that which adjusting it would have had
"""

_SAMPLERS_EXAMPLES = """examples:
  lamina-bench samplers
  lamina-bench samplers --densities banana --kernels hmc --chains 1000 --draws 200
  lamina-bench samplers --dtype float32 --out /tmp/float32
"""

_EXACTNESS = """Check that every exact kernel leaves every toy density invariant, at all masses and dtypes.

Each case starts 100,000 chains from exact draws, takes 4 steps and compares with the exact law; a false alarm anywhere
has a probability of at most 1e-6. The whole matrix takes 4 to 16 minutes on two cores. Rows are written as they are
made, and those of the same commit and settings are kept, so that an interrupted run goes on with the same command. The
exit status is 1 where a case fails.

columns, the worst over dtypes and masses:
  distance/allowed  Kolmogorov distance as a share of the threshold
  accept            mean acceptance
  movement          0 for standing still, 1 for independent draws
"""

_EXACTNESS_EXAMPLES = """examples:
  lamina-bench exactness
  lamina-bench exactness --densities banana --kernels mala --out /tmp/trial
"""

_DIGITS = """Train the digits preset with several seeds, and compare its EBM prior with Gaussian priors.

Each seed is one run of `lamina train digits`, kept under OUT/runs. Runs that are there are continued, and those
that are finished are used as they are, so that an interrupted benchmark goes on with the same command.

rivals:
  base       the Gaussian base prior of the same model
  gaussian   a Gaussian-prior model of the same networks, trained for at least as long

columns:
  wins        seeds for which the EBM prior is better (lower) than its rival
  difference  mean over seeds of the rival's value minus the EBM prior's; positive is good
  std. error  of that mean, from its spread over seeds
  ratio       of the two means; below 1 is good
"""

_DIGITS_EXAMPLES = """examples:
  lamina-bench digits
  lamina-bench digits --seeds 0 1 2 3 4
  lamina-bench digits --seeds 0 --max-steps 200 --out /tmp/trial
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where a check failed, 2 with a message where options are wrong."""
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except LaminaError as error:
        print(f"lamina-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "lamina-bench: interrupted; exactness and digits go on where they stopped with the same command",
            file=sys.stderr,
        )
        return 130
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lamina-bench",
        description="Measure samplers against exact truth, and learnt priors against Gaussian ones.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lamina-bench {version('lamina')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, line, description, examples, add in (
        ("samplers", "kernels on toy densities: errors, ESS per second", _SAMPLERS, _SAMPLERS_EXAMPLES, _add_samplers),
        ("exactness", "exact kernels leave exact laws as they are", _EXACTNESS, _EXACTNESS_EXAMPLES, _add_exactness),
        ("digits", "EBM prior against Gaussian priors, over seeds", _DIGITS, _DIGITS_EXAMPLES, _add_digits),
    ):
        command = commands.add_parser(
            name,
            help=line,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--out",
            type=Path,
            metavar="DIR",
            help="folder for results (default: benchmarks/results where the current folder has one, else results)",
        )
        add(command)
    return parser


def _add_samplers(parser: argparse.ArgumentParser) -> None:
    usual = samplers.Settings()
    add = parser.add_argument
    add("--densities", nargs="+", default=list(DENSITIES), metavar="NAME", help=f"of {', '.join(DENSITIES)}")
    add("--kernels", nargs="+", default=list(KERNELS), metavar="NAME", help=f"of {', '.join(KERNELS)}")
    add("--chains", type=int, default=usual.num_chains, metavar="C", help="chains (default: %(default)s)")
    add("--draws", type=int, default=usual.num_draws, metavar="N", help="draws per chain (default: %(default)s)")
    add("--warmup", type=int, default=usual.num_warmup, metavar="W", help="steps before (default: %(default)s)")
    add("--seed", type=int, default=usual.seed, metavar="S", help="seeds everything (default: %(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64", help="of the chains (default: %(default)s)")
    parser.set_defaults(run=_samplers)


def _add_exactness(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--densities", nargs="+", default=list(DENSITIES), metavar="NAME", help=f"of {', '.join(DENSITIES)}")
    kernels = exactness.KERNELS
    add("--kernels", nargs="+", default=list(kernels), metavar="NAME", help=f"of {', '.join(kernels)}")
    parser.set_defaults(run=_exactness)


def _add_digits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="one run each (default: 0 1 2)"
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="cut every run short, for a trial")
    parser.set_defaults(run=_digits)


def _exactness(options: argparse.Namespace) -> int:
    wanted = exactness.cases(options.densities, options.kernels)
    folder = options.out or results.default_folder()
    results.make_folder(folder)
    path = folder / "exactness.json"
    origin = results.provenance([0, 1, 2])

    def store(rows: Mapping[str, Mapping[str, Any]]) -> None:
        content = {"settings": exactness.settings(), "rows": rows, "summary": exactness.summary(rows)}
        results.write({"benchmark": "exactness", **content, "provenance": origin}, path)

    rows = exactness.run(wanted, _kept_rows(path, origin["commit"]), on_row=store, show_progress=True)
    print(exactness.table(rows))
    figures = exactness.summary(rows)
    print(f"{figures['num_passed']} of {figures['num_cases']} cases passed   figures: {path}")
    return 0 if figures["num_passed"] == figures["num_cases"] else 1


def _kept_rows(path: Path, commit: str | None) -> dict[str, Any]:
    """Rows of an interrupted run of the same commit and settings."""
    if not path.exists():
        return {}
    stored = results.read(path)
    same = stored.get("settings") == exactness.settings() and stored.get("provenance", {}).get("commit") == commit
    return dict(stored["rows"]) if same and commit is not None else {}


def _samplers(options: argparse.Namespace) -> None:
    settings = samplers.Settings(
        num_chains=options.chains,
        num_draws=options.draws,
        num_warmup=options.warmup,
        seed=options.seed,
        dtype=getattr(torch, options.dtype),
    )
    densities = [make_density(name) for name in _distinct("--densities", options.densities)]
    kernels = {name: samplers.make_contender(name) for name in _distinct("--kernels", options.kernels)}
    out = options.out or results.default_folder()
    pictures = out / "pictures"
    results.make_folder(pictures)
    torch.set_num_threads(1)  # small tensors are fastest so, and results then do not depend on the machine's cores
    rows = samplers.benchmark(
        densities,
        kernels,
        settings,
        on_density=lambda density, draws: draws_over_density(density, draws, pictures / f"{density.name}.png"),
    )
    print(samplers.table(rows))
    path = out / "samplers.json"
    results.write(samplers.report(rows, settings) | {"provenance": results.provenance([settings.seed])}, path)
    print(f"figures: {path}   pictures: {pictures}")


def _digits(options: argparse.Namespace) -> None:
    seeds = _distinct("--seeds", options.seeds)
    for seed in seeds:
        check_count("a seed", seed, 0)
    out = options.out or results.default_folder()
    results.make_folder(out)
    evaluations = [digits.run_seed(seed, options.max_steps, out / digits.RUNS) for seed in seeds]
    rows = digits.compare(evaluations)
    print(digits.table(rows))
    path = out / "digits.json"
    config = digits.configuration(seeds[0], options.max_steps)
    results.write(digits.report(rows, evaluations, config) | {"provenance": results.provenance(seeds)}, path)
    print(f"lower is better in every measure   figures: {path}   runs: {out / digits.RUNS}")


def _distinct(option: str, values: Sequence[_T]) -> Sequence[_T]:
    if len(set(values)) < len(values):
        raise ParameterError(f"{option} must name each one once; got {' '.join(map(str, values))}.")
    return values
