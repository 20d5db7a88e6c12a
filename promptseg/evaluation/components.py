"""26-connected components of masks."""

from __future__ import annotations

import numpy as np


def number_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers the components of a mask.

    Args:
        mask: (I, J, K) bool.

    Returns:
        (I, J, K) whole numbers, 0 outside the mask and 1, 2, ... in the order in which a scan along the last axis meets
        the components; and how many there are.

    Example:
        >>> number_components(np.array([[[True, False, True]]]))[1]
        2
    """
    import cc3d

    mask = np.ascontiguousarray(mask)
    if sum(n > 1 for n in mask.shape) > 1 or mask.size == 0:
        numbered, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
        return numbered, int(count)
    # cc3d 4.1.1 fails on a single row of voxels with gaps
    numbered, count = cc3d.connected_components(np.pad(mask, 1), connectivity=26, return_N=True)
    return numbered[1:-1, 1:-1, 1:-1], int(count)
