"""The simulated user's other prompts: boxes, scribbles, masks to refine, and shaky versions of each.

Everything is a function of the ground truth, the prediction and a random generator, which is seeded from the names of
case and object: see :func:`generator_for`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from .boxes import VoxelBox, bounding_box, grow, slices
from .click_policy import distance_to_outside, largest_component
from .metrics import TrueObject, dice
from .prompts import Stroke

SCRIBBLE_SHARE = 0.6
"""Share of the centre line that a scribble covers; people do not draw to the very ends."""
MAX_DISTURBANCES = 8
"""Noises that are tried: one that hardly reaches the object's surface cannot disturb it enough."""


def generator_for(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends on a seed and names alone, not on what was drawn before."""
    digest = hashlib.blake2b("/".join(map(str, (seed, *names))).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def jitter_box(box: VoxelBox, amount: float, shape: Sequence[int], generator: np.random.Generator) -> VoxelBox:
    """Moves each side of a box by up to a share of the box's length.

    Args:
        box: half-open.
        amount: largest shift, as a share of the length along the same axis; 0 for the box itself.
        shape: of the image, which the result stays in.
        generator: source of randomness.

    Returns:
        A half-open box with at least one voxel along each axis.
    """
    low, high = box
    length = high - low
    shifts = np.rint(generator.uniform(-amount, amount, size=(2, 3)) * length).astype(int)
    new_low = np.clip(low + shifts[0], 0, np.asarray(shape) - 1)
    return new_low, np.clip(high + shifts[1], new_low + 1, np.asarray(shape))


def challenge_box(truth: TrueObject, generator: np.random.Generator) -> VoxelBox:
    """The challenge's box: the object's extent on its middle slice, slightly too large, and the range of its slices.

    The middle slice is the one that holds the median voxel, counted from slice to slice. The box on it is enlarged on
    all four sides by one shift, 0 to 5 pixels of a 256 x 256 image. Parts of the object that are wider than its middle
    slice lie outside of it.

    Args:
        truth: the object, canonical axes; slices are along the third.
        generator: source of randomness.

    Returns:
        Half-open box.

    Source: ``mask3D_to_bbox`` of get_boxes.py, github.com/JunMa11/CVPR-MedSegFMCompetition.
    """
    per_slice = np.count_nonzero(truth.mask, axis=(0, 1))
    middle = int(np.searchsorted(np.cumsum(per_slice), truth.num_voxels // 2, side="right"))
    flat = bounding_box(truth.mask[:, :, middle : middle + 1])
    assert flat is not None
    width, height = truth.image_shape[:2]
    shift = int(generator.integers(0, 6))
    margin = np.array([int(shift * width / 256), int(shift * height / 256), 0])
    low, high = flat[0] + truth.low - margin, flat[1] + truth.low + margin
    low[2], high[2] = truth.low[2], truth.high[2]
    return np.maximum(low, 0), np.minimum(high, truth.image_shape)


def next_scribble(
    truth: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float], origin: Sequence[int] = (0, 0, 0)
) -> Stroke | None:
    """A line along the middle of the largest error, on the slice through its deepest point.

    The slice lies across the axis with the thickest voxels (the third, if all are equal), as people draw on the slices
    that were scanned. From the deepest pixel, the line follows the deepest pixel of each next row or column, whichever
    way the error is longer, as far as the error goes; the middle :data:`SCRIBBLE_SHARE` of it is kept.

    Args:
        truth: (I, J, K) bool; may be a crop.
        predicted: (I, J, K) bool.
        spacing_mm: (3,) voxel sides.
        origin: (3,) first voxel of the crop in the image, added to the answer.

    Returns:
        The scribble, or None where truth and prediction are equal. All of its voxels are errors of one kind.
    """
    found = largest_component(truth ^ predicted)
    if found is None:
        return None
    low, component = found
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    depth = distance_to_outside(component, spacing)
    deepest = np.array(np.unravel_index(int(np.argmax(depth)), depth.shape))
    label = int(truth[tuple(low + deepest)])
    component = component & (truth[slices(low, low + np.array(component.shape))] == bool(label))

    axis = 2 if np.allclose(spacing, spacing[0]) else int(2 - np.argmax(spacing[::-1]))
    plane = np.ascontiguousarray(component.take(deepest[axis], axis=axis)[..., None])
    others = [a for a in range(3) if a != axis]
    plane_depth = distance_to_outside(plane, np.array([*spacing[others], 1e6]))[..., 0]
    line = _centre_line(plane_depth, deepest[others], spacing[others])
    voxels = np.empty((len(line), 3), dtype=int)
    voxels[:, axis] = deepest[axis]
    voxels[:, others] = line
    return Stroke(voxels + low + np.asarray(origin), label)


def _centre_line(depth: np.ndarray, start: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """(V, 2) pixels from one end to the other; ``depth`` is (A, B), positive where the line may run."""
    inside = depth > 0
    extent_mm = [float(np.ptp(np.flatnonzero(inside.any(axis=1 - a)))) * spacing_mm[a] for a in (0, 1)]
    along = int(np.argmax(extent_mm))
    rows = depth if along == 0 else depth.T
    first = (int(start[along]), int(start[1 - along]))
    halves = [_walk(rows, first, step) for step in (-1, 1)]
    line = np.array([*halves[0][::-1], first, *halves[1]])
    cut = int(len(line) * (1 - SCRIBBLE_SHARE) / 2)
    line = line[cut : len(line) - cut]
    return line if along == 0 else line[:, ::-1]


def _walk(rows: np.ndarray, place: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """Follows the deepest pixel from row to row, at most one pixel sideways at a time."""
    path = []
    row, column = place
    while 0 <= row + step < rows.shape[0]:
        row += step
        first = max(column - 1, 0)
        near = rows[row, first : column + 2]
        if not (near > 0).any():
            break
        column = first + int(np.argmax(near))
        path.append((row, column))
    return path


def corrupt_mask(truth: TrueObject, generator: np.random.Generator, target_dice: float) -> np.ndarray:
    """A wrong version of an object, as a model or a hurried person might have left it.

    The object's signed distance field is disturbed by smooth noise, just enough for the Dice asked for: parts are
    missing, others bulge by up to half the object's radius, and pieces may fall off.

    Args:
        truth: the object.
        generator: source of randomness.
        target_dice: of the result, between 0 and 1; met to 0.01 where the object has enough voxels.

    Returns:
        (I, J, K) bool of the whole image.
    """
    from scipy.ndimage import gaussian_filter

    shape = np.array(truth.image_shape)
    radius_mm = max(float(distance_to_outside(truth.mask, truth.spacing_mm).max()), float(truth.spacing_mm.min()))
    low, high = grow(truth.low, truth.high, np.ceil(radius_mm / truth.spacing_mm).astype(int) + 1, shape)
    mask = truth.crop(low, high)
    signed = distance_to_outside(mask, truth.spacing_mm)
    signed = signed - distance_to_outside(~mask, truth.spacing_mm, border_is_outside=False)
    corrupted = mask
    for _ in range(MAX_DISTURBANCES):
        noise = gaussian_filter(generator.normal(size=mask.shape), 0.4 * radius_mm / truth.spacing_mm)
        noise = (noise - noise.mean()) / max(float(noise.std()), 1e-12)
        noise += float(generator.choice([-0.3, 0.3]))
        corrupted = _disturbed(mask, signed, noise, radius_mm, target_dice)
        if dice(mask, corrupted) < target_dice + 0.01:
            break
    whole = np.zeros(truth.image_shape, dtype=bool)
    whole[slices(low, high)] = corrupted
    return whole


def _disturbed(
    mask: np.ndarray, signed: np.ndarray, noise: np.ndarray, radius_mm: float, target_dice: float
) -> np.ndarray:
    """The mask of a signed distance field with as much noise as leaves it a Dice of at least the target."""
    weak, strong = 0.0, 8.0 * radius_mm
    for _ in range(24):
        amount = (weak + strong) / 2
        corrupted = signed + np.clip(amount * noise, -0.9 * radius_mm, 0.5 * radius_mm) > 0
        if not corrupted.any() or dice(mask, corrupted) < target_dice:
            strong = amount
        else:
            weak = amount
    return signed + np.clip(weak * noise, -0.9 * radius_mm, 0.5 * radius_mm) > 0


def jitter_point(
    voxel: tuple[int, int, int], truth: TrueObject, depth_mm: float, generator: np.random.Generator
) -> tuple[int, int, int]:
    """Another voxel of the object near a click, as a second user might have chosen.

    Args:
        voxel: the click, inside the object.
        truth: the object.
        depth_mm: how far away at most.
        generator: source of randomness.

    Returns:
        A voxel of the object, drawn from all those within ``depth_mm``; the click itself if it is the only one.
    """
    reach = np.floor(depth_mm / truth.spacing_mm).astype(int)
    low = np.maximum(np.array(voxel) - reach, truth.low)
    high = np.minimum(np.array(voxel) + reach + 1, truth.high)
    candidates = np.argwhere(truth.crop(low, high)) + low
    distances = np.linalg.norm((candidates - np.array(voxel)) * truth.spacing_mm, axis=1)
    candidates = candidates[distances <= depth_mm]
    if not len(candidates):
        return voxel
    i, j, k = candidates[int(generator.integers(len(candidates)))]
    return int(i), int(j), int(k)
