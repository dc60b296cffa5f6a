"""The command `lamina-bench paper`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from lamina.samplers import ParameterError
from lamina.samplers.checks import check_count

from .. import results
from .ablation import Ablation
from .anomaly import Anomaly
from .factors import Factors
from .generation import Generation
from .ladder import Ladder
from .ood import Ood
from .prior import Prior
from .running import Plan, report, run
from .speed import Speed
from .study import Preset, Study
from .swap import Swap

STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (Anomaly(), Factors(), Ood(), Ladder(), Generation(), Prior(), Speed(), Swap(), Ablation())
}
"""Every study by name."""

LINE = "the experiments of the paper, and of its follow-ups, on real images"

DESCRIPTION = """Answer a question about latent EBM priors by trainings on real images, over several seeds.

A study is made of cells, such as mnist/two-stage/seed-0: one training each, and what is measured of it. OUT gets
NAME.json after every cell, with a flat summary, settings, checksums and provenance; NAME.md, the published figures
beside ours; and pictures. Rows of the same settings, code and machine are kept, and so are those of other
code that nobody asks for, which say so. An interrupted training goes on from its last checkpoint, and so an interrupted
study goes on with the same command. The same command at the same time in another terminal takes the cells that nobody
is at, so that two cores need half the time.

Whether what a study found holds on sets or classes that it was not made with, --outliers, --classes and --data tell, by
the same settings and rules. They write NAME-others.json and .md, where rows of other sets and classes stay, and leave
NAME.json alone. `ood` takes the models that it has trained below --runs, if it has.

studies:
{studies}

presets:
  cpu     small networks; sizes and steps are chosen for one core
  gpu     the networks of the paper; name a device
  trial   everything in well under a minute: it shows that all works, and says nothing else
"""

EXAMPLES = """examples:
  lamina-bench paper generation
  lamina-bench paper generation --only 'mnist/*' --seeds 0 --out /tmp/one
  lamina-bench paper swap --preset trial --out /tmp/trial
  lamina-bench paper generation --preset gpu --device cuda --out /tmp/gpu
  lamina-bench paper ood --outliers idx:letters omniglot --out /tmp/unseen  # letters/t10k-images-idx3-ubyte.gz, ...
  lamina-bench paper anomaly --classes 0 2 3 6 8 --out /tmp/unseen
  lamina-bench paper anomaly --data idx:letters --classes 1 2 --out /tmp/unseen
  lamina-bench paper ablation --report              # all but the rows anew, without training
"""


def description() -> str:
    """What the command does, and which studies there are."""
    return DESCRIPTION.format(studies="\n".join(f"  {name:12s}{study.title}" for name, study in STUDIES.items()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("study", choices=STUDIES, metavar="NAME", help=f"of {', '.join(STUDIES)}")
    add("--preset", choices=get_args(Preset), default="cpu", help="(default: %(default)s)")
    add("--seeds", type=int, nargs="+", metavar="S", help="(default: the study's own)")
    add("--only", default="*", metavar="GLOB", help="cells to run, such as 'mnist/*' (default: all)")
    add(
        "--outliers",
        nargs="+",
        metavar="DATA",
        help="ood: tell these data sets from the one that was learnt, not the study's own; names are those of `lamina "
        "train`, such as idx:FOLDER, any set in files as MNIST has them",
    )
    add("--classes", type=int, nargs="+", metavar="D", help="anomaly: hold out these classes, not the study's own")
    add("--data", metavar="DATA", help="anomaly: of this data set, not the preset's own")
    add("--device", default="cpu", metavar="NAME", help="such as cuda (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="T", help="of PyTorch (default: %(default)s)")
    add("--data-root", type=Path, metavar="DIR", help="folder with the files of data sets")
    add(
        "--runs",
        type=Path,
        metavar="DIR",
        help="scratch folder for trainings, which can be removed (default: runs below OUT)",
    )
    add("--fresh", action="store_true", help="forget what is there of these cells, and run them anew")
    add(
        "--report",
        action="store_true",
        help="write summary, table and pictures anew from the rows of NAME.json, and train nothing",
    )
    parser.set_defaults(run=main)


def main(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        LaminaError: If options are wrong, a training is lost, or results cannot be written.
    """
    study = _asked(options)
    if options.seeds and len(set(options.seeds)) < len(options.seeds):
        raise ParameterError(f"--seeds must name each one once; got {' '.join(map(str, options.seeds))}.")
    plan = Plan(
        study=study,
        preset=options.preset,
        out=options.out or results.default_folder(),
        runs=options.runs,
        seeds=options.seeds,
        only=options.only,
        data_root=options.data_root,
        device=options.device,
        num_threads=options.threads,
    )
    content = report(plan) if options.report else run(plan, fresh=options.fresh)
    print(study.table(content["summary"]))
    print(f"figures: {plan.path}   table: {plan.path.with_suffix('.md')}")


def _asked(options: argparse.Namespace) -> Study:
    """The study, on its own data or on those that are asked for."""
    of_options = {"outliers": "ood", "classes": "anomaly", "data": "anomaly"}
    asked = {option: value for option in of_options if (value := getattr(options, option)) is not None}
    for option, value in asked.items():
        if options.study != of_options[option]:
            raise ParameterError(
                f"--{option} is for the study {of_options[option]}; got {options.study}. Leave it out, or run "
                f"`lamina-bench paper {of_options[option]}`."
            )
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ParameterError(f"--{option} must name each one once; got {' '.join(map(str, value))}.")
    for label in asked.get("classes", ()):
        check_count("a class", label, 0)
    if not asked:
        return STUDIES[options.study]
    return Ood(options.outliers) if "outliers" in asked else Anomaly(options.classes or (), options.data)
