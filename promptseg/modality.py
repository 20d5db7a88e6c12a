"""A guess at what kind of image an array is, from its intensities; for display and reports, never for the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ModalityGuess:
    """A modality and why it was guessed.

    Attributes:
        name: ``CT``, ``PET``, ``MR`` or ``label map``.
        reason: what in the intensities speaks for it.
    """

    name: str
    reason: str


def guess_modality(array: np.ndarray) -> ModalityGuess:
    """Guesses the modality of an image.

    Args:
        array: intensities, any shape and numeric dtype, as stored (CT in Hounsfield units).

    Returns:
        The guess; cost bounded by half a million voxels.

    Example:
        >>> guess_modality(np.linspace(-1000, 1500, 1000).reshape(10, 10, 10)).name
        'CT'
    """
    from .preprocessing import subsample

    samples = subsample(array, 500_000)
    low, high = (float(v) for v in np.percentile(samples, [0.5, 99.9]))
    if _is_label_map(array, samples):
        return ModalityGuess("label map", f"{len(np.unique(samples))} whole values in flat regions")
    if low <= -150 and high >= 100:
        return ModalityGuess("CT", f"values from {low:g} to {high:g}, as Hounsfield units")
    positive = samples[samples > 0]
    if low >= 0 and len(positive):
        ninety, peak = (float(v) for v in np.percentile(positive, [90, 99.9]))
        if peak / ninety > 2.8:
            return ModalityGuess("PET", f"no negative values, and a few {peak / ninety:.0f} times as bright as most")
    return ModalityGuess("MR", f"values from {low:g} to {high:g}, not those of CT or PET")


def _is_label_map(array: np.ndarray, samples: np.ndarray) -> bool:
    """Few whole values, and beside a foreground voxel nearly always its own value."""
    if samples.min() < 0 or samples.max() == 0 or len(np.unique(samples)) > 300:
        return False
    if array.dtype.kind not in "iub" and not np.array_equal(samples, np.rint(samples)):
        return False
    longest, across = np.argsort(array.shape)[::-1][:2]
    chosen = np.linspace(0, array.shape[across] - 1, 9).astype(int)
    slices = np.moveaxis(array, longest, 0).take(chosen, axis=int(across) + int(across < longest))
    foreground = slices[:-1] > 0
    return bool(foreground.any()) and float((slices[:-1] == slices[1:])[foreground].mean()) > 0.7
