"""The `lamina-bench` command: samplers against exact truth, results old and new, priors on digits, the paper."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch

from lamina.samplers import LaminaError, ParameterError
from lamina.samplers.checks import check_count
from lamina.samplers.engines import EngineName
from lamina.samplers.native.build import find_compiler
from lamina.samplers.registry import kernel_names
from lamina.samplers.threefry import ROUNDS

from . import compare, digits, exactness, randomness, regress, results, samplers, training
from .contenders import make_contender
from .densities import DENSITIES, Density, density_names, make_density
from .gallery import write_gallery
from .paper import command as paper
from .peers import command as peers
from .pictures import draws_over_density, error_against_gradients, some_points

_T = TypeVar("_T")

_EXAMPLES = """examples:
  lamina-bench samplers
  lamina-bench samplers --densities banana funnel --kernels mala hmc --draws 500
  lamina-bench compare old.json new.json
  lamina-bench exactness
  lamina-bench digits
  lamina-bench digits --seeds 0 1 --max-steps 300 --out /tmp/trial
  lamina-bench paper generation
"""

_SAMPLERS = """Run every kernel on every toy density and compare with exact truth.

In every cell of a density and a kernel chains warm up from afar: from points twice as far out as exact draws are, eight
chains from each. With the parameters that they settle on, two runs of the same length follow. In one these chains go
on, which shows what a low error costs. In the other new chains start from exact draws, so that their errors are faults
of the kernel and not what is left of a bad start. A kernel without acceptance to adapt to (such as ula) takes 0.3 of
the step size that mala settles on.

Every run is given the same number of gradients. With the default and the native engine a cell takes some 5 seconds on
one core, most of them for figures and for compiling, and more in many dimensions or where no program can be made; the
whole table takes about half an hour. --gradients 20000 shows a low error for more kernels. A run keeps one engine,
whose start, tracing and compiling included, counts as warm-up. Rows are written as they are made, and those of the same
code, machine and settings are kept, so that an interrupted run goes on with the same command (--fresh starts anew).
OUT gets samplers.json with all figures, samplers.md with the table, and two pictures of each density.

columns:
  mean err   distance of the mean from the exact one, in Monte Carlo standard errors, worst coordinate:
             below about 4 for an exact kernel, more where there is bias
  x^2 err    the same of the second moment, without coordinates whose squares have too heavy a tail
  x^2 rel    that distance as a share of the exact second moment
  ESS/s      bulk effective sample size of the worst coordinate, per second of sampling
  ESS/grad   the same per gradient of one chain; a step without gradients counts as one
  to 10 %    from afar: gradients, after warm-up, of eight chains together until their squared error of E[x^2] is
             0.01 Var[x^2] on average over coordinates; - where the budget does not suffice
  worst      the same for the worst coordinate
  R-hat      of the worst coordinate; above 1.01 the chains have not mixed
  nested     nested R-hat of the later half of the run from afar; well above 1 where starts are not forgotten
  accept     mean acceptance; of an unadjusted kernel that which adjusting it would have had
  diverg.    divergent steps of a chain
  warm-up s  seconds of warm-up and of starting the engine, which no other column counts
  s          seconds of sampling from exact draws, all chains
  MiB        peak memory of warm-up and sampling, with all draws kept
"""

_SAMPLERS_EXAMPLES = """examples:
  lamina-bench samplers
  lamina-bench samplers --densities banana --kernels hmc --chains 1000 --draws 200
  lamina-bench samplers --gradients 100000 --kernels mala hmc       # for slow kernels to come to a low error
  lamina-bench samplers --seconds 2 --device cuda --chains 8192 --dtype float32 --out /tmp/gpu
  lamina-bench samplers --export /tmp/draws                         # for figures of your own, with numpy.load
"""

_COMPARE = """Say what has changed between two results of `lamina-bench samplers`, beyond noise.

Every figure comes with a standard error: from groups of independent chains, from Monte Carlo errors, or, for times,
from pieces of the run. A change is called one where Welch's t test finds it, with a probability of at most 0.001 of a
false alarm anywhere, and where it is large enough to matter. Both results must have the same settings, seeds apart.
Times are compared only on the same machine; they know nothing of what else runs on it, so keep it quiet.
"""

_COMPARE_EXAMPLES = """examples:
  lamina-bench compare benchmarks/results/samplers.json /tmp/new/samplers.json
  lamina-bench compare old.json new.json --tolerance 0.2 --fail-on-regression
"""

_EXACTNESS = """Check that every exact kernel leaves every toy density invariant, in both dtypes; masses take turns.

Each case starts up to 100,000 chains from exact draws, takes 4 steps and compares with the exact law; a false alarm
anywhere has a probability of at most 1e-6. The whole matrix takes about half an hour on one core. OUT gets
exactness.json, or exactness-native.json of the native engine, which compiles a program for each case. Rows are written
as they are made, and those of the same code, machine and settings are kept, so that an interrupted run goes on with the
same command. The exit status is 1 where a case fails.

columns, the worst over dtypes and masses:
  distance/allowed  Kolmogorov distance as a share of the threshold
  accept            mean acceptance
  movement          0 for standing still, 1 for independent draws
"""

_EXACTNESS_EXAMPLES = """examples:
  lamina-bench exactness
  lamina-bench exactness --engine native
  lamina-bench exactness --densities banana --kernels mala --out /tmp/trial
"""

_RANDOMNESS = """Test the counter-based random numbers as engines hand them to kernels.

Words of 32 bits in four orders, neighbours in which differ by chain, step, site or seed: equidistribution of high and
low bits, single bits, pairs, differing bits, runs, gaps, birthday spacings, ranks of bit matrices, correlation. Normals
in both dtypes: law, moments, tails, pairs, correlation over chains and steps. Every test gives a two-sided p-value. A
run fails, with exit status 1, where one of them is below 1e-6 over their number: with random numbers that has a
probability of at most 1e-6. OUT gets randomness.json and the table in randomness.md. About two minutes on one core.

--stream writes words to standard output instead, without end and little end first, for batteries that read them, such
as RNG_test of PractRand; --rounds mixes them less, which shows how much there is to spare.
"""

_RANDOMNESS_EXAMPLES = """examples:
  lamina-bench randomness
  lamina-bench randomness --engines eager --words 131072 --out /tmp/trial
  lamina-bench randomness --stream chain | RNG_test stdin32 -tlmax 32GB
"""

_REGRESS = """Compare the native engine's programs with a committed baseline, so that a slow-down is seen.

columns:
  operations    on numbers, of a chain in a step, counted in the program; up by more than 2 % is a regression
  eager/native  time of an eager step over that of a native one, 100 chains, in one run; down by more than 40 % is a
                regression on the machine of the baseline, and not compared on another

The exit status is 1 where a program has regressed. About a minute on one core; without a compiler operations alone.
"""

_REGRESS_EXAMPLES = """examples:
  lamina-bench regress
  lamina-bench regress --write        # this is the baseline from now on
"""

_GALLERY = """Write a page with every density, posterior and lattice: formula, source, what it reveals, normaliser and
moments, and a picture of those in the plane.
"""

_GALLERY_EXAMPLES = """examples:
  lamina-bench gallery --out docs
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
            "lamina-bench: interrupted; samplers, exactness, digits, paper, peers and training go on where they "
            "stopped with the same command",
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
        ("compare", "two results of samplers: what changed", _COMPARE, _COMPARE_EXAMPLES, _add_compare),
        ("exactness", "exact kernels leave exact laws as they are", _EXACTNESS, _EXACTNESS_EXAMPLES, _add_exactness),
        ("randomness", "a battery for the random numbers", _RANDOMNESS, _RANDOMNESS_EXAMPLES, _add_randomness),
        ("regress", "programs against a baseline of their costs", _REGRESS, _REGRESS_EXAMPLES, _add_regress),
        ("gallery", "a page with a picture of every density", _GALLERY, _GALLERY_EXAMPLES, _add_gallery),
        ("digits", "EBM prior against Gaussian priors, over seeds", _DIGITS, _DIGITS_EXAMPLES, _add_digits),
        ("paper", paper.LINE, paper.description(), paper.EXAMPLES, _add_paper),
        ("peers", peers.LINE, peers.DESCRIPTION, peers.EXAMPLES, _add_peers),
        ("training", training.LINE, training.DESCRIPTION, training.EXAMPLES, _add_training),
    ):
        command = commands.add_parser(
            name,
            help=line,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add(command)
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for results (default: benchmarks/results where the current folder has one, else results)",
    )


def _add_samplers(parser: argparse.ArgumentParser) -> None:
    usual, densities, kernels = samplers.Settings(), density_names(), kernel_names()
    _add_out(parser)
    add = parser.add_argument
    add("--densities", nargs="+", default=densities, metavar="NAME", help=f"of {', '.join(densities)}")
    add("--kernels", nargs="+", default=kernels, metavar="NAME", help=f"of {', '.join(kernels)}")
    add(
        "--chains",
        type=int,
        default=usual.num_chains,
        metavar="C",
        help="chains of each run, a multiple of 8 (default: %(default)s)",
    )
    budget = parser.add_mutually_exclusive_group()
    for name, kind, line in (
        ("gradients", int, f"gradients of each chain in each run (default: {usual.amount})"),
        ("draws", int, "or draws of each chain in each run, all of which are kept"),
        ("seconds", float, "or seconds of each run, about; figures then depend on the machine"),
    ):
        budget.add_argument(f"--{name}", type=kind, metavar=name[0].upper(), help=line)
    add("--warmup", type=int, default=usual.num_warmup, metavar="W", help="steps of warm-up (default: %(default)s)")
    add("--seed", type=int, default=usual.seed, metavar="S", help="seeds everything (default: %(default)s)")
    add("--dtype", choices=("float64", "float32"), default="float64", help="of the chains (default: %(default)s)")
    add("--device", default=usual.device, metavar="NAME", help="such as cuda (default: %(default)s)")
    add(
        "--engine",
        choices=get_args(EngineName),
        default=usual.engine,
        help="what moves the chains (default: %(default)s)",
    )
    add("--export", type=Path, metavar="DIR", help="write all draws there, a file of numpy for each cell")
    add("--fresh", action="store_true", help="measure everything anew")
    parser.set_defaults(run=_samplers)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("old", type=Path, metavar="OLD", help="samplers.json of the earlier run")
    add("new", type=Path, metavar="NEW", help="of the later one")
    add(
        "--tolerance",
        type=float,
        default=compare.TOLERANCE,
        metavar="SHARE",
        help="smallest change that matters, as a share of the old value (default: %(default)s)",
    )
    add("--fail-on-regression", action="store_true", help="end with status 1 where a figure is worse")
    parser.set_defaults(run=_compare)


def _add_exactness(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        metavar="OUT",
        help="folder for results, or a file ending in .json (default: benchmarks/results where the current folder has "
        "one, else results)",
    )
    densities, kernels = density_names(), list(exactness.exact_kernels())
    add("--densities", nargs="+", default=list(DENSITIES), metavar="NAME", help=f"of {', '.join(densities)}")
    add("--kernels", nargs="+", default=list(exactness.KERNELS), metavar="NAME", help=f"of {', '.join(kernels)}")
    add("--engine", choices=("eager", "native"), default="eager", help="what moves the chains (default: %(default)s)")
    parser.set_defaults(run=_exactness)


def _add_randomness(parser: argparse.ArgumentParser) -> None:
    _add_out(parser)
    usual = randomness.ENGINES
    parser.add_argument("--engines", nargs="+", choices=usual, default=usual, help=f"of {', '.join(usual)}")
    parser.add_argument(
        "--words",
        type=int,
        default=randomness.NUM_WORDS,
        metavar="N",
        help="words of each order, a power of 2 from 65536 on (default: %(default)s)",
    )
    parser.add_argument(
        "--stream",
        choices=randomness.STREAMS,
        metavar="ORDER",
        help=f"write words without end instead, whose neighbours differ by {', '.join(randomness.STREAMS)}",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        choices=range(1, ROUNDS + 1),
        default=ROUNDS,
        metavar="N",
        help="of Threefry in a stream (default: %(default)s, what kernels get)",
    )
    parser.set_defaults(run=_randomness)


def _add_regress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="make what is found the baseline")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="(default: baseline.json in the folder of results)"
    )
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=regress.PROGRAMS,
        default=regress.PROGRAMS,
        metavar="NAME",
        help="(default: all)",
    )
    parser.set_defaults(run=_regress)


def _add_gallery(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("gallery"), metavar="DIR", help="folder (default: %(default)s)"
    )
    parser.set_defaults(run=_gallery)


def _add_digits(parser: argparse.ArgumentParser) -> None:
    _add_out(parser)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="one run each (default: 0 1 2)"
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="cut every run short, for a trial")
    parser.set_defaults(run=_digits)


def _add_paper(parser: argparse.ArgumentParser) -> None:
    _add_out(parser)
    paper.add_arguments(parser)


def _add_peers(parser: argparse.ArgumentParser) -> None:
    _add_out(parser)
    peers.add_arguments(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    _add_out(parser)
    training.add_arguments(parser)


def _gallery(options: argparse.Namespace) -> int:
    results.make_folder(options.out)
    page, *pictures = write_gallery(options.out)
    print(f"page: {page}   pictures: {len(pictures)}")
    return 0


def _exactness(options: argparse.Namespace) -> int:
    wanted = exactness.cases(options.densities, options.kernels, options.engine)
    name = "exactness.json" if options.engine == "eager" else f"exactness-{options.engine}.json"
    out = options.out or results.default_folder()
    path = out if out.suffix == ".json" else out / name
    results.make_folder(path.parent)
    settings, origin = exactness.settings(options.engine), results.provenance([0, 1, 2])

    def store(rows: Mapping[str, Mapping[str, Any]]) -> None:
        content = {"settings": settings, "rows": rows, "summary": exactness.summary(rows)}
        results.write({"benchmark": "exactness", **content, "provenance": origin}, path)

    rows = exactness.run(wanted, results.kept_rows(path, settings, origin), on_row=store, show_progress=True)
    print(exactness.table(rows))
    figures = exactness.summary(rows)
    refused = f", {figures['num_refused']} refused by the engine" if figures["num_refused"] else ""
    print(f"{figures['num_passed']} of {figures['num_cases']} cases passed{refused}   figures: {path}")
    return 0 if figures["num_passed"] + figures["num_refused"] == figures["num_cases"] else 1


def _regress(options: argparse.Namespace) -> int:
    path = options.baseline or results.default_folder() / "baseline.json"
    stored = None if options.write else results.read(path)
    torch.set_num_threads(1)
    origin, has_compiler = results.provenance([0]), find_compiler() is not None
    figures = {name: regress.measure(name, has_compiler=has_compiler) for name in options.programs}
    before = regress.figures_of(stored) if stored else figures
    is_same_machine = stored is not None and stored["provenance"]["cpu"] == origin["cpu"]
    found = {
        name: faults
        for name in figures
        if name in before and (faults := regress.faults(figures[name], before[name], is_same_machine=is_same_machine))
    }
    print(regress.table(figures, before, found))
    if options.write:
        results.make_folder(path.parent)
        rows = {name: one.as_json() for name, one in figures.items()}
        content = {"benchmark": "regress", "rows": rows, "summary": regress.summary(figures), "provenance": origin}
        results.write(content, path)
    print(f"{len(found)} of {len(figures)} programs have regressed   baseline: {path}")
    return 1 if found else 0


def _randomness(options: argparse.Namespace) -> int:
    if options.stream:
        return _stream(options.stream, options.rounds)
    randomness.check_size(options.words)
    folder = options.out or results.default_folder()
    results.make_folder(folder)
    torch.set_num_threads(1)
    rows = {
        f"{engine}/{name}": p
        for engine in _distinct("--engines", options.engines)
        for name, p in randomness.battery(randomness.from_engine(engine), options.words).items()
    }
    figures, path = randomness.summary(rows), folder / "randomness.json"
    settings = {"words": options.words, "familywise_false_alarm": randomness.FAMILYWISE_FALSE_ALARM}
    origin = results.provenance([randomness.SEED])
    with results.replacing(path.with_suffix(".md")) as file:
        file.write(randomness.markdown_table(rows).encode() + b"\n")
    results.write({"benchmark": "randomness", "settings": settings, "summary": figures, "provenance": origin}, path)
    print(randomness.table(rows))
    print(
        f"{figures['num_passed']} of {figures['num_tests']} tests passed: every p-value is at least "
        f"{figures['threshold']:.1g}   figures: {path}"
        if figures["num_passed"] == figures["num_tests"]
        else f"{figures['num_tests'] - figures['num_passed']} of {figures['num_tests']} tests FAILED, with p-values "
        f"below {figures['threshold']:.1g}   figures: {path}"
    )
    return 0 if figures["num_passed"] == figures["num_tests"] else 1


def _stream(order: str, rounds: int) -> int:
    torch.set_num_threads(1)
    try:
        for words in randomness.stream(order, rounds):
            sys.stdout.buffer.write(words.astype("<u4").tobytes())
    except BrokenPipeError:  # the reader has seen enough; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _samplers(options: argparse.Namespace) -> None:
    settings = _settings(options)
    densities = [make_density(name) for name in _distinct("--densities", options.densities)]
    kernels = {name: make_contender(name) for name in _distinct("--kernels", options.kernels)}
    out = options.out or results.default_folder()
    pictures, path = out / "pictures", out / "samplers.json"
    for folder in (pictures / "points", *filter(None, [options.export])):
        results.make_folder(folder)
    torch.set_num_threads(1)  # small tensors are fastest so, and results then do not depend on the machine's cores
    origin = results.provenance([settings.seed], settings.device)

    def points_of(name: str) -> Path:
        return pictures / "points" / f"{_file_name(name)}.npy"

    def exported(name: str) -> list[Path]:
        return [options.export / f"{_file_name(name)}.npz"] if options.export else []

    def store(rows: Mapping[str, samplers.Row], name: str, draws: samplers.Draws) -> None:
        """Write a row last: whoever reads it finds the rest of its cell."""
        with results.replacing(points_of(name)) as file:
            np.save(file, some_points(draws.from_truth).numpy())
        for target in exported(name):
            with results.replacing(target) as file:
                np.savez(file, **{run: values.cpu().numpy() for run, values in draws._asdict().items()})
        results.write(samplers.report(rows, settings) | {"provenance": origin}, path)

    def draw(density: Density, rows: Mapping[str, samplers.Row]) -> None:
        own = {row.kernel: name for name, row in rows.items() if row.density == density.name}
        points = {kernel: torch.from_numpy(np.load(points_of(name))) for kernel, name in own.items()}
        draws_over_density(density, points, pictures / f"{density.name}.png")
        curves = {kernel: rows[name].curve for kernel, name in own.items()}
        error_against_gradients(density.name, curves, pictures / f"{density.name}-error.png")

    stored = {} if options.fresh else results.kept_rows(path, settings.as_json(), origin)
    done = {
        name: samplers.Row.from_json(row)
        for name, row in stored.items()
        if all(file.exists() for file in (points_of(name), *exported(name)))
    }
    rows = samplers.benchmark(densities, kernels, settings, done=done, on_cell=store, on_density=draw)
    with results.replacing(path.with_suffix(".md")) as file:
        file.write(f"{samplers.markdown_table(list(rows.values()))}\n\n{samplers.caption(settings)}\n".encode())
    print(samplers.table([rows[samplers.cell_name(d.name, k)] for d in densities for k in kernels]))
    print(samplers.caption(settings))
    print(f"figures: {path}   table: {path.with_suffix('.md')}   pictures: {pictures}")


def _settings(options: argparse.Namespace) -> samplers.Settings:
    usual = samplers.Settings()
    given = [(name, getattr(options, name)) for name in get_args(samplers.Budget)]
    budget, amount = next((pair for pair in given if pair[1] is not None), (usual.budget, usual.amount))
    return samplers.Settings(
        budget=budget,
        amount=amount,
        num_chains=options.chains,
        num_warmup=options.warmup,
        seed=options.seed,
        dtype=getattr(torch, options.dtype),
        device=options.device,
        engine=options.engine,
    )


def _file_name(cell: str) -> str:
    return cell.replace("/", "-")


def _compare(options: argparse.Namespace) -> int:
    old, new = (results.read(path) for path in (options.old, options.new))
    found = compare.compare(old, new, tolerance=options.tolerance)
    for note in found.notes:
        print(note)
    if found.changes:
        print(compare.table(found.changes))
    print(
        f"{found.num_compared} figures compared: {len(found.changes)} changed, {found.num_worse} for the worse; "
        f"{found.num_unclear} more have no standard error"
    )
    return 1 if options.fail_on_regression and found.num_worse else 0


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
