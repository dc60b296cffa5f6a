"""What the rows say: ratios by name, tables, and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.samplers import MissingExtraError

from .. import results
from ..tables import aligned, markdown
from .contenders import (
    BFLOAT16,
    BY_HAND,
    COMPILE,
    EAGER,
    GRADIENT,
    JAX_PEERS,
    LAMINA,
    LIMITS,
    PEERS,
    PRODUCTS,
    TORCH_PEERS,
    TWO_THREADS,
)
from .measure import Row

FASTEST_JAX = "fastest_jax"
_SHOWN = (LAMINA, *PEERS)
_LOST = " (lost)"


def summary(rows: Mapping[str, Row]) -> dict[str, float]:
    """Numbers by name: costs of a step in microseconds, and ratios to others, above 1 where Lamina is faster.

    Such as `hmc/gauss2/10000/us_per_step/blackjax`, `hmc/gauss2/10000/vs_blackjax`, `.../vs_fastest_jax`,
    `.../eager_vs_torchebm`, `first/hmc/gauss2/1000/seconds/lamina`, `threads/hmc/gauss2/100000/speedup` and
    `memory/hmc/gauss2/100000/mib`. Only contenders whose draws are right count.
    """
    figures: dict[str, float] = {}
    for name, row in rows.items():
        figures |= {f"{name}/{key}": value for key, value in _figures(row)}
    return figures


def _figures(row: Row) -> Iterator[tuple[str, float]]:
    if row["kind"] == "speed":
        costs = _values(row, "cpu_us_per_step")
        yield from ((f"us_per_step/{name}", cost) for name, cost in costs.items())
        yield from ratios(costs, LAMINA, "vs")
        looped = {name: cost for name, cost in costs.items() if name not in JAX_PEERS}
        yield from ratios(looped, EAGER, "eager_vs")
        yield from ratios(looped, GRADIENT, "gradient_vs")
        yield from ratios(costs, COMPILE, "compile_vs")
        yield from ratios(costs, BFLOAT16, "bfloat16_vs")
        for field in ("bias", "bias_error"):
            yield from ((f"bfloat16_{field}", value) for value in _values(row, field).values())
    elif row["kind"] == "first":
        seconds = _values(row, "seconds")
        yield from ((f"seconds/{name}", value) for name, value in seconds.items())
        yield from ratios(seconds, LAMINA, "vs")
    elif row["kind"] == "threads":
        walls = _values(row, "wall_us_per_step")
        if {LAMINA, TWO_THREADS} <= walls.keys():
            yield "speedup", walls[LAMINA] / walls[TWO_THREADS]
    else:
        yield from (("mib", mib) for mib in _values(row, "mib").values())


def ratios(costs: Mapping[str, float], ours: str, prefix: str) -> Iterator[tuple[str, float]]:
    """What others and limits cost as a multiple of ours, by name, and the fastest of JAX's libraries among them."""
    if ours not in costs:
        return
    known = (*PEERS, *LIMITS, *([EAGER, COMPILE] if ours == LAMINA else []))
    others = {name: cost for name, cost in costs.items() if name in known}
    jax = [cost for name, cost in others.items() if name in JAX_PEERS]
    if jax:
        others[FASTEST_JAX] = min(jax)
    yield from ((f"{prefix}_{name}", cost / costs[ours]) for name, cost in others.items())


def _values(row: Row, field: str) -> dict[str, float]:
    return {
        name: entry[field] for name, entry in row["contenders"].items() if entry["status"] == "ok" and field in entry
    }


def text_table(rows: Mapping[str, Row]) -> str:
    """The main table, for a terminal."""
    return aligned(*_speed_table(rows))


def markdown_report(rows: Mapping[str, Row], versions: Mapping[str, Mapping[str, str]]) -> str:
    """All tables, and why contenders are missing in them."""
    sections = [
        ("CPU time of a step, one thread, microseconds", _speed_table(rows)),
        ("Without a compiler, microseconds", _eager_table(rows)),
        ("Networks, microseconds", _network_table(rows)),
        ("Beside programs written by hand, microseconds", _limit_table(rows)),
        ("First call: trace, compile and one call, seconds", _first_call_table(rows)),
        ("First result of a new process with empty caches, seconds", _first_table(rows)),
        ("Two threads, and memory", _other_table(rows)),
    ]
    parts = [f"## {title}\n\n{markdown(*table)}" for title, table in sections if table[1]]
    notes = sorted(set(_notes(rows)))
    parts += ["## Notes\n\n" + "\n".join(f"- {note}" for note in notes)] if notes else []
    told = sorted({f"{name} {version}" for ran in versions.values() for name, version in ran.items()})
    told_first = [f"Versions: {', '.join(told)}.", f"Measured at commit {results.commits(rows)}."]
    return "\n\n".join(["# Samplers side by side", *told_first, *parts]) + "\n"


_Table = tuple[Sequence[str], list[list[str]], str]


def _speed_table(rows: Mapping[str, Row]) -> _Table:
    header = ("cell", *_SHOWN, "x BlackJAX", "x fastest JAX", "accept", "ESS/draw")
    lines = []
    for name, row in _of_kind(rows, "speed"):
        against = dict(ratios(_values(row, "cpu_us_per_step"), LAMINA, "vs"))
        ours = row["contenders"].get(LAMINA, {})
        lines.append(
            [
                name,
                *(_cell(row, contender, "cpu_us_per_step") for contender in _SHOWN),
                *(_ratio(against.get(f"vs_{other}")) for other in ("blackjax", FASTEST_JAX)),
                _number(ours.get("accept")),
                _number(ours.get("ess_per_draw")),
            ]
        )
    return header, lines, "l" + "r" * (len(header) - 1)


def _eager_table(rows: Mapping[str, Row]) -> _Table:
    shown = (EAGER, GRADIENT, *TORCH_PEERS)
    header = ("cell", *shown, *(f"x {peer}" for peer in TORCH_PEERS))
    lines = []
    for name, row in _of_kind(rows, "speed"):
        if EAGER in row["contenders"]:
            against = dict(ratios(_values(row, "cpu_us_per_step"), EAGER, "vs"))
            lines.append(
                [
                    name,
                    *(_cell(row, contender, "cpu_us_per_step") for contender in shown),
                    *(_ratio(against.get(f"vs_{peer}")) for peer in TORCH_PEERS),
                ]
            )
    return header, lines, "l" + "r" * (len(header) - 1)


def _network_table(rows: Mapping[str, Row]) -> _Table:
    """Each way to run an energy of matrix products, with the share of its time that these take."""
    against_others = ("x BlackJAX", "x fastest JAX", "products' share")
    header = ("cell", "how", "us", *against_others, "relative bias of E|x|^2", "std. error")
    lines = []
    for name, row in _of_kind(rows, "speed"):
        costs = _values(row, "cpu_us_per_step")
        for ours in (LAMINA, EAGER, COMPILE, BFLOAT16):
            if PRODUCTS in costs and ours in costs:
                against, entry = dict(ratios(costs, ours, "vs")), row["contenders"][ours]
                shown = [_ratio(against.get(f"vs_{other}")) for other in ("blackjax", FASTEST_JAX)]
                told = [against[f"vs_{PRODUCTS}"], entry.get("bias"), entry.get("bias_error")]
                lines.append([name, ours, _number(costs[ours]), *shown, *map(_number, told)])
    return header, lines, "ll" + "r" * (len(header) - 2)


def _limit_table(rows: Mapping[str, Row]) -> _Table:
    lines = [
        [name, *(_number(costs[contender]) for contender in (LAMINA, BY_HAND)), _number(costs[LAMINA] / costs[BY_HAND])]
        for name, row in _of_kind(rows, "speed")
        if {LAMINA, BY_HAND} <= (costs := _values(row, "cpu_us_per_step")).keys()
    ]
    return ("cell", LAMINA, BY_HAND, "times the limit"), lines, "lrrr"


def _first_call_table(rows: Mapping[str, Row]) -> _Table:
    lines = [[name, *(_cell(row, c, "first_seconds") for c in _SHOWN)] for name, row in _of_kind(rows, "speed")]
    return ("cell", *_SHOWN), lines, "l" + "r" * len(_SHOWN)


def _first_table(rows: Mapping[str, Row]) -> _Table:
    lines = [[name, *(_cell(row, c, "seconds") for c in _SHOWN)] for name, row in _of_kind(rows, "first")]
    return ("cell", *_SHOWN), lines, "l" + "r" * len(_SHOWN)


def _other_table(rows: Mapping[str, Row]) -> _Table:
    units = {"threads": "x one thread", "memory": "MiB above the baseline"}
    lines = [
        [name, _number(value), units[row["kind"]]]
        for name, row in rows.items()
        if row["kind"] in units
        for _, value in _figures(row)
    ]
    return ("cell", "figure", "unit"), lines, "lrl"


def _of_kind(rows: Mapping[str, Row], kind: str) -> Iterator[tuple[str, Row]]:
    return ((name, row) for name, row in rows.items() if row["kind"] == kind)


def _cell(row: Row, contender: str, field: str) -> str:
    """A figure, or what stands in its place: the status, or - where there is no such sampler."""
    entry: Mapping[str, Any] = row["contenders"].get(contender, {"status": "unsupported"})
    if entry["status"] == "ok":
        return _number(entry.get(field))
    return "-" if entry["status"] == "unsupported" else str(entry["status"])


def _notes(rows: Mapping[str, Row]) -> Iterator[str]:
    for name, row in rows.items():
        for contender, entry in row["contenders"].items():
            if entry["status"] == "missing":
                yield f"{contender} is missing: {entry['note']}"
            elif entry["status"] in ("wrong", "failed"):
                yield f"{contender} on {name}, {entry['status']}: {entry['note']}"


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else _number(value) + (_LOST if value < 1 else "")


def picture(rows: Mapping[str, Row], path: Path) -> None:
    """Draw how much more than Lamina's a step of each peer costs, on a logarithmic axis; left of the line we lose.

    Args:
        rows: Of the measurement.
        path: Picture to write, png.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench", "drawing pictures") from error
    speeds = {name: _values(row, "cpu_us_per_step") for name, row in _of_kind(rows, "speed")}
    speeds = {name: costs for name, costs in speeds.items() if LAMINA in costs}
    figure = Figure(figsize=(7.0, 1.2 + 0.2 * len(speeds)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, peer in enumerate(PEERS):
        places = [place for place, costs in enumerate(speeds.values()) if peer in costs]
        times = [costs[peer] / costs[LAMINA] for costs in speeds.values() if peer in costs]
        axes.plot(times, places, "o" if peer in JAX_PEERS else "x", markersize=4, color=f"C{index}", label=peer)
    axes.axvline(1.0, color="0.3", linewidth=1)
    axes.axvspan(axes.get_xlim()[0], 1.0, color="tab:red", alpha=0.08)
    axes.set_xscale("log")
    axes.set_yticks(range(len(speeds)), list(speeds), fontsize=7)
    axes.set_ylim(len(speeds) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_xlabel("CPU time of a step over Lamina's, one thread", fontsize=8)
    axes.tick_params(labelsize=7)
    figure.legend(fontsize=7, loc="outside upper center", ncols=len(PEERS))
    figure.savefig(path)
