"""Toy densities with exact truth: each is an energy callable that knows its own law.

A density maps chains (C, D) to energies (C,) in nats and declares what is true of exp(-energy): exact
independent draws, log normaliser, moments and marginal distribution functions. So a sampler can be
measured against truth instead of against another sampler.

| name                  | class             | D  | reveals                                           |
| --------------------- | ----------------- | -- | ------------------------------------------------- |
| `correlated_gaussian` | `Gaussian`        | 2  | a wrong metric, its inverse, an assumed zero mean |
| `stiff_gaussian`      | `Gaussian`        | 10 | steps tied to the narrowest direction             |
| `ring_mixture`        | `GaussianMixture` | 2  | chains that stay in the mode where they began     |
| `unequal_mixture`     | `GaussianMixture` | 2  | modes visited in the wrong proportion             |
| `banana`              | `Banana`          | 2  | moves that follow straight lines only             |
| `rosenbrock`          | `Rosenbrock`      | 2  | a narrow, curved valley                           |
| `funnel`              | `Funnel`          | 10 | one step size for two scales, divergences         |
| `double_well`         | `DoubleWell`      | 2  | bias and rare crossings at a barrier              |
| `dual_moon`           | `DualMoon`        | 2  | curved modes joined only around a ring            |
| `log_gamma`           | `LogGamma`        | 2  | sign and reversal errors that symmetry cancels    |

Example:
    >>> import torch
    >>> from lamina.benchmarks.densities import make_density
    >>> banana = make_density("banana")
    >>> x = banana.sample(1000, generator=torch.Generator().manual_seed(0))
    >>> banana(x).shape, banana.second_moment.tolist()
    (torch.Size([1000]), [4.0, 3.0])
"""

from __future__ import annotations

from .banana import Banana as Banana
from .base import Box as Box
from .base import Density as Density
from .double_well import DoubleWell as DoubleWell
from .dual_moon import DualMoon as DualMoon
from .funnel import Funnel as Funnel
from .gaussian import Gaussian as Gaussian
from .gaussian_mixture import GaussianMixture as GaussianMixture
from .log_gamma import LogGamma as LogGamma
from .registry import DENSITIES as DENSITIES
from .registry import make_density as make_density
from .rosenbrock import Rosenbrock as Rosenbrock
