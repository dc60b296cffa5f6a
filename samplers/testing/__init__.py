"""Is a kernel exact, and does it keep its contract? `check_kernel` says so of any kernel, yours among them.

>>> from lamina.samplers import MALA
>>> from lamina.samplers.testing import check_kernel
>>> check_kernel(MALA(), num_chains=5000, max_shift=0.1).assert_passed()

Its parts can be had apart: `check_invariance` on a target of your own, `check_integrator` for trajectories,
`check_calibration` for posterior samplers, the small targets with exact draws, and the Kolmogorov distances and bands
on which the statistical tests rest.
"""

from .bands import CDF, detectable_shift, dkw_half_width, ks_one_sample, ks_two_sample
from .battery import Check, Memory, Report, check_kernel
from .calibration import CalibrationReport, check_calibration, sbc_ranks
from .integrators import HasTrajectory, Integrate, IntegratorReport, check_integrator
from .invariance import Comparison, InvarianceReport, check_invariance
from .targets import TARGETS, Banana, Bimodal, ExactTarget, Funnel, HalfLine, Skewed, SmallTarget

__all__ = [
    "CDF",
    "TARGETS",
    "Banana",
    "Bimodal",
    "CalibrationReport",
    "Check",
    "Comparison",
    "ExactTarget",
    "Funnel",
    "HalfLine",
    "HasTrajectory",
    "Integrate",
    "IntegratorReport",
    "InvarianceReport",
    "Memory",
    "Report",
    "Skewed",
    "SmallTarget",
    "check_calibration",
    "check_integrator",
    "check_invariance",
    "check_kernel",
    "detectable_shift",
    "dkw_half_width",
    "ks_one_sample",
    "ks_two_sample",
    "sbc_ranks",
]
