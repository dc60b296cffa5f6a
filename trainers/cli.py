"""The `lamina` command: train, resume, sample, evaluate."""

from __future__ import annotations

import argparse
import ast
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from lamina.samplers import LaminaError
from lamina.samplers.checks import check_count
from lamina.samplers.registry import kernel_names

from . import pictures
from .config import ChainConfig, TrainConfig, check_seed, from_dict
from .data import DATASETS
from .errors import RunFolderError
from .evaluate import Evaluation, table
from .job import EVALUATION, PICTURES, evaluate_run, resume, sample_run, start
from .loop import read_checkpoint
from .presets import RECIPES, preset

_EXAMPLES = """examples:
  lamina train digits --out runs/digits
  lamina train mnist --out runs/mnist --prior-sampler mala --max-steps 300
  lamina resume runs/digits
  lamina sample runs/digits --num 64 --sampler hmc --seed 3
  lamina evaluate runs/digits
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 with a message where something is wrong."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except LaminaError as error:
        print(f"lamina: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lamina: interrupted; a training goes on with: lamina resume RUN", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lamina",
        description="Train latent energy-based models, draw from them, and measure them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lamina {version('lamina')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train a model, and all that belongs to it, into a new run folder"))
    _add_resume(commands.add_parser("resume", help="continue an interrupted run, bit for bit"))
    _add_sample(commands.add_parser("sample", help="draw images from a trained model"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a trained model again"))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train on a data set; then train a Gaussian-prior model of the same networks for the same time, compare "
        "samples of both with held-out data, and draw pictures. Options left out come from the recipe."
    )
    parser.add_argument("data", help=f"data set: {', '.join(DATASETS)}")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder to make")
    parser.add_argument(
        "--recipe", default="adjusted", help=f"settings to start from: {', '.join(RECIPES)} (default: adjusted)"
    )
    parser.add_argument("--scheme", help="two-stage (default), joint-variational, joint-mle, gaussian (no energies)")
    for part in ("prior", "posterior"):
        group = parser.add_argument_group(f"{part} chains")
        group.add_argument(f"--{part}-sampler", metavar="NAME", help=f"kernel: {', '.join(kernel_names())}")
        group.add_argument(f"--{part}-step-size", type=float, metavar="H", help="where its step size starts")
        _add_option(group, f"--{part}-option")
        group.add_argument(f"--{part}-steps", type=int, metavar="N", help="steps per training step")
        group.add_argument(f"--{part}-space", metavar="SPACE", help="u or z")
        group.add_argument(f"--{part}-start", metavar="START", help="noise, ancestral, encoder or persistent")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after so many gradient steps")
    parser.add_argument("--baseline-steps", type=int, metavar="N", help="of the Gaussian-prior model; 0 leaves it out")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows per step, and number of prior chains")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="of generator, base prior, inference model")
    parser.add_argument("--energy-learning-rate", type=float, metavar="R", help="of the energies")
    parser.add_argument("--energy-penalty", type=float, metavar="W", help="weight of the squared energies in the loss")
    parser.add_argument("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints")
    parser.add_argument("--seed", type=int, help="seeds everything (default: 0)")
    _add_common(parser)
    parser.set_defaults(run=_train)


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of `lamina train`")
    _add_common(parser)
    parser.set_defaults(run=_resume)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of `lamina train`")
    parser.add_argument("--num", type=int, default=64, help="images to draw (default: 64)")
    parser.add_argument(
        "--sampler", metavar="NAME", help=f"another kernel than the model's own: {', '.join(kernel_names())}"
    )
    parser.add_argument("--step-size", type=float, metavar="H", help="where its step size starts")
    _add_option(parser, "--option")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the chains, half of them to adapt")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="PNG picture to write (default: in the run folder)")
    parser.add_argument("--device", type=_device, default="cpu", help="cpu or cuda (default: cpu)")
    parser.set_defaults(run=_sample)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of `lamina train`")
    _add_common(parser)
    parser.set_defaults(run=_evaluate)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder with the data set's files")
    parser.add_argument("--device", type=_device, default="cpu", help="cpu or cuda (default: cpu)")


def _add_option(parser: argparse._ActionsContainer, flag: str) -> None:
    parser.add_argument(
        flag,
        type=_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other choice of the kernel, such as num_leapfrog_steps=5; may be repeated",
    )


def _option(text: str) -> tuple[str, object]:
    """KEY=VALUE with a Python number, boolean or string as its value, for argparse."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word without quotes
        return key, value


def _device(name: str) -> torch.device:
    """A device that is there, for argparse."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # no such kind; PyTorch built without it
        raise argparse.ArgumentTypeError(f"{name!r} is not available here ({str(error).splitlines()[0]})") from error


def _train(options: argparse.Namespace) -> None:
    config = _configured(preset(options.data, options.recipe, options.scheme), options)
    result = start(config, options.out, data_root=options.data_root, device=options.device, show_progress=True)
    _report(options.out, result)


def _configured(config: TrainConfig, options: argparse.Namespace) -> TrainConfig:
    """The preset with whatever was given on the command line in its place."""
    if options.max_steps is not None:
        config = config.capped(options.max_steps)  # first: a baseline of a given length keeps it
    names = (
        "seed",
        "baseline_steps",
        "checkpoint_every",
        "batch_size",
        "learning_rate",
        "energy_learning_rate",
        "energy_penalty",
    )
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    for part in ("prior", "posterior"):
        chosen[part] = _chains(
            getattr(config, part),
            sampler=getattr(options, f"{part}_sampler"),
            step_size=getattr(options, f"{part}_step_size"),
            choices=dict(getattr(options, f"{part}_option")),
            num_steps=getattr(options, f"{part}_steps"),
            space=getattr(options, f"{part}_space"),
            start=getattr(options, f"{part}_start"),
        )
    return replace(config, **chosen)


def _chains(
    chains: ChainConfig,
    *,
    sampler: str | None,
    step_size: float | None,
    choices: Mapping[str, object],
    **settings: object,
) -> ChainConfig:
    """The chains with whatever was given in its place: kernel, its step size and other choices, settings."""
    if step_size is not None:
        choices = {**choices, "step_size": step_size}
    if sampler is not None or choices:
        chains = chains.with_kernel(sampler, **choices)
    given = {name: value for name, value in settings.items() if value is not None}
    return replace(chains, **given)  # type: ignore[arg-type]


def _resume(options: argparse.Namespace) -> None:
    result = resume(options.folder, data_root=options.data_root, device=options.device, show_progress=True)
    _report(options.folder, result)


def _sample(options: argparse.Namespace) -> None:
    check_count("--num", options.num, 1)
    check_seed(options.seed)
    own = from_dict(read_checkpoint(options.folder)["config"]).prior
    chains = _chains(own, sampler=options.sampler, step_size=options.step_size, choices=dict(options.option))
    drawn, accept = sample_run(
        options.folder,
        num=options.num,
        chains=chains,
        num_steps=options.steps,
        seed=options.seed,
        device=options.device,
    )
    out = options.out or options.folder / PICTURES / f"sample-{type(chains.kernel).__name__.lower()}-{options.seed}.png"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pictures.sample_grid({"ebm": drawn}, out, columns=min(8, options.num))
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written: {error}. Choose another --out.") from error
    print(f"{options.num} images by {chains.kernel} (mean acceptance {accept:.2f}): {out}")


def _evaluate(options: argparse.Namespace) -> None:
    _report(options.folder, evaluate_run(options.folder, data_root=options.data_root, device=options.device))


def _report(folder: Path, result: Evaluation) -> None:
    report = result.report
    seconds = ", ".join(f"{name} {value} s" for name, value in report["seconds"].items())
    print(table(report["summary"]))
    print(
        f"{report['num_samples']} samples of each, {report['num_held_out']} held-out images; for accuracies "
        f"{report['num_per_side_of_forests']} of each; training time: {seconds}"
    )
    if report["seconds"].get("gaussian", math.inf) < report["seconds"]["model"]:
        print("The Gaussian-prior model had less time than the EBM: give it more with --baseline-steps.")
    print(f"figures: {folder / EVALUATION}   pictures: {folder / PICTURES}")
