"""Densities with exact truth, and posteriors with a reference: each is an energy that knows its own law.

A density maps chains (C, D) to energies (C,) in nats and declares what is true of exp(-energy): exact
independent draws, log normaliser, moments and marginal distribution functions. So a sampler can be
measured against truth instead of against another sampler.

| name                       | class             | D   | reveals                                           |
| -------------------------- | ----------------- | --- | ------------------------------------------------- |
| `correlated_gaussian`      | `Gaussian`        | 2   | a wrong metric, its inverse, an assumed zero mean |
| `stiff_gaussian`           | `Gaussian`        | 10  | steps tied to the narrowest direction             |
| `ill_conditioned_gaussian` | `Gaussian`        | 100 | trajectories too short for the widest directions  |
| `ring_mixture`             | `GaussianMixture` | 2   | chains that stay in the mode where they began     |
| `unequal_mixture`          | `GaussianMixture` | 2   | modes visited in the wrong proportion             |
| `forty_modes`              | `GaussianMixture` | 2   | scattered modes that local moves never find       |
| `banana`                   | `Banana`          | 2   | moves that follow straight lines only             |
| `rosenbrock`               | `Rosenbrock`      | 2   | a narrow, curved valley                           |
| `block_rosenbrock`         | `BlockRosenbrock` | 36  | many curved valleys at once                       |
| `funnel`                   | `Funnel`          | 10  | one step size for two scales, divergences         |
| `double_well`              | `DoubleWell`      | 2   | bias and rare crossings at a barrier              |
| `product_double_well`      | `DoubleWell`      | 16  | more modes than draws                             |
| `many_well`                | `ManyWell`        | 32  | wells of unequal mass behind high barriers        |
| `dual_moon`                | `DualMoon`        | 2   | curved modes joined only around a ring            |
| `log_gamma`                | `LogGamma`        | 2   | sign and reversal errors that symmetry cancels    |
| `styblinski_tang`          | `StyblinskiTang`  | 2   | wells of unequal depth                            |
| `rastrigin`                | `Rastrigin`       | 2   | a lattice of narrow modes                         |
| `network_tilt`             | `NetworkTilt`     | 2   | what only happens with gradients of networks      |

A posterior has no exact draws. It declares moments of its parameters, with their errors, from published
reference draws, from quadrature or, for the lattices of physics that share the contract, from long runs.

| name                     | class                  | D  | reveals                                         |
| ------------------------ | ---------------------- | -- | ----------------------------------------------- |
| `eight_schools`          | `EightSchools`         | 10 | a mild funnel with a heavy tail                 |
| `centered_eight_schools` | `CenteredEightSchools` | 10 | a funnel in real life                           |
| `vote`                   | `Vote`                 | 2  | a narrow, correlated ridge                      |
| `wells`                  | `Wells`                | 3  | the cost of a real likelihood                   |
| `phi4`                   | `Phi4`                 | 64 | critical slowing down: sites that move together |
| `ordered_phi4`           | `Phi4`                 | 64 | two phases that all sites must cross together   |

Other distributions add densities to `make_density` by an entry point in the group `lamina.densities`.

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
from .base import Target as Target
from .block_rosenbrock import BlockRosenbrock as BlockRosenbrock
from .double_well import DoubleWell as DoubleWell
from .dual_moon import DualMoon as DualMoon
from .eight_schools import CenteredEightSchools as CenteredEightSchools
from .eight_schools import EightSchools as EightSchools
from .funnel import Funnel as Funnel
from .gaussian import Gaussian as Gaussian
from .gaussian_mixture import GaussianMixture as GaussianMixture
from .log_gamma import LogGamma as LogGamma
from .logistic_regression import Vote as Vote
from .logistic_regression import Wells as Wells
from .many_well import ManyWell as ManyWell
from .network_tilt import NetworkTilt as NetworkTilt
from .phi4 import Phi4 as Phi4
from .rastrigin import Rastrigin as Rastrigin
from .reference_target import ReferenceTarget as ReferenceTarget
from .registry import DENSITIES as DENSITIES
from .registry import REFERENCE_TARGETS as REFERENCE_TARGETS
from .registry import density_names as density_names
from .registry import make_density as make_density
from .registry import make_reference_target as make_reference_target
from .rosenbrock import Rosenbrock as Rosenbrock
from .separable import SeparableDensity as SeparableDensity
from .styblinski_tang import StyblinskiTang as StyblinskiTang
