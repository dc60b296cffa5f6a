"""What has changed between two results of a benchmark, beyond their noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.stats import t as student

from .results import ResultsError
from .tables import aligned

FALSE_ALARM = 1e-3
"""Probability, at most, that any figure is called changed although nothing has, if figures are normal."""

TOLERANCE = 0.05
"""Changes smaller than this share of the old value do not matter."""

BETTER: Mapping[str, Literal[-1, 0, 1]] = {
    "ess_per_gradient": 1,
    "accept": 0,
    "rhat": -1,
    "nested_rhat": -1,
    "mean_error": -1,
    "second_moment_error": -1,
    "gradients_to_low_error": -1,
    "gradients_to_low_error_worst": -1,
    "final_error": -1,
    "divergences": -1,
    "seconds_per_gradient": -1,
}
"""Which way is better: up (1), down (-1), or neither (0), by figure. Others are not compared."""

CENSORED = ("gradients_to_low_error", "gradients_to_low_error_worst")
"""Figures that are missing where they exceed the budget, as they may by chance."""

TIMED = ("seconds_per_gradient",)
"""Figures that mean something only on the same machine."""

_MACHINE = ("platform", "device", "cpu", "num_threads")
_SEED = "seed"


@dataclass(frozen=True)
class Change:
    """One figure in both results.

    Attributes:
        name: Such as `ess_per_gradient/banana/hmc`.
        old: NaN where it is missing.
        new: NaN where it is missing.
        standard_errors: The difference in units of its standard error; infinite where a figure came or went.
        is_worse: Whether that is bad.
    """

    name: str
    old: float
    new: float
    standard_errors: float
    is_worse: bool


@dataclass(frozen=True)
class Comparison:
    """Two results, side by side.

    Attributes:
        changes: Figures that have changed, worse ones first, the clearest first.
        num_compared: Figures that were compared.
        num_unclear: Figures in both results without a standard error in one of them, which are not.
        notes: What was left out, and what else differs.
    """

    changes: tuple[Change, ...]
    num_compared: int
    num_unclear: int
    notes: tuple[str, ...]

    @property
    def num_worse(self) -> int:
        """Regressions."""
        return sum(change.is_worse for change in self.changes)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], *, tolerance: float = TOLERANCE) -> Comparison:
    """Find the figures that differ by more than noise explains, and by enough to matter.

    A difference is judged by Welch's t, with the standard errors and degrees of freedom that both results bring, and
    Bonferroni's share of `FALSE_ALARM`. A figure that could be judged and is no longer finite is a change for the
    worse, whichever way is better.

    Args:
        old: Content of a results file, as `results.read` returns it.
        new: The same, later.
        tolerance: Smallest change that matters, as a share of the old value.

    Raises:
        ResultsError: If one has no figures with standard errors, or their settings differ.

    Source: Welch (1947), Biometrika 34: the degrees of freedom of a difference.
    """
    _check(old, new)
    skipped, notes = _skipped(old, new)
    spreads = _spreads(old), _spreads(new)
    figures = [
        name
        for name in old["summary"]
        if _figure(name) in BETTER and name in spreads[0] and _figure(name) not in skipped
    ]
    judged = [name for name in figures if name in spreads[1] and name in new["summary"]]
    missing = [name for name in figures if name not in new["summary"] and _cell(name) in new["rows"]]
    gone = [name for name in missing if _figure(name) not in CENSORED]
    notes += [
        f"{name} was {old['summary'][name]:.4g}; this time the budget did not suffice, which proves nothing."
        for name in missing
        if name not in gone
    ]
    changes = [Change(name, old["summary"][name], math.nan, math.inf, is_worse=True) for name in gone]
    for name in judged:
        difference = new["summary"][name] - old["summary"][name]
        units, degrees = _welch(difference, *(spread[name] for spread in spreads))
        limit = student.isf(FALSE_ALARM / 2 / len(judged), degrees)
        if abs(units) > limit and abs(difference) > tolerance * abs(old["summary"][name]):
            is_worse = difference * BETTER[_figure(name)] < 0
            changes.append(Change(name, old["summary"][name], new["summary"][name], units, is_worse))
    common = [name for name in new["summary"] if name in old["summary"] and _figure(name) in set(BETTER) - set(skipped)]
    return Comparison(
        changes=tuple(sorted(changes, key=lambda change: (not change.is_worse, -abs(change.standard_errors)))),
        num_compared=len(judged) + len(gone),
        num_unclear=len(common) - len(judged),
        notes=tuple(notes),
    )


def table(changes: Sequence[Change]) -> str:
    """The changes as aligned text."""
    cells = [
        (
            change.name,
            f"{change.old:.4g}",
            "gone" if math.isnan(change.new) else f"{change.new:.4g}",
            "" if math.isnan(change.new) or change.old == 0 else f"{change.new / change.old - 1:+.0%}",
            "" if math.isinf(change.standard_errors) else f"{change.standard_errors:+.1f}",
            _verdict(change),
        )
        for change in changes
    ]
    return aligned(("figure", "old", "new", "change", "std. errors", "verdict"), cells, "lrrrrl")


def _verdict(change: Change) -> str:
    if change.is_worse:
        return "worse"
    return "better" if BETTER[_figure(change.name)] else "changed"


def _welch(difference: float, old: Mapping[str, float], new: Mapping[str, float]) -> tuple[float, float]:
    """The difference in standard errors, and their degrees of freedom."""
    total = math.hypot(old["standard_error"], new["standard_error"])
    if total == 0:
        return (math.inf if difference else 0.0), 1.0
    # Shares of the variance, which is too large a number itself where an unadjusted chain leaves for infinity.
    parts = [(one["standard_error"] / total) ** 4 / one["degrees_of_freedom"] for one in (old, new)]
    return difference / total, 1 / sum(parts)


def _check(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for which, content in (("OLD", old), ("NEW", new)):
        if not {"summary", "settings", "rows"} <= content.keys() or not _have_spread(content["rows"]):
            raise ResultsError(
                f"{which} has no figures with standard errors. Pass files that `lamina-bench samplers` wrote."
            )
    differing = [
        f"{name} {old['settings'].get(name)!r} and {new['settings'].get(name)!r}"
        for name in {**old["settings"], **new["settings"]}
        if name != _SEED and old["settings"].get(name) != new["settings"].get(name)
    ]
    if differing:
        raise ResultsError(f"OLD and NEW must be made with the same settings; they have {', '.join(differing)}.")


def _have_spread(rows: Any) -> bool:
    return isinstance(rows, Mapping) and all("spread" in row for row in rows.values())


def _spreads(content: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Standard errors, and their degrees of freedom, by the names that figures have in the summary."""
    rows = content["rows"].items()
    return {f"{figure}/{name}": spread for name, row in rows for figure, spread in row["spread"].items()}


def _skipped(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """Figures that are not compared because machines differ, and notes on what else differs."""
    notes = []
    origins = [content.get("provenance", {}) for content in (old, new)]
    is_same_machine = all(origins[0].get(name) == origins[1].get(name) for name in _MACHINE)
    if not is_same_machine:
        notes.append("Made on different machines: times are not compared.")
    for name in old["rows"]:
        was, is_now = (content["rows"].get(name, {}).get("options") for content in (old, new))
        if is_now is None:
            notes.append(f"{name} is missing in NEW.")
        elif was != is_now:
            notes.append(f"{name} ran as {was}, and runs as {is_now}.")
    return (() if is_same_machine else TIMED), notes


def _figure(name: str) -> str:
    return name.partition("/")[0]


def _cell(name: str) -> str:
    return name.partition("/")[2]
