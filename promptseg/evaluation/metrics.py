"""Scores of one segmented object against its ground truth.

What empty masks score, for every metric:

=================  ==================  ==============================  ===========================
metric             both empty          truth empty, prediction not     prediction empty, truth not
=================  ==================  ==============================  ===========================
Dice, IoU, NSD     1                   0                               0
lesion-wise F1     1                   0                               0
HD95               0                   the image's diagonal            the image's diagonal
volume error       0                   infinite                        -1
=================  ==================  ==============================  ===========================

Surface distances are those of :mod:`.surfaces`. A distance that equals the tolerance but for rounding is within it.

Source: Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
radiotherapy", arXiv:1809.04430 (NSD; HD95 weighted by area).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .boxes import bounding_box, slices
from .components import number_components
from .surfaces import Surface

LESION_MIN_IOU = 0.1
"""Smallest IoU at which a predicted component counts as having found a true one."""
ROUNDING = 1e-6
"""Relative; distance transforms are computed in float32, and five voxels of 0.4 mm have to be within 2 mm."""


@dataclass(frozen=True)
class Scores:
    """How well a mask fits.

    Attributes:
        dice: Dice coefficient, 0 to 1.
        iou: intersection over union, 0 to 1.
        nsd: normalised surface Dice at the tolerance asked for, 0 to 1.
        hd95_mm: 95th percentile of the surface distance, the larger of both directions.
        volume_error: predicted volume minus true, as a share of the true one.
        lesion_f1: F1 of 26-connected components, 0 to 1.
    """

    dice: float
    iou: float
    nsd: float
    hd95_mm: float
    volume_error: float
    lesion_f1: float


class TrueObject:
    """The ground truth of one object, with what several predictions are compared with computed once.

    Args:
        mask: (I, J, K) bool; may be a crop that holds the whole object.
        spacing_mm: (3,) voxel sides.
        origin: (3,) first voxel of the crop in the image.
        image_shape: (3,) of the image; None for the crop's.
        tolerance_mm: of the normalised surface Dice.
        unknown: (I, J, K) bool of the whole image: voxels of which the labels do not say what they are, where a
            prediction is neither right nor wrong; None for none.

    Example:
        >>> truth = TrueObject(np.ones((4, 4, 4), bool), (1, 1, 1))
        >>> truth.score(np.ones((4, 4, 4), bool)).dice
        1.0
    """

    def __init__(
        self,
        mask: np.ndarray,
        spacing_mm: Sequence[float],
        origin: Sequence[int] = (0, 0, 0),
        image_shape: Sequence[int] | None = None,
        tolerance_mm: float = 2.0,
        unknown: np.ndarray | None = None,
    ) -> None:
        self.spacing_mm = np.asarray(spacing_mm, dtype=np.float64)
        self.tolerance_mm = tolerance_mm
        self.image_shape = tuple(int(n) for n in (image_shape or mask.shape))
        box = bounding_box(mask) or (np.zeros(3, dtype=int), np.zeros(3, dtype=int))
        self.mask = np.ascontiguousarray(mask[slices(*box)])
        self.low = box[0] + np.asarray(origin, dtype=int)
        self.high = box[1] + np.asarray(origin, dtype=int)
        self.num_voxels = int(np.count_nonzero(self.mask))
        self.unknown = unknown
        self._surface: Surface | None = None

    @property
    def surface(self) -> Surface:
        """Its surface, computed at the first call."""
        if self._surface is None:
            self._surface = Surface.from_mask(self.mask, self.spacing_mm.tolist(), self.low.tolist())
        return self._surface

    def forget_surface(self) -> None:
        """Frees its surface, with what was computed of it: up to 128 MB, which a hundred objects would not share."""
        self._surface = None

    @property
    def worst_mm(self) -> float:
        """Diagonal of the image: the distance that an empty mask scores."""
        return float(np.linalg.norm(np.array(self.image_shape) * self.spacing_mm))

    def crop(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The mask in a half-open box of the image, (n0, n1, n2) bool."""
        out = np.zeros(np.maximum(high - low, 0), dtype=bool)
        first, last = np.maximum(low, self.low), np.minimum(high, self.high)
        if (first < last).all():
            out[slices(first - low, last - low)] = self.mask[slices(first - self.low, last - self.low)]
        return out

    def count_inside(self, predicted: np.ndarray) -> int:
        """Voxels of a prediction (I, J, K) bool of the whole image that lie in the object."""
        return int(np.count_nonzero(predicted[slices(self.low, self.high)] & self.mask))

    def union_crops(self, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth and prediction in the smallest box that holds both; nothing is predicted where nobody knows the truth.

        Args:
            predicted: (I, J, K) bool of the whole image.

        Returns:
            First voxel (3,) of the box, and two (n0, n1, n2) bool arrays; of no voxels if both are empty.

        Raises:
            ValueError: for a prediction of another shape than the image.
        """
        if tuple(predicted.shape) != self.image_shape:
            raise ValueError(f"prediction of shape {predicted.shape}: expected the image's grid, {self.image_shape}")
        if self.unknown is not None:
            predicted = predicted & ~self.unknown
        low, high = self.low, self.high
        box = bounding_box(predicted)
        if box is not None and self.num_voxels:
            low, high = np.minimum(low, box[0]), np.maximum(high, box[1])
        elif box is not None:
            low, high = box
        return low, self.crop(low, high), np.ascontiguousarray(predicted[slices(low, high)])

    def score(self, predicted: np.ndarray) -> Scores:
        """All metrics of a prediction.

        Args:
            predicted: (I, J, K) bool of the whole image.

        Raises:
            ValueError: for another shape than the image.
        """
        return self.score_crops(*self.union_crops(predicted))

    def score_crops(self, low: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> Scores:
        """All metrics, of what :meth:`union_crops` returned."""
        both = int(np.count_nonzero(truth & predicted))
        claimed = int(np.count_nonzero(predicted))
        nsd, hd95_mm = self._surface_scores(low, predicted, claimed)
        return Scores(
            dice=_ratio(2 * both, self.num_voxels + claimed),
            iou=_ratio(both, self.num_voxels + claimed - both),
            nsd=nsd,
            hd95_mm=hd95_mm,
            volume_error=volume_error(self.num_voxels, claimed),
            lesion_f1=lesion_f1(truth, predicted),
        )

    def _surface_scores(self, low: np.ndarray, predicted: np.ndarray, claimed: int) -> tuple[float, float]:
        if not claimed or not self.num_voxels:
            is_right = claimed == self.num_voxels
            return (1.0, 0.0) if is_right else (0.0, self.worst_mm)
        mine = self.surface
        other = Surface.from_mask(predicted, self.spacing_mm.tolist(), low.tolist())
        there, back = mine.distances_to(other), other.distances_to(mine)
        limit = self.tolerance_mm * (1 + ROUNDING)
        near = mine.areas_mm2[there <= limit].sum() + other.areas_mm2[back <= limit].sum()
        nsd = float(near / (mine.areas_mm2.sum() + other.areas_mm2.sum()))
        return nsd, max(_weighted_quantile(there, mine.areas_mm2), _weighted_quantile(back, other.areas_mm2))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float = 0.95) -> float:
    """Smallest value that ``share`` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    place = int(np.searchsorted(cumulative / cumulative[-1], share))
    return float(values[order][min(place, len(values) - 1)])


def dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Dice coefficient of two bool arrays of one shape; 1 if both are empty."""
    both = int(np.count_nonzero(truth & predicted))
    return _ratio(2 * both, int(np.count_nonzero(truth)) + int(np.count_nonzero(predicted)))


def volume_error(true_voxels: int, predicted_voxels: int) -> float:
    """Predicted volume minus true, as a share of the true one.

    Example:
        >>> volume_error(100, 80)
        -0.2
    """
    if true_voxels == 0:
        return 0.0 if predicted_voxels == 0 else float("inf")
    return (predicted_voxels - true_voxels) / true_voxels


def lesion_f1(truth: np.ndarray, predicted: np.ndarray, min_iou: float = LESION_MIN_IOU) -> float:
    """F1 of finding the 26-connected components of the truth.

    Components are paired one to one, the pair with the largest IoU first; a pair counts from ``min_iou`` on.

    Args:
        truth: (I, J, K) bool.
        predicted: (I, J, K) bool.
        min_iou: smallest IoU of a pair.

    Returns:
        2 TP / (2 TP + FP + FN); 1 if there is no component at all.
    """
    mine, num_mine = number_components(truth)
    other, num_other = number_components(predicted)
    if num_mine + num_other == 0:
        return 1.0
    if not num_mine or not num_other:
        return 0.0
    mine_sizes = np.bincount(mine[truth], minlength=num_mine + 1)
    other_sizes = np.bincount(other[predicted], minlength=num_other + 1)
    overlap = truth & predicted
    pairs = mine[overlap].astype(np.int64) * (num_other + 1) + other[overlap]
    if (num_mine + 1) * (num_other + 1) < 1_000_000:
        counts = np.bincount(pairs)
        codes = np.flatnonzero(counts)
        shared = counts[codes]
    else:
        codes, shared = np.unique(pairs, return_counts=True)
    first, second = np.divmod(codes, num_other + 1)
    ious = shared / (mine_sizes[first] + other_sizes[second] - shared)
    used_mine: set[int] = set()
    used_other: set[int] = set()
    for place in np.argsort(-ious, kind="stable"):
        a, b = int(first[place]), int(second[place])
        if ious[place] >= min_iou and a not in used_mine and b not in used_other:
            used_mine.add(a)
            used_other.add(b)
    return 2 * len(used_mine) / (num_mine + num_other)
