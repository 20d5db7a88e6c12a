"""The one intensity preprocessing that training, evaluation, fine-tuning and inference share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

OUTSIDE = -1.0
"""Preprocessed intensity of positions outside the volume, in training as in inference."""

FLOAT32_HIGHEST, FLOAT32_NARROWEST = 1e30, 1e-30
"""Largest intensity and narrowest range that are mapped in float32, which holds 1e-38 to 3e38 in full precision."""

CONSTANT_SPAN = 1e-6
"""Range given to a constant image, relative to its value: it has to be wide enough to be cut into bins."""


@dataclass(frozen=True)
class PreprocessingConfig:
    """Parameters of :class:`IntensityMapping`; stored in ``config.json``.

    Raises:
        ValueError: if the percentiles are not ordered or a field is out of range.
    """

    low_percentile: float = 0.1
    """Intensities below this percentile of the image are clipped."""
    high_percentile: float = 99.9
    """Intensities above this percentile of the image are clipped."""
    num_bins: int = 256
    """Bins of the histogram between the two."""
    clip_limit: float = 4.0
    """Largest share of a bin, in multiples of a flat histogram's; bounds how much contrast is raised."""
    equalization: float = 0.6
    """Weight of the equalised intensity against the linear one, 0 to 1."""
    max_samples: int = 2_000_000
    """Voxels, taken at regular steps, that the histogram is made of."""

    def __post_init__(self) -> None:
        if not 0 <= self.low_percentile < self.high_percentile <= 100:
            raise ValueError(
                f"low_percentile={self.low_percentile} and high_percentile={self.high_percentile}: "
                "expected 0 <= low < high <= 100"
            )
        if not 0 <= self.equalization <= 1 or self.num_bins < 2 or self.clip_limit < 1:
            raise ValueError(
                f"equalization={self.equalization} (0 to 1), num_bins={self.num_bins} (2 or more), "
                f"clip_limit={self.clip_limit} (1 or more): one is out of range"
            )


@dataclass(frozen=True)
class IntensityMapping:
    """A monotone piecewise-linear map from an image's intensities to [-1, 1].

    It mixes the linear range with a contrast-limited equalised one, so the same few numbers describe CT in Hounsfield
    units, MR in arbitrary units and PET with hot spots, and soft tissue keeps contrast beside air and bone.

    Source: Zuiderveld, Contrast Limited Adaptive Histogram Equalization, 1994 (global here, not adaptive).

    Attributes:
        low: intensity mapped to -1.
        high: intensity mapped to 1.
        table: (num_bins + 1,) float32, outputs at equal steps from low to high.
    """

    low: float
    high: float
    table: np.ndarray

    @classmethod
    def from_array(cls, array: np.ndarray, config: PreprocessingConfig | None = None) -> IntensityMapping:
        """Measures an image.

        Args:
            array: intensities, any shape and numeric dtype.
            config: parameters.

        Returns:
            The mapping. Cost bounded by ``max_samples``.
        """
        config = config or PreprocessingConfig()
        samples = subsample(array, config.max_samples)
        low, high = (float(v) for v in np.percentile(samples, [config.low_percentile, config.high_percentile]))
        if high <= low or not ((samples >= low) & (samples <= high)).any():  # nearly constant, or a few voxels
            low, high = float(samples.min()), float(samples.max())
        if high <= low:
            high = low + max(1.0, abs(low) * CONSTANT_SPAN)
        histogram = np.histogram(samples, bins=config.num_bins, range=(low, high))[0].astype(np.float64)
        share = histogram / max(histogram.sum(), 1.0)
        limit = config.clip_limit / config.num_bins
        excess = np.maximum(share - limit, 0).sum()
        share = np.minimum(share, limit) + excess / config.num_bins
        equalized = np.concatenate([[0.0], np.cumsum(share / share.sum())])
        linear = np.linspace(0.0, 1.0, config.num_bins + 1)
        mixed = config.equalization * equalized + (1 - config.equalization) * linear
        return cls(low, high, (2 * mixed - 1).astype(np.float32))

    def map_array(self, array: np.ndarray) -> Tensor:
        """Maps a numpy array to a float32 tensor in [-1, 1]; short integers by one look-up per voxel."""
        if array.dtype in (np.uint8, np.int8, np.uint16, np.int16):
            limits = np.iinfo(array.dtype)
            return torch.from_numpy(self._lookup(limits.min, limits.max)[array.astype(np.int32) - limits.min])
        largest, mapping = max(abs(self.low), abs(self.high)), self
        with np.errstate(over="ignore"):  # what float32 does not hold then lies far outside the range, and is clipped
            if largest > FLOAT32_HIGHEST or self.high - self.low < FLOAT32_NARROWEST:
                exponent = -int(np.frexp(largest)[1])  # a power of two changes no digit
                low, high = (float(np.ldexp(v, exponent)) for v in (self.low, self.high))
                array, mapping = np.ldexp(array.astype(np.float64), exponent), IntensityMapping(low, high, self.table)
            # A copy: torch takes no read-only memory, and no axis of one voxel that runs backwards.
            return mapping(torch.from_numpy(np.array(array, dtype=np.float32, order="C")))

    def _lookup(self, low: int, high: int) -> np.ndarray:
        """Outputs for every integer from low to high: (high - low + 1,) float32."""
        cached = self.__dict__.get("_lookup_table")
        if cached is None or len(cached) != high - low + 1:
            cached = self(torch.arange(low, high + 1, dtype=torch.float32)).numpy()
            object.__setattr__(self, "_lookup_table", cached)
        return cached

    def __call__(self, intensities: Tensor) -> Tensor:
        """Maps intensities, any shape, to float32 in [-1, 1]."""
        bins = len(self.table) - 1
        position = ((intensities.float() - self.low) * (bins / (self.high - self.low))).clamp_(0, bins)
        index = position.to(torch.int32).clamp_(max=bins - 1)
        table = torch.from_numpy(self.table).to(intensities.device)
        slope = torch.diff(table)
        return table[index] + slope[index] * (position - index)


def subsample(array: np.ndarray, max_samples: int) -> np.ndarray:
    """Voxels at regular steps along each axis, at most about ``max_samples``, flat, in a float dtype."""
    step = max(1, int(np.ceil((array.size / max_samples) ** (1 / array.ndim))))
    while np.prod([-(-n // step) for n in array.shape]) > 2 * max_samples:  # single slices, which have fewer axes
        step += 1
    samples = array[(slice(None, None, step),) * array.ndim].reshape(-1)
    return samples.astype(np.float32 if samples.dtype.itemsize <= 2 else np.float64)
