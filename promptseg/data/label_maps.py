"""Makes the one label map of a case from a map, a file per class, probabilities, or several raters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .catalog import Case, Catalog, LabelFile
from .reading import Grid, grid_difference, make_finite, read_array, read_grid

SCALE_TOLERANCE = 1e-3
"""How far a probability may exceed 1, relative to the scale: as sums of rounded numbers do."""


@dataclass(frozen=True)
class LabelMap:
    """The one label map of a case.

    Attributes:
        grid: its array holds integers of the smallest dtype that fits.
        overlap_voxels: voxels that several classes' files claimed; the class with the largest value has them.
        disputed_voxels: labelled by some rater, but not agreed on.
        nonfinite_voxels: NaN or infinite in some file, and background there.
    """

    grid: Grid
    overlap_voxels: int = 0
    disputed_voxels: int = 0
    nonfinite_voxels: int = 0


def read_labels(catalog: Catalog, case: Case, image: Grid | None = None) -> LabelMap | None:
    """Reads and merges the label files of a case.

    Args:
        catalog: how labels are stored.
        case: which.
        image: grid of the case's image, for catalogs that do not trust the labels' affines.

    Returns:
        The label map, or None for an unlabelled case.

    Raises:
        ValueError: for a file that is not readable, values that are not whole numbers, or files on different grids.
    """
    if not case.labels:
        return None
    raters = sorted({label.rater for label in case.labels})
    maps = [_rater_map(catalog, [label for label in case.labels if label.rater == rater], image) for rater in raters]
    reference = maps[0].grid
    for other, rater in zip(maps[1:], raters[1:], strict=True):
        if difference := grid_difference(reference, other.grid):
            raise ValueError(
                f"{case.key}: labels of rater {rater!r} and {raters[0]!r} lie on different grids: {difference}"
            )
    disputed = 0
    if len(maps) > 1:
        array, disputed = merge_raters([m.grid.array for m in maps], catalog.raters)
        reference = replace(reference, array=array)
    smallest = reference.array.astype(_smallest_dtype(reference.array), copy=False)
    return LabelMap(
        replace(reference, array=smallest),
        overlap_voxels=sum(m.overlap_voxels for m in maps),
        disputed_voxels=disputed,
        nonfinite_voxels=sum(m.nonfinite_voxels for m in maps),
    )


def _rater_map(catalog: Catalog, files: list[LabelFile], image: Grid | None) -> LabelMap:
    grids = [_on_image(catalog, file.path, image) for file in files]
    for file, grid in zip(files[1:], grids[1:], strict=True):
        if difference := grid_difference(grids[0], grid):
            raise ValueError(f"{file.path} and {files[0].path} lie on different grids: {difference}")
    if catalog.label_format == "probabilities":
        merged, overlap = _from_probabilities(catalog, files, grids)
    elif files[0].value is None:
        if len(files) > 1:
            raise ValueError(f"{files[0].path} and {files[1].path} both label one case; use {{term}} or {{rater}}")
        merged, overlap = _whole_numbers(grids[0].array, files[0].path), 0
    else:
        merged = np.zeros(grids[0].array.shape, np.int32)
        overlap = 0
        for value, array in _by_value(files, grids):
            inside = array > 0
            overlap += int(np.count_nonzero(merged[inside]))
            merged[inside] = value
    nonfinite = sum(grid.nonfinite_count for grid in grids)
    return LabelMap(replace(grids[0], array=merged), overlap, nonfinite_voxels=nonfinite)


def _by_value(files: list[LabelFile], grids: list[Grid]) -> list[tuple[int, np.ndarray]]:
    """(label value, array) pairs, ascending."""
    pairs = [(file.value or 0, grid.array) for file, grid in zip(files, grids, strict=True)]
    return sorted(pairs, key=lambda pair: pair[0])


def _on_image(catalog: Catalog, path: Path, image: Grid | None) -> Grid:
    grid = read_grid(path, is_label=True)
    if catalog.trust_label_affine or image is None:
        return grid
    import nibabel.orientations as orientations

    array, _ = make_finite(read_array(path, None)[0], path, is_label=True)
    turn = orientations.axcodes2ornt(tuple(image.orientation))
    turned = orientations.apply_orientation(array, turn)
    if turned.shape[:3] != image.array.shape[:3]:
        raise ValueError(f"{path}: shape {array.shape}, expected the image's")
    return replace(grid, array=turned, affine=image.affine, orientation=image.orientation)


def _from_probabilities(catalog: Catalog, files: list[LabelFile], grids: list[Grid]) -> tuple[np.ndarray, int]:
    """The most probable class where any reaches the threshold; ties go to the class with the smallest value."""
    for file, grid in zip(files, grids, strict=True):
        highest = float(grid.array.max())
        if highest > catalog.probability_scale * (1 + SCALE_TOLERANCE):
            raise ValueError(
                f"{file.path}: a probability of {highest:g}, above probability_scale={catalog.probability_scale:g}; "
                "set probability_scale to the value that stands for 1, such as 255 for bytes"
            )
    values = [term.value for term in catalog.terms]
    if files[0].value is not None:
        layers = _by_value(files, grids)
    else:
        array = grids[0].array if grids[0].array.ndim == 4 else grids[0].array[..., None]
        if array.shape[3] not in (len(values), len(values) + 1):
            raise ValueError(
                f"{files[0].path}: {array.shape[3]} probability maps for {len(values)} terms; expected one for each "
                "term, in ascending order of value, or one more in front for the background"
            )
        first = array.shape[3] - len(values)
        layers = [(value, array[..., first + index]) for index, value in enumerate(values)]
    best = np.full(layers[0][1].shape, np.float32(catalog.threshold * catalog.probability_scale))
    merged = np.zeros(best.shape, np.int32)
    claims = np.zeros(best.shape, np.uint16)
    threshold = best.flat[0]
    for value, probability in layers:
        claims += probability >= threshold
        wins = (probability > best) | ((probability >= best) & (merged == 0))
        merged[wins] = value
        best[wins] = probability[wins]
    return merged, int(np.count_nonzero(claims > 1))


def _whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim != 3:
        raise ValueError(f"{path}: shape {array.shape}, expected a 3D label map")
    if array.dtype.kind in "bui":
        return array.astype(np.uint8) if array.dtype.kind == "b" else array
    rounded = np.rint(array)
    if np.abs(array - rounded).max() > 1e-3:
        value = float(array[np.abs(array - rounded) > 1e-3].flat[0])
        raise ValueError(f"{path}: label value {value:g} is not whole; set label_format: probabilities if it is one")
    return rounded.astype(np.int64)


def merge_raters(maps: list[np.ndarray], rule: str) -> tuple[np.ndarray, int]:
    """Makes one label map of several raters'.

    Args:
        maps: (I, J, K) whole numbers each.
        rule: ``majority`` (more than half agree on the value, else background), ``union`` (the largest value that any
            gave) or ``intersection`` (all agree).

    Returns:
        The map, and the number of voxels that some rater labelled and not all agree on.
    """
    stack = [m.astype(np.int64, copy=False) for m in maps]
    agreed = np.all([m == stack[0] for m in stack[1:]], axis=0)
    disputed = int(agreed.size - np.count_nonzero(agreed))
    if rule == "union":
        return np.max(stack, axis=0), disputed
    merged = np.where(agreed, stack[0], 0)
    if rule == "majority":
        for value in np.unique(np.concatenate([m[~agreed] for m in stack])):
            votes = np.sum([m == value for m in stack], axis=0)
            merged[2 * votes > len(stack)] = value
    return merged, disputed


def _smallest_dtype(array: np.ndarray) -> np.dtype:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int64)
