"""Image data, read from local files and verified, and the order in which its rows are visited."""

from .batches import BatchStream
from .catalogue import DATASETS, FORMS, load
from .folder import PREFIX as FOLDER
from .held_out import held_out
from .idx import PREFIX as IDX
from .images import ImageData, plain_name
from .poses import posed, split_pose

__all__ = [
    "DATASETS",
    "FOLDER",
    "FORMS",
    "IDX",
    "BatchStream",
    "ImageData",
    "held_out",
    "load",
    "plain_name",
    "posed",
    "split_pose",
]
