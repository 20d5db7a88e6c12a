"""Where each label of a case lies: its box, its size and some of its voxels, for crops that show it."""

from __future__ import annotations

import hashlib

import numpy as np


def index_labels(labels: np.ndarray, key: str, samples: int) -> tuple[list[list[int]], np.ndarray]:
    """Finds the box, the size and some voxels of each label.

    Args:
        labels: (I, J, K) whole numbers.
        key: of the case; with the label value it seeds the sampling, so the result depends on nothing else.
        samples: voxels of each label.

    Returns:
        One row of :data:`promptseg.data.store_case.LABEL_COLUMNS` per value but 0, ascending; and (V, 3) int32 sampled
        voxels.
    """
    box = _foreground_box(labels)
    part = np.ascontiguousarray(labels[box])
    where = np.flatnonzero(part)
    found = part.reshape(-1)[where]
    order = np.argsort(_small(found), kind="stable")
    where, found = where[order], found[order]
    starts = np.flatnonzero(np.diff(found, prepend=found[:1] - 1))
    corner = np.array([side.start for side in box])
    entries: list[list[int]] = []
    rows: list[np.ndarray] = []
    first = 0
    for inside in np.split(where, starts[1:]) if len(where) else ():
        value = int(part.flat[inside[0]])
        seed = hashlib.blake2b(f"{key}/{value}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "big"))
        chosen = np.sort(rng.choice(inside, min(samples, len(inside)), replace=False))
        rows.append(np.stack(np.unravel_index(chosen, part.shape), axis=1) + corner)
        axes = np.unravel_index(inside, part.shape)
        low = [int(axis.min()) for axis in axes] + corner
        high = [int(axis.max()) + 1 for axis in axes] + corner
        entries.append([value, len(inside), *low.tolist(), *high.tolist(), first, first + len(chosen)])
        first += len(chosen)
    voxels = np.concatenate(rows) if rows else np.zeros((0, 3))
    return entries, voxels.astype(np.int32)


def _foreground_box(labels: np.ndarray) -> tuple[slice, ...]:
    """The box of all voxels but 0; empty where there are none."""
    is_foreground = labels != 0
    sides = []
    for axis in range(3):
        along = np.flatnonzero(is_foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        sides.append(slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(0, 0))
    return tuple(sides)


def _small(values: np.ndarray) -> np.ndarray:
    """Values in the type that sorts fastest: 16 bits, where they fit."""
    is_small = len(values) and values.min() >= 0 and values.max() < 2**16
    return values.astype(np.uint16) if is_small else values
