"""Where the simulated user of the benchmark clicks next: a function of truth and prediction, and of a random generator
for a user who is not exact.

The error is where the two differ, missing and superfluous voxels together. Its largest 26-connected component is taken
and the point of it that lies deepest is clicked: to include it where the truth has the object, else to exclude it. A
first click is the same on an empty prediction: the deepest point of the object's largest component.

Training uses another user, :mod:`promptseg.data.prompt_simulator`, who is random and less exact: it approximates depth
in batches on the device, and imports the model, which the scorer must not. Here depth is exact, and in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .boxes import bounding_box, slices
from .components import number_components

CHALLENGE_SEED = 42
"""Seed that the challenge's scorer sets before it draws one of several equally deep voxels."""


@dataclass(frozen=True)
class Click:
    """A simulated click.

    Attributes:
        voxel: (3,) index.
        label: 1 to include, 0 to exclude.
        component_voxels: size of the error component it lies in.
        depth: distance to the component's outside, in mm (in voxels for the challenge's policy).
    """

    voxel: tuple[int, int, int]
    label: int
    component_voxels: int
    depth: float


def next_click(
    truth: np.ndarray,
    predicted: np.ndarray,
    spacing_mm: Sequence[float],
    origin: Sequence[int] = (0, 0, 0),
    least_depth: float = 1.0,
    generator: np.random.Generator | None = None,
) -> Click | None:
    """The click of the ``clicks`` protocol: depth in millimetres, one answer for one input.

    Of voxels that are equally deep, the one nearest to their common centre is taken. A user who is less exact clicks
    anywhere that is deep enough, each voxel being as likely as the next.

    Args:
        truth: (I, J, K) bool; may be a crop outside which truth and prediction agree.
        predicted: (I, J, K) bool.
        spacing_mm: (3,) voxel sides.
        origin: (3,) first voxel of the crop in the image, added to the answer.
        least_depth: how deep the click lies at least, as a share of the deepest point's depth.
        generator: source of randomness, needed where that is less than 1.

    Returns:
        The click, or None where truth and prediction are equal.

    Example:
        >>> truth = np.zeros((7, 7, 7), bool)
        >>> truth[1:6, 1:6, 1:6] = True
        >>> next_click(truth, np.zeros_like(truth), (1, 1, 1))
        Click(voxel=(3, 3, 3), label=1, component_voxels=125, depth=3.0)
    """
    found = largest_component(truth ^ predicted)
    if found is None:
        return None
    low, component = found
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    depth = distance_to_outside(component, spacing)
    deepest = float(depth.max())
    candidates = np.argwhere(depth >= deepest * (least_depth - 1e-5))
    if least_depth < 1:
        if generator is None:
            raise ValueError(f"least_depth={least_depth}: a click that is not exact needs a generator")
        chosen = candidates[int(generator.integers(len(candidates)))]
    else:
        offsets_mm = (candidates - candidates.mean(axis=0)) * spacing
        chosen = candidates[int(np.argmin(np.round((offsets_mm**2).sum(axis=1), 6)))]
    return _click(chosen + low, truth, component, float(depth[tuple(chosen)]), origin)


def challenge_click(truth: np.ndarray, predicted: np.ndarray, origin: Sequence[int] = (0, 0, 0)) -> Click | None:
    """The click of the CVPR 2025 challenge: depth in voxels whatever the spacing, equal depths drawn with a fixed seed.

    Args:
        truth: (I, J, K) bool, canonical axes; the challenge's arrays are this one's transpose (K, J, I).
        predicted: (I, J, K) bool.
        origin: (3,) first voxel of the crop in the image, added to the answer.

    Returns:
        The click, or None where truth and prediction are equal.

    Source: ``compute_edt`` and ``sample_coord`` of CVPR25_iter_eval.py, github.com/JunMa11/CVPR-MedSegFMCompetition.
    """
    found = largest_component((truth ^ predicted).transpose(2, 1, 0))
    if found is None:
        return None
    low, component = found
    squared = distance_to_outside(component, np.ones(3), is_squared=True)
    candidates = np.argwhere(squared == squared.max())
    drawn = candidates[np.random.RandomState(CHALLENGE_SEED).choice(len(candidates))] + low
    return _click(drawn[::-1], truth, component, float(np.sqrt(squared.max())), origin)


def _click(voxel: np.ndarray, truth: np.ndarray, component: np.ndarray, depth: float, origin: Sequence[int]) -> Click:
    i, j, k = (int(v) for v in voxel)
    label = int(truth[i, j, k])
    place = (i + int(origin[0]), j + int(origin[1]), k + int(origin[2]))
    return Click(place, label, int(np.count_nonzero(component)), depth)


def largest_component(region: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The largest 26-connected component.

    Args:
        region: (I, J, K) bool.

    Returns:
        Its first voxel (3,) int and the component in its own bounding box, bool; None for an empty region. Of equally
        large ones, the one that is numbered first.
    """
    box = bounding_box(region)
    if box is None:
        return None
    part = region[slices(*box)]
    numbered, _ = number_components(part)
    sizes = np.bincount(numbered[part])
    component = numbered == int(np.argmax(sizes))
    own = bounding_box(component)
    assert own is not None
    return box[0] + own[0], np.ascontiguousarray(component[slices(*own)])


def distance_to_outside(
    region: np.ndarray, spacing_mm: np.ndarray, is_squared: bool = False, border_is_outside: bool = True
) -> np.ndarray:
    """Distance of each voxel of a region to the nearest voxel outside of it.

    Args:
        region: (I, J, K) bool, C-contiguous.
        spacing_mm: (3,) voxel sides.
        is_squared: return the square, which is exact where all sides are 1.
        border_is_outside: whether what lies beyond the array is outside.

    Returns:
        (I, J, K) float32; 0 outside the region.
    """
    import edt

    anisotropy = tuple(float(s) for s in spacing_mm)
    transform = edt.edtsq if is_squared else edt.edt
    return transform(region.view(np.uint8), anisotropy=anisotropy, black_border=border_is_outside, parallel=1)
