"""The mask that ``promptseg segment --mask`` starts from: one object, on the image's grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ..volume import Volume

MAX_LISTED = 12
"""Values that a message lists."""


def read_mask(path: str, volume: Volume, value: int | None = None) -> np.ndarray:
    """Reads a mask that must lie on a volume's grid.

    Args:
        path: of the mask.
        volume: the image.
        value: which voxels belong to the object, or which segment of a DICOM segmentation; None for all that are not
            0, where they have one value.

    Returns:
        (I, J, K) uint8.

    Raises:
        ValueError: for another shape or another place in space, for several values of which none is chosen, and for
            one that the mask does not hold.
    """
    import numpy as np

    from ..io import read_volume
    from ..io.dicom_seg import is_segmentation, read_segmentation
    from ..volume import Volume

    if is_segmentation(Path(path)):
        mask = Volume(read_segmentation(Path(path), volume, value), volume.affine, path)
    else:
        mask = read_volume(path)
    if mask.shape != volume.shape:
        raise ValueError(
            f"--mask {path}: its shape {tuple(mask.shape)} is not the image's {tuple(volume.shape)}; "
            "resample it onto the image"
        )
    corners = np.stack(np.meshgrid(*[[0, n - 1] for n in volume.shape], [1], indexing="ij"), axis=-1).reshape(-1, 4)
    shift_mm = np.abs((mask.affine - volume.affine) @ corners.T).max()
    if shift_mm > 0.1 * volume.spacing_mm.min():
        raise ValueError(
            f"--mask {path}: it has the image's shape but lies up to {shift_mm:.3g} mm away from it; "
            "resample it onto the image"
        )
    inside = mask.array != 0
    found = mask.array[inside]
    if value is not None:
        inside = mask.array == value
        if value == 0 or not inside.any():
            raise ValueError(f"--mask-value {value}: {path} holds {_listed(found)}; choose one of these")
    elif found.size and found.min() != found.max():
        raise ValueError(
            f"--mask {path}: it holds several values, {_listed(found)}, and a mask is one object; choose it with "
            "--mask-value"
        )
    return inside.astype(np.uint8)


def _listed(values: np.ndarray) -> str:
    """The different values, for a message."""
    import numpy as np

    distinct = np.unique(values)
    shown = ", ".join(f"{v:g}" for v in distinct[:MAX_LISTED].tolist())
    if len(distinct) > MAX_LISTED:
        shown += f" and {len(distinct) - MAX_LISTED} others"
    return shown or "no value but 0"
