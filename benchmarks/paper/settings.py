"""What the trainings of a study were, in words, from the settings that its results hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from lamina.trainers import DATASETS
from lamina.trainers.data import split_pose

_IMAGES = {"mlp": "dense", "conv": "convolutions", "ladder": "ladder of convolutions"}

_SIDES = {
    **dict.fromkeys(DATASETS, "28x28"),
    "digits": "8x8",
    **dict.fromkeys(("cifar10", "svhn", "mnist-colour"), "32x32 in colour"),
}
"""Of images; nobody knows those of sets in folders."""


def what_was_run(content: Mapping[str, Any]) -> list[str]:
    """Data, networks, latents, steps, samplers and seeds, a line each; where groups differ, which of them has what.

    Args:
        content: Results of a study, as in the JSON.
    """
    cells: Mapping[str, Mapping[str, Any]] = content["settings"]["cells"]
    lines = [f"Data: {data}."] if (data := _data(cells)) else []
    for name, facet in _FACETS.items():
        by_group = {group: ", ".join(dict.fromkeys(map(facet, _trainings(cell)))) for group, cell in cells.items()}
        if any(by_group.values()):
            lines.append(f"{name}: {_told(by_group)}.")
    return [*lines, f"Seeds: {', '.join(map(str, content['seeds']))}."]


def _trainings(cell: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Those of a group, of an ensemble, of a model or none, each with what else the group has."""
    own = cell.get("trainings", [cell["training"]] if "training" in cell else [])
    return [{**cell, **training} for training in own]


def _data(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Sets that are learnt, without what is left out of them, which groups are called after; and how many are used."""
    trainings = [training for cell in cells.values() for training in _trainings(cell)]
    if not trainings:
        return ""
    names = dict.fromkeys(training["data"].partition("-without-")[0] for training in trainings)
    others = dict.fromkeys(f"`{name}`" for training in trainings for name in training.get("outliers", ()))
    parts = [", ".join(map(_with_sides, names))]
    if others:
        parts.append(f"told from it: {', '.join(others)}")
    return "; ".join([*parts, _amount(trainings[0])])


def _amount(training: Mapping[str, Any]) -> str:
    """How many images figures are of."""
    if "num_held_out" in training:
        return f"{training['num_held_out']:,} held-out images"
    is_drawn = "num_samples" in training
    return (
        f"{training['num_samples']:,} images on either side"
        if is_drawn
        else f"at most {training['num_rows']:,} of a set"
    )


def _with_sides(name: str) -> str:
    _, whole = split_pose(name)
    return f"`{name}` ({_SIDES[whole]})" if whole in _SIDES else f"`{name}`"


def _scheme(training: Mapping[str, Any]) -> str:
    is_by_stages = training["scheme"] == "two-stage"
    return f"`{training['scheme']}`" + (f" with the {training['energy_loss']} energy loss" if is_by_stages else "")


def _networks(training: Mapping[str, Any]) -> str:
    model = training["model"]
    width = "" if model["images"] == "mlp" else f", {model['width']} channels at the finest size"
    return f"{_IMAGES[model['images']]}, {_sizes(model['hidden'])} hidden units{width}, sigma {model['sigma']:g}"


def _inference(training: Mapping[str, Any]) -> str:
    is_ladder = training["model"]["inference"] == "ladder"
    return "a ladder, up with the image and down with the base prior" if is_ladder else ""


def _divergence(training: Mapping[str, Any]) -> str:
    parts = []
    if training["free_nats"]:
        parts.append(f"{training['free_nats']:g} nats free for each layer")
    if training["kl_warmup"]:
        parts.append(f"weight from zero to one over the first {training['kl_warmup']:.0%} of a stage")
    return "; ".join(parts)


def _latents(training: Mapping[str, Any]) -> str:
    return " + ".join(_sizes(one, "x") if isinstance(one, list) else f"{one}" for one in training["model"]["latents"])


def _energies(training: Mapping[str, Any]) -> str:
    if training["scheme"] == "gaussian":
        return ""
    model = training["model"]
    hidden = model["energy_hidden"]
    sizes = " and ".join(map(_sizes, hidden)) if isinstance(hidden[0], list) else _sizes(hidden)
    return (
        f"{sizes} hidden units, {'one on all layers' if model['energies'] == 'concatenation' else 'one for each layer'}"
    )


def _steps(training: Mapping[str, Any]) -> str:
    num = training["num_steps"]
    is_by_stages = training["scheme"] == "two-stage"
    first = f", the first {round(num * training['first_stage']):,} without energies" if is_by_stages else ""
    return f"{num:,} of {training['batch_size']} images{first}"


def _rates(training: Mapping[str, Any]) -> str:
    energies = "" if training["scheme"] == "gaussian" else f" and {training['energy_learning_rate']:g} of energies"
    return f"{training['learning_rate']:g}{energies}"


def _prior(training: Mapping[str, Any]) -> str:
    has_chains = training["scheme"] != "gaussian" and training["energy_loss"] == "contrastive"
    return _chains(training["prior"]) if has_chains else ""


def _posterior(training: Mapping[str, Any]) -> str:
    return _chains(training["posterior"]) if training["scheme"] == "joint-mle" else ""


def _after(training: Mapping[str, Any]) -> str:
    is_drawn = "num_rows" not in training and training["scheme"] != "gaussian"
    return f"{training['sample_steps']}" if is_drawn else ""


def _long(training: Mapping[str, Any]) -> str:
    has_long = "num_long_steps" in training
    return f"{training['num_long_steps']:,} of {training['num_long_chains']:,} chains" if has_long else ""


def _chains(chains: Mapping[str, Any]) -> str:
    options = {key: value for key, value in chains["kernel"].items() if key != "name" and value is not None}
    kernel = ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in options.items()
    )
    called = f"{chains['kernel']['name']}({kernel})"
    return f"{chains['num_steps']} of `{called}` in {chains['space']}, start `{chains['start']}`"


def _sizes(sizes: Sequence[int], between: str = "-") -> str:
    return between.join(map(str, sizes))


_FACETS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Learning": _scheme,
    "Networks": _networks,
    "Inference model": _inference,
    "Latents": _latents,
    "Energies": _energies,
    "Training steps": _steps,
    "Divergence from the base prior": _divergence,
    "Learning rates": _rates,
    "Steps of prior chains for each of training": _prior,
    "Steps of posterior chains for each of training": _posterior,
    "Steps of the prior's sampler for draws after training": _after,
    "Steps by which prior chains go on": _long,
}


def _told(by_group: Mapping[str, str]) -> str:
    """What most groups share, then what others have, with their names; nothing of those that have none."""
    groups: dict[str, list[str]] = {}
    for group, value in by_group.items():
        groups.setdefault(value, []).append(group)
    groups.pop("", None)
    usual = max(groups, key=lambda value: len(groups[value]))
    is_shared = 2 * len(groups[usual]) > len(by_group)
    others = [
        f"{value} ({_named(some, list(by_group))})" for value, some in groups.items() if value != usual or not is_shared
    ]
    return "; ".join([usual, *others] if is_shared else others)


def _named(some: Sequence[str], everything: Sequence[str]) -> str:
    """Names of groups, by a pattern such as `sigma/1/*` or `*/single` where all that it fits are among them."""
    return ", ".join(f"`{name}`" for name in dict.fromkeys(_pattern(name, some, everything) for name in some))


def _pattern(name: str, some: Sequence[str], everything: Sequence[str]) -> str:
    """A pattern for a name and others of some, or else the name itself."""
    parent, _, leaf = name.rpartition("/")
    for pattern in (f"{parent}/*", f"*/{leaf}") if parent else ():
        fitting = {other for other in everything if fnmatchcase(other, pattern)}
        if len(fitting) > 1 and fitting <= {*some}:
            return pattern
    return name
