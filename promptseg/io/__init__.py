"""Reading and writing of 3D images, whatever their format: one reader each, behind two functions."""

from __future__ import annotations

from .atomic import atomic_path
from .files import SEGMENTATION_SUFFIX, WRITABLE_SUFFIXES, read_volume, write_labels, write_volume

__all__ = ["SEGMENTATION_SUFFIX", "WRITABLE_SUFFIXES", "atomic_path", "read_volume", "write_labels", "write_volume"]
