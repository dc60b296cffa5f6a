"""The parts of an evaluation: each takes a subject, and gives a report and pictures.

A report is for JSON, and has a flat `summary`. Pictures are functions of a path, by file name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents
from lamina.samplers import StateError, progress, storage

from .. import pictures
from ..data import plain_name
from ..sampling import images
from .chains import chain_figures
from .generation import generation
from .hierarchy import chance, kl_per_layer, linear_probes, resampled_layers, traversals
from .latents import flat_figures, latent_figures, num_compared
from .layers import has_inference, posterior_draws
from .likelihood import (
    annealed_evidence,
    importance_weights,
    log_mean_exp,
    log_normalizer_bounds,
    noise_log_normalizer,
    reverse_log_normalizer,
)
from .measures import Array
from .outliers import Scorer, detections, share_without_number
from .selection import Combination, Typicality, choose, damaged_sets
from .subject import Subject
from .turns import is_classified

_COLUMNS = 8
_SHOWN = _COLUMNS * _COLUMNS
_BATCH = 250
_EVIDENCE_ROWS = 30
"""Rows with an annealed evidence, which costs hundreds of times an evidence lower bound."""
_EVIDENCE_CHAINS = 10
"""For each of them."""
_EVIDENCE_STOPS = 3
"""In units of the stops for log Z: posteriors are further from the base prior."""
_SCORES = "lamina outlier scores"


@dataclass(frozen=True)
class Part:
    """What a part found.

    Attributes:
        report: For JSON.
        pictures: What draws each picture into a path, by file name.
    """

    report: dict[str, Any]
    pictures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


def generation_part(subject: Subject) -> Part:
    """Samples against held-out images; see `generation`."""
    return Part(generation(subject))


def prior_part(subject: Subject) -> Part:
    """The priors against the aggregate posterior, per layer and jointly; see `latents`."""
    generator = subject.generator(2)
    x = subject.held_out(subject.budget.num_samples)
    posterior = posterior_draws(subject.model, subject.config, x, generator)
    priors = subject.priors(len(x), generator)
    figures = latent_figures(priors, posterior)
    summary = flat_figures(figures)
    clouds = {"aggregate posterior": posterior, **{pictures.TITLES[name]: z for name, z in priors.items()}}
    return Part(
        {
            "num_per_side": num_compared(len(x)),
            "reference": "one half of the aggregate posterior's draws",
            "shuffled": "the other half, with coordinates (layers: one by one) or layers (jointly) shuffled",
            "summary": summary,
        },
        {"latents.png": partial(pictures.latent_clouds, clouds)},
    )


def likelihood_part(subject: Subject) -> Part:
    """Bounds on log Z and log p(x); see `likelihood`."""
    budget, generator, prior = subject.budget, subject.generator(3), subject.model.prior
    settings: dict[str, Any] = {"generator": generator, "show_progress": subject.show_progress}
    bounds = log_normalizer_bounds(prior, num_chains=budget.num_chains, num_stops=budget.num_stops, **settings)
    chains = subject.priors(budget.num_chains, generator).get("ebm")
    report: dict[str, Any] = {"log_normalizer": asdict(bounds)}
    if chains is not None:
        reverse = reverse_log_normalizer(prior, chains, draws_are_exact=False, num_stops=budget.num_stops, **settings)
        report["log_normalizer"]["reverse_from_chains"] = {
            "value": float(reverse.log_normalizer) - noise_log_normalizer(prior),
            "standard_error": float(reverse.standard_error),
            "is_bound": reverse.is_bound,
        }
    evidence, elbo = _evidence(subject, subject.model, generator, with_energies=True)
    report["evidence"] = evidence.description
    report["num_rows"] = len(evidence.values)
    name = "ebm" if subject.has_energies else "base"
    summary = {
        "log_normalizer_lower": bounds.lower,
        "log_normalizer_upper": bounds.upper,
        f"log_likelihood_lower/{name}": float(evidence.values.mean()) - bounds.upper,
        f"log_likelihood_no_bound/{name}": float(evidence.values.mean()) - bounds.lower,
        f"log_likelihood_error/{name}": _error(evidence.values, bounds.upper_error),
    }
    if elbo is not None:
        summary[f"elbo/{name}"] = float(elbo.mean()) - bounds.upper
        summary |= _gaussian_likelihoods(subject, generator)
    return Part({**report, "labels": _LABELS, "summary": summary})


_LABELS = {
    "log_likelihood_lower": "a lower bound on the mean log p(x) in expectation: its log Z is bounded from above",
    "log_likelihood_no_bound": "no bound: both log p~(x) and log Z are taken from below",
    "elbo": "a lower bound in expectation, with one draw of q(z|x)",
    "log_likelihood_error": "standard error over rows and of log Z",
}


@dataclass(frozen=True)
class _Evidence:
    """Lower bounds on log p~(x), (N,), and where they come from."""

    values: Tensor
    description: str


def _evidence(
    subject: Subject, model: LatentEBM, generator: torch.Generator, *, with_energies: bool
) -> tuple[_Evidence, Tensor | None]:
    """Lower bounds on log p~(x), and the mean log weight of each row where there are importance weights."""
    budget = subject.budget
    x = subject.held_out(budget.num_rows)
    if not has_inference(model, subject.config):
        x = x[:_EVIDENCE_ROWS]
        values = annealed_evidence(
            model,
            x,
            generator=generator,
            num_chains=_EVIDENCE_CHAINS,
            num_stops=_EVIDENCE_STOPS * budget.num_stops,
            show_progress=subject.show_progress,
        )
        return _Evidence(values, "forward annealed importance sampling over the posterior"), None
    weights = []
    batches = torch.split(x, _BATCH)
    with progress(len(batches), "importance weights", enabled=subject.show_progress) as bar:
        for batch in batches:
            weights.append(
                importance_weights(model, batch, budget.num_weights, generator=generator, with_energies=with_energies)
            )
            bar.advance()
    log_weights = torch.cat(weights).double()
    return _Evidence(log_mean_exp(log_weights), f"{budget.num_weights} importance weights"), log_weights.mean(1)


def _gaussian_likelihoods(subject: Subject, generator: torch.Generator) -> dict[str, float]:
    """Bounds without energies, where Z is 1: of the model's own base prior, and of the Gaussian-prior model."""
    models = {"base": subject.model} if subject.has_energies else {}
    if subject.baseline is not None:
        models["gaussian"] = subject.baseline
    summary: dict[str, float] = {}
    for name, model in models.items():
        evidence, elbo = _evidence(subject, model, generator, with_energies=False)
        assert elbo is not None
        summary[f"log_likelihood_lower/{name}"] = float(evidence.values.mean())
        summary[f"log_likelihood_error/{name}"] = _error(evidence.values, 0.0)
        summary[f"elbo/{name}"] = float(elbo.mean())
    return summary


def _error(values: Tensor, of_normalizer: float) -> float:
    return math.hypot(float(values.std()) / math.sqrt(len(values)), of_normalizer)


def outliers_part(subject: Subject) -> Part:
    """Outlier scores for every k, and the one that the blind rule picks; see `outliers` and `selection`.

    Of three equal parts of the held-out images used, one fits the typicality, one chooses, and one is measured.
    """
    budget = subject.budget
    x = subject.held_out(3 * budget.num_rows)
    fits, ours, theirs = (x[part * (len(x) // 3) :][: len(x) // 3] for part in range(3))
    scorer = Scorer.fit(
        subject.model,
        subject.config,
        subject.data.train[:_BATCH].to(subject.device),
        generator=subject.generator(4),
        num_draws=budget.num_draws,
        num_steps=budget.num_chain_steps,
    )
    damaged = damaged_sets(ours, generator=subject.generator(5))
    foreign = {name: rows[: budget.num_rows].to(subject.device) for name, rows in subject.outliers.items()}
    sets = {
        "fits": fits,
        "chooses": ours,
        "held-out": theirs,
        **{f"damaged-{k}": v for k, v in damaged.items()},
        **foreign,
    }
    scores = _scores(subject, scorer, sets)
    typicality, combination = Typicality.fit(scores["fits"]), Combination.fit(scores["fits"])
    scores = {
        name: {**values, "typicality": typicality(values), "combined": combination(values)}
        for name, values in scores.items()
    }
    choice = choose(scores["chooses"], {kind: scores[f"damaged-{kind}"] for kind in damaged})
    found = {name: detections(scores["held-out"], scores[name]) for name in foreign}
    summary = {"chosen_worst_auroc": choice.worst}
    for name, by_score in found.items():
        for measure, value in by_score[choice.score]._asdict().items():
            summary[f"{measure}/{name}/chosen"] = value
        for score, figures in by_score.items():
            summary |= {f"{measure}/{name}/{score}": value for measure, value in figures._asdict().items()}
    report = {
        "chosen": choice.score,
        "rule": "the score whose worst AUROC over damaged held-out images is the best",
        "chosen_from": {
            score: {kind: figures._asdict() for kind, figures in row.items()} for score, row in choice.table.items()
        },
        "num_per_side": {name: min(len(theirs), len(rows)) for name, rows in foreign.items()},
        "num_choosing": len(ours),
        "share_without_number": {name: share_without_number(values) for name, values in scores.items()},
        "summary": summary,
    }
    shown = {name: values[choice.score] for name, values in scores.items() if name in ("held-out", *foreign)}
    damages = {name: values[:_COLUMNS].cpu() for name, values in {"held-out": ours, **damaged}.items()}
    return Part(
        report,
        {
            "outliers.png": partial(pictures.histograms, shown, f"outlier score {choice.score}"),
            "damages.png": partial(pictures.labelled_rows, damages),
        },
    )


def _scores(subject: Subject, scorer: Scorer, sets: Mapping[str, Tensor]) -> dict[str, dict[str, Array]]:
    """Scores of every set, by set and score; sets that an interrupted evaluation has done are read back."""
    batches = {name: torch.split(rows, _BATCH) for name, rows in sets.items()}
    total = sum(len(parts) for parts in batches.values())
    scores: dict[str, dict[str, Array]] = {}
    with progress(total, "outlier scores", enabled=subject.show_progress) as bar:
        for name, parts in batches.items():
            path = subject.cache / f"scores-{plain_name(name)}.pt"
            kept = _read_scores(path)
            if kept is None:
                generator = subject.generator(crc32(name.encode()))
                kept = _joined([_advancing(scorer(part, generator=generator), bar.advance) for part in parts])
                storage.save(kept, path, kind=_SCORES)
            scores[name] = {score: values.numpy() for score, values in kept.items()}
    return scores


def _advancing(scores: dict[str, Tensor], advance: Callable[[], None]) -> dict[str, Tensor]:
    advance()
    return scores


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}


def _read_scores(path: Path) -> dict[str, Tensor] | None:
    try:
        return storage.load(path, kind=_SCORES) if path.exists() else None
    except (OSError, StateError):  # cut short: computed again
        return None


def hierarchy_part(subject: Subject) -> Part:
    """What each layer is for; see `hierarchy`."""
    model, budget, generator = subject.model, subject.budget, subject.generator(6)
    x = subject.held_out(budget.num_rows)
    posterior = posterior_draws(model, subject.config, x, generator)
    depth = len(posterior)
    names = [f"layer{number + 1}" for number in range(depth)]
    train = subject.data.train[: 4 * budget.num_rows]
    summary: dict[str, float] = {}
    if is_classified(subject.data):
        probes = linear_probes(
            posterior_draws(model, subject.config, train.to(subject.device), generator),
            subject.data.train_labels[: len(train)],
            posterior,
            subject.data.test_labels[: len(x)],
        )
        summary = {f"probe_accuracy/{name}": value for name, value in zip(names, probes, strict=True)}
    if has_inference(model, subject.config):
        terms = kl_per_layer(model, x, generator=generator)
        summary |= {f"kl/{name}": float(value) for name, value in zip(names, terms, strict=True)}
    drawn = next(iter(subject.priors(_COLUMNS, generator).values()))
    resampled = resampled_layers(
        model, drawn, subject.config.prior.kernel, num_steps=budget.num_chain_steps, generator=generator
    )
    held = ["drawn", *(f"$z_{number + 1}$ anew" for number in range(depth))]
    along = [f"along $z_{number + 1}$" for number in range(depth)]
    return Part(
        {
            "num_rows": len(x),
            "num_probe_rows": len(train),
            "probe_chance": chance(subject.data.test_labels[: len(x)]),
            "kl": "E_q[log q(z_i|.) - log p(z_i|z_{i+1})] under the Gaussian base prior, in nats",
            "summary": summary,
        },
        {
            "resampled.png": partial(pictures.labelled_rows, _rows(subject, held, resampled)),
            "traversals.png": partial(
                pictures.labelled_rows, _rows(subject, along, traversals(model, posterior, num=_COLUMNS))
            ),
        },
    )


def _rows(subject: Subject, names: list[str], latents: list[Latents]) -> dict[str, Tensor]:
    """Images of each row of latents, by the row's name."""
    levels = subject.data.num_levels
    return {name: images(subject.model, z, levels).cpu() for name, z in zip(names, latents, strict=True)}


def chains_part(subject: Subject) -> Part:
    """Short runs of prior chains against long ones; see `chains`."""
    if not subject.has_energies:
        return Part({"note": "no energies: the prior is its Gaussian base, which needs no chains", "summary": {}})
    found = chain_figures(subject)
    names = {
        "short": f"short run, {subject.config.prior.num_steps:,} steps",
        "long": f"{max(found.curve):,} steps more",
        "reference": "long adjusted chains",
    }
    grids = {title: images(subject.model, found.sets[name], subject.data.num_levels) for name, title in names.items()}
    curves = {name: {step: row[name] for step, row in found.curve.items()} for name in found.curve[0]}
    levels = {name: found.report["summary"][f"{name}/reference"] for name in curves}
    label = "steps after the short run; dashed: long adjusted chains"
    return Part(
        found.report,
        {
            "chains.png": partial(
                pictures.sample_grid, {title: drawn[:_SHOWN].cpu() for title, drawn in grids.items()}
            ),
            "long-run.png": partial(pictures.step_curves, curves, levels, label),
        },
    )


PARTS: Mapping[str, Callable[[Subject], Part]] = {
    "generation": generation_part,
    "prior": prior_part,
    "likelihood": likelihood_part,
    "outliers": outliers_part,
    "hierarchy": hierarchy_part,
    "chains": chains_part,
}
"""Every part by name."""


def summary_table(summary: Mapping[str, float]) -> str:
    """A flat summary as an aligned table: a row for each measure, a column for each last part of a name."""
    cells = {tuple(name.rpartition("/")[::2]) if "/" in name else (name, ""): v for name, v in summary.items()}
    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in range(2))
    width = max(map(len, rows), default=0)
    lines = [" " * width + "".join(f"{column:>12s}" for column in columns)]
    for row in rows:
        found = [cells.get((row, column)) for column in columns]
        lines.append(f"{row:{width}s}" + "".join(" " * 12 if v is None else f"{v:12.4f}" for v in found))
    return "\n".join(lines)


def finite(value: Any) -> Any:
    """A report with None in place of numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
