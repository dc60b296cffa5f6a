"""Plots: how many axes there are and which data they show, not their pixels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from torch import Tensor

from lamina.samplers import MissingExtraError, ParameterError
from lamina.samplers.diagnostics import DiagnosticWarning, autocorrelation, ebfmi
from lamina.samplers.diagnostics.plots import (
    CONTOUR_MASSES,
    MAX_CHAINS,
    MAX_ENTRIES,
    MAX_POINTS,
    plot_autocorrelation,
    plot_draws,
    plot_energy,
    plot_pairs,
    plot_rank,
    plot_trace,
)

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

OF_DRAWS = [plot_trace, plot_rank, plot_autocorrelation, plot_pairs]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(dim=1)


def foot(figure: Figure) -> str:
    return figure.get_supxlabel()


@pytest.mark.parametrize("plot", OF_DRAWS)
def test_names_and_sizes_of_structures(plot: Callable[..., Figure]) -> None:
    """A scalar entry, a vector: 3 entries by the names of `summary`."""
    figure = plot({"tau": normal(4, 30), "mu": normal(4, 30, 2)})
    texts = {axes.get_title() or axes.get_ylabel() for axes in figure.axes}
    assert {"tau", "mu[0]", "mu[1]"} <= texts
    assert len(figure.axes) == {plot_trace: 6, plot_pairs: 6}.get(plot, 3)
    assert foot(figure) == ""
    renamed = plot((normal(4, 30), normal(4, 30, 2)), names=["a", "b"])
    assert {"a", "b[0]", "b[1]"} <= {axes.get_title() or axes.get_ylabel() for axes in renamed.axes}


@pytest.mark.parametrize("plot", OF_DRAWS)
def test_many_chains_and_entries_are_drawn_in_part_and_said_so(plot: Callable[..., Figure]) -> None:
    figure = plot((normal(400, 10, 4), normal(400, 10, 30)))
    panels = {plot_trace: 2 * MAX_ENTRIES, plot_pairs: MAX_ENTRIES * (MAX_ENTRIES + 1) // 2}
    assert len(figure.axes) == panels.get(plot, MAX_ENTRIES)
    assert f"{MAX_ENTRIES} of 34 entries" in foot(figure)
    assert f"{MAX_POINTS} of 4000 draws" in foot(figure) if plot is plot_pairs else "8 of 400 chains" in foot(figure)


@pytest.mark.parametrize("plot", OF_DRAWS)
def test_figures_render_and_leave_pyplot_alone(plot: Callable[..., Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    picture = BytesIO()
    plot(normal(3, 20, 2)).savefig(picture)
    assert picture.getvalue().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("plot", OF_DRAWS)
def test_inputs_may_carry_a_graph_and_single_precision(plot: Callable[..., Figure]) -> None:
    draws = normal(2, 20).float().requires_grad_()
    assert isinstance(plot(draws), Figure)
    assert draws.requires_grad


def test_trace_shows_every_chain_over_time() -> None:
    draws = normal(3, 50)
    trace, histogram = plot_trace(draws).axes
    assert len(trace.lines) == len(histogram.patches) == 3
    for line, chain in zip(trace.lines, draws, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(50))
        np.testing.assert_array_equal(line.get_ydata(), chain)


def test_long_traces_are_thinned_and_say_so() -> None:
    figure = plot_trace(normal(1, 3 * MAX_POINTS))
    times = figure.axes[0].lines[0].get_xdata()
    assert len(times) == MAX_POINTS
    assert (times[0], times[-1]) == (0, 3 * MAX_POINTS - 1)
    assert foot(figure) == f"Shown: {MAX_POINTS} of {3 * MAX_POINTS} draws in each trace"


def test_many_chains_are_spread_evenly() -> None:
    draws = torch.arange(400.0)[:, None].expand(400, 5)
    drawn = [line.get_ydata()[0] for line in plot_trace(draws).axes[0].lines]
    assert len(drawn) == MAX_CHAINS
    assert (drawn[0], drawn[-1]) == (0, 399)
    assert set(np.diff(drawn)) == {57}


def test_ranks_are_counted_among_all_chains() -> None:
    """Two chains, one below the other: each fills one half of the ranks, twice as high as a level histogram."""
    draws = torch.stack([torch.arange(100.0), torch.arange(100.0, 200.0)])
    (axes,) = plot_rank(draws).axes
    level = axes.lines[0].get_ydata()[0]
    for row, patch in enumerate(axes.patches):
        counts = patch.get_data().values - row
        expected = np.zeros(20)
        expected[10 * row : 10 * row + 10] = 2 * level
        np.testing.assert_allclose(counts, expected, atol=1e-12)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["chain 0", "chain 1"]


def test_autocorrelation_shows_chains_and_their_mean() -> None:
    draws = normal(20, 40)
    (axes,) = plot_autocorrelation(draws, max_lag=12).axes
    *chains, mean = axes.lines
    correlations = autocorrelation(draws, 12)
    assert len(chains) == MAX_CHAINS
    np.testing.assert_allclose(chains[-1].get_ydata(), correlations[-1])
    np.testing.assert_allclose(mean.get_ydata(), correlations.mean(dim=0))
    assert len(plot_autocorrelation(draws[:, :5]).axes[0].lines[0].get_ydata()) == 5
    with pytest.raises(ParameterError, match="max_lag"):
        plot_autocorrelation(draws, max_lag=-1)


def test_pairs_mark_divergences() -> None:
    draws = normal(2, 30, 2)
    is_divergent = draws[..., 0] > 1
    figure = plot_pairs(draws, is_divergent=is_divergent)
    assert figure.get_suptitle() == f"{int(is_divergent.sum())} divergent draws in red"
    (scatter,) = [axes for axes in figure.axes if axes.lines]
    regular, divergent = scatter.lines
    for line, chosen in ((regular, ~is_divergent), (divergent, is_divergent)):
        np.testing.assert_array_equal(line.get_xdata(), draws[..., 0][chosen])
        np.testing.assert_array_equal(line.get_ydata(), draws[..., 1][chosen])
    assert divergent.get_color() == "tab:red"
    with pytest.raises(ParameterError, match=r"shape \(chain, draw\), \(2, 30\)"):
        plot_pairs(draws, is_divergent=is_divergent[0])


def test_energy_shows_both_distributions_and_the_fraction() -> None:
    energies = normal(3, 200).cumsum(dim=1)
    (axes,) = plot_energy(energies).axes
    assert axes.get_title() == f"smallest E-BFMI of 3 chains: {ebfmi(energies).min():.2f}"
    shown = {"energy around its mean": energies - energies.mean(), "change in one transition": energies.diff(dim=1)}
    assert {patch.get_label() for patch in axes.patches} == set(shown)
    for patch in axes.patches:
        outline = patch.get_xy()  # two corners per bin between two on the ground
        densities, _ = np.histogram(shown[patch.get_label()], outline[::2, 0], density=True)
        np.testing.assert_allclose(outline[1:-1:2, 1], densities)


def test_draws_lie_over_contours_of_their_mass() -> None:
    """Contours of a standard normal density are circles with radius sqrt(-2 log(1 - mass))."""
    draws = normal(4, 3 * MAX_POINTS, 2)
    figure = plot_draws(gaussian, draws, limits=((-5.0, 5.0), (-4.0, 4.0)))
    (axes,) = figure.axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((-5.0, 5.0), (-4.0, 4.0))
    assert foot(figure) == f"Shown: {MAX_POINTS} of {12 * MAX_POINTS} draws"
    assert len(axes.lines[0].get_xdata()) == MAX_POINTS
    (contours,) = axes.collections
    for path, mass in zip(contours.get_paths(), CONTOUR_MASSES, strict=True):
        radii = np.linalg.norm(path.vertices, axis=1)
        np.testing.assert_allclose(radii, np.sqrt(-2 * np.log(1 - mass)), rtol=0.01)


def test_draws_of_a_bounded_density_set_the_limits() -> None:
    draws = normal(4, 100, 2).square()
    draws[0, 0] = torch.nan
    figure = plot_draws(lambda x: torch.where((x > 0).all(dim=1), x.sum(dim=1), torch.inf), draws)
    figure.savefig(BytesIO())
    low, high = figure.axes[0].get_xlim()
    assert low < draws[..., 0].nan_to_num().min() < draws[..., 0].nan_to_num().max() < high


def test_draws_that_are_not_finite_are_left_out() -> None:
    draws = normal(2, 30, 2)
    draws[0, 3, 1] = torch.inf
    for plot in (plot_trace, plot_rank, plot_pairs):
        plot(draws).savefig(BytesIO())
    with pytest.warns(DiagnosticWarning):
        plot_autocorrelation(draws).savefig(BytesIO())
    with pytest.warns(DiagnosticWarning):
        plot_energy(draws[..., 1]).savefig(BytesIO())
    with pytest.raises(ParameterError, match="no draw is finite"):
        plot_draws(gaussian, torch.full((2, 5, 2), torch.nan))


@pytest.mark.parametrize("shape", [(4, 10), (4, 10, 3), (4, 10, 2, 2)])
def test_draws_not_in_the_plane_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match=r"shape \(chain, draw, 2\)"):
        plot_draws(gaussian, torch.zeros(shape))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib.*lamina\[plots\]"):
        plot_trace(normal(2, 10))
