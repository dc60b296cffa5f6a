"""The discretised logistic mixture: probabilities of levels that add up to one, and what they are made of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from lamina.models import GaussianLikelihood, LogisticMixtureLikelihood, MLPGenerator, seeded_init
from lamina.samplers import ParameterError

COMPONENTS = 3


class Fixed(nn.Module):
    """A generator that makes one and the same image."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)

    def forward(self, z: tuple[Tensor, ...]) -> Tensor:
        return self.image.expand(len(z[0]), *self.image.shape)


def make(channels: int, levels: int, *, spread: float = 1.0, log_scale: float = -2.0) -> LogisticMixtureLikelihood:
    """For images of a single pixel."""
    count = LogisticMixtureLikelihood.parameters_per_pixel(channels, COMPONENTS)
    made = spread * torch.randn((count, 1, 1), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    first = (1 + channels) * COMPONENTS
    made[first : first + channels * COMPONENTS] += log_scale
    return LogisticMixtureLikelihood(Fixed(made), channels, components=COMPONENTS, levels=levels)


def z_for(x: Tensor) -> tuple[Tensor, ...]:
    return (torch.zeros(len(x), 1),)


def all_pixels(channels: int, levels: int) -> Tensor:
    axis = torch.linspace(-1, 1, levels, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * channels).reshape(-1, channels, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize("log_scale", [-30.0, -7.0, -4.0, -1.0, 3.0])
@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize(("channels", "levels"), [(1, 256), (1, 17), (1, 2), (2, 16), (3, 7)])
def test_probabilities_of_all_levels_add_up_to_one(channels: int, levels: int, spread: float, log_scale: float) -> None:
    likelihood, x = make(channels, levels, spread=spread, log_scale=log_scale), all_pixels(channels, levels)
    log_prob = likelihood.log_prob(x, z_for(x))
    assert log_prob.shape == (levels**channels,)
    assert (log_prob <= 0).all()
    total = torch.logsumexp(log_prob, 0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-10)
    single = likelihood.float().log_prob(x.float(), z_for(x))
    assert single.logsumexp(0).abs() < 2e-4


@torch.no_grad()
def test_grey_levels_have_the_mass_between_midpoints() -> None:
    likelihood, x = make(1, 32), all_pixels(1, 32)
    logits, means, log_scales = (part.flatten().numpy() for part in likelihood.generator.image.chunk(3))
    edges = np.concatenate([[-np.inf], np.arange(-1 + 1 / 31, 1, 2 / 31), [np.inf]])
    cdf = stats.logistic(means, np.exp(np.maximum(log_scales, -7))).cdf(edges[:, None])
    mass = np.diff(cdf, axis=0) @ (np.exp(logits) / np.exp(logits).sum())
    torch.testing.assert_close(likelihood.log_prob(x, z_for(x)).exp(), torch.from_numpy(mass), rtol=1e-9, atol=1e-14)


@torch.no_grad()
def test_channels_shift_the_means_of_those_after_them() -> None:
    """Two channels, one component: the law of the second given the first is logistic around mu_2 + a x_1."""
    mu, log_scale, slope, levels = (0.1, -0.3), (-2.0, -1.5), 0.7, 9
    made = torch.tensor([0.0, *mu, *log_scale, slope], dtype=torch.float64).reshape(-1, 1, 1)
    likelihood = LogisticMixtureLikelihood(Fixed(made), 2, components=1, levels=levels)
    x = all_pixels(2, levels)
    joint = likelihood.log_prob(x, z_for(x)).exp().reshape(levels, levels).numpy()
    edges = np.concatenate([[-np.inf], np.arange(-1 + 1 / 8, 1, 2 / 8), [np.inf]])
    first = np.diff(stats.logistic(mu[0], np.exp(log_scale[0])).cdf(edges))
    for index, level in enumerate(np.linspace(-1, 1, levels)):
        second = np.diff(stats.logistic(mu[1] + slope * level, np.exp(log_scale[1])).cdf(edges))
        np.testing.assert_allclose(joint[index], first[index] * second, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("log_scale", [-5.0, -2.0, 0.0])
def test_mean_is_that_of_the_levels_up_to_rounding(log_scale: float) -> None:
    """Rounding moves a value by half a level at most, and so a mean; where laws are wide, by far less."""
    likelihood, x = make(1, 256, log_scale=log_scale), all_pixels(1, 256)
    exact = (likelihood.log_prob(x, z_for(x)).exp() * x.flatten()).sum()
    ours = likelihood.mean(z_for(x))[0].squeeze()
    assert -1 <= ours <= 1
    assert (ours - exact).abs() <= (1 / 255 if log_scale < -3 else 1e-5)


@torch.no_grad()
def test_mean_in_colour_where_nothing_is_clipped() -> None:
    made = torch.tensor([0.0, 0.1, 0.2, -0.1, -6.0, -6.0, -6.0, 0.5, -0.4, 0.3], dtype=torch.float64).reshape(-1, 1, 1)
    likelihood = LogisticMixtureLikelihood(Fixed(made), 3, components=1)
    second = 0.2 + 0.5 * 0.1
    expected = torch.tensor([0.1, second, -0.1 - 0.4 * 0.1 + 0.3 * second], dtype=torch.float64)
    torch.testing.assert_close(likelihood.mean(z_for(torch.zeros(1)))[0].flatten(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_scale", [-30.0, -7.0, 5.0])
def test_gradients_stay_finite_far_from_the_data(log_scale: float, dtype: torch.dtype) -> None:
    likelihood = make(3, 256, spread=5.0, log_scale=log_scale).to(dtype)
    x = all_pixels(3, 3).to(dtype)
    log_prob = likelihood.log_prob(x, z_for(x))
    assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), likelihood.generator.image)
    assert gradient.isfinite().all()


def test_pixels_of_an_image_are_independent_and_rows_their_own() -> None:
    with seeded_init(0):
        generator = MLPGenerator((3,), (2 * 10, 2, 4), [8], squash=False).double()
    likelihood = LogisticMixtureLikelihood(generator, 3, components=2, levels=5)
    z = (torch.randn((6, 3), generator=torch.Generator().manual_seed(0)).double(),)
    x = (torch.randint(0, 5, (6, 3, 2, 4), generator=torch.Generator().manual_seed(1)) / 2 - 1).double()
    whole = likelihood.log_prob(x, z)
    assert likelihood.mean(z).shape == x.shape
    made = generator(z)
    for row, (height, width) in itertools.product(range(6), itertools.product(range(2), range(4))):
        pixel = LogisticMixtureLikelihood(
            Fixed(made[row, :, height, width].reshape(-1, 1, 1)), 3, components=2, levels=5
        )
        whole[row] = whole[row] - pixel.log_prob(x[row, :, height, width].reshape(1, 3, 1, 1), (z[0][:1],))[0]
    torch.testing.assert_close(whole, torch.zeros_like(whole), rtol=0, atol=1e-10)


def test_images_and_parameters_that_do_not_fit_are_refused() -> None:
    likelihood = make(1, 256)
    for wrong in (torch.zeros(2, 2, 1, 1), torch.zeros(2, 1, 1), torch.zeros(3, 1, 1, 1)):
        with pytest.raises(ParameterError, match=r"row by row.*\(2, 1, 1, 1\)"):
            likelihood.log_prob(wrong.double(), (torch.zeros(2, 1),))
    for kind in ({"channels": 0}, {"components": 0}, {"levels": 1}):
        with pytest.raises(ParameterError, match=next(iter(kind))):
            LogisticMixtureLikelihood(nn.Identity(), **{"channels": 1, **kind})
    with pytest.raises(ParameterError, match="images of 9 channels; got"):
        LogisticMixtureLikelihood(Fixed(torch.zeros(8, 1, 1)), 1, components=3).mean((torch.zeros(2, 1),))


def test_learnt_sigma_finds_the_root_mean_square() -> None:
    """At the optimum it is that of the residuals; where it starts is the number given."""
    with seeded_init(0):
        generator = MLPGenerator((2,), (1, 2, 3), [4])
        fixed, learnt = (GaussianLikelihood(generator, 0.3, learns_sigma=learns).double() for learns in (False, True))
    z = (torch.randn((50, 2), generator=torch.Generator().manual_seed(0)).double(),)
    x = torch.randn((50, 1, 2, 3), generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(learnt.log_prob(x, z), fixed.log_prob(x, z), rtol=1e-6, atol=1e-6)
    assert len(list(learnt.parameters())) == len(list(fixed.parameters())) + 1
    optimum = (x - learnt.mean(z)).square().mean().sqrt().log()
    learnt._log_sigma.data.copy_(optimum)
    (gradient,) = torch.autograd.grad(learnt.log_prob(x, z).mean(), learnt._log_sigma)
    assert abs(gradient) < 1e-10
    torch.testing.assert_close(learnt.sigma, optimum.exp())
