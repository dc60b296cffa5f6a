"""How good a trained model is: its samples, its prior, its likelihood, outliers, its hierarchy.

One concern per file; every figure says what it was measured on, and what it is not.

| part of `lamina evaluate` | file |
| --- | --- |
| comparison | `comparison`: the priors of a run against held-out data, after every training |
| generation | `generation`, by `measures` and `manifolds`, on `features`: of `lenet`, `imagenet` or `networks` |
| prior | `latents` |
| likelihood | `likelihood` |
| outliers | `outliers`, and `selection` for the blind rule |
| hierarchy | `hierarchy` |
| chains | `chains`, of the chains of `short_runs` |
"""

from .comparison import Evaluation, evaluate, table
from .features import check_features, features_of
from .imagenet import imagenet_features
from .lenet import lenet_features, lenet_path
from .likelihood import annealed_evidence, importance_weights, log_normalizer_bounds, reverse_log_normalizer
from .manifolds import Overlap, overlap
from .networks import Features, NetworkFeatures
from .outliers import Detection, Scorer, detection, detections, share_without_number
from .parts import PARTS, finite, summary_table
from .selection import Choice, Combination, Typicality, choose, damaged_sets
from .subject import Budget, Subject

__all__ = [
    "PARTS",
    "Budget",
    "Choice",
    "Combination",
    "Detection",
    "Evaluation",
    "Features",
    "NetworkFeatures",
    "Overlap",
    "Scorer",
    "Subject",
    "Typicality",
    "annealed_evidence",
    "check_features",
    "choose",
    "damaged_sets",
    "detection",
    "detections",
    "evaluate",
    "features_of",
    "finite",
    "imagenet_features",
    "importance_weights",
    "lenet_features",
    "lenet_path",
    "log_normalizer_bounds",
    "overlap",
    "reverse_log_normalizer",
    "share_without_number",
    "summary_table",
    "table",
]
