"""A 3D image and where it lies: orientation, spacing, and the way between voxels and the world.

Three frames are used. *Native* voxels index the array the user gave. *Canonical* voxels index the same array after
its axes were permuted and flipped, never interpolated, to run to the right, anterior and superior (RAS) as closely as
they can. The *world* is millimetres, RAS+ or LPS+. In every frame a voxel's centre has integer coordinates, so voxel
``i`` reaches from ``i - 0.5`` to ``i + 0.5``; boxes are half-open: ``[low, high)`` holds voxels low to high - 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .volume_checks import BLOCK_BYTES, check_affine, check_array, check_contrast, replace_nonfinite

SPACES = ("voxel", "ras", "lps")
"""What coordinates may mean: native voxel indices, or millimetres towards right-anterior-superior or its opposite."""

_LPS_SIGNS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on its grid.

    Attributes:
        array: (I, J, K), dtype as the user gave it; memory is shared with the user's array where it can be.
        affine: (4, 4) float64, native voxel indices to RAS millimetres; read-only.
        source: the file it came from, or its kind in angle brackets.
        header: NIfTI header or ITK geometry it came with, so that results can repeat it bit for bit; or the files of
            a DICOM series, so that they can refer to them.
        is_orientation_known: whether the affine says where left and right are. Where it does not, as for a file whose
            header has no valid transform or an array of which only the spacing is known, they are guessed.
        nonfinite_count: voxels that were NaN or infinite and hold the smallest finite value now.

    Raises:
        ValueError: if the array is not 3D and real, or the affine is singular.

    Example:
        >>> import numpy as np
        >>> volume = Volume(np.arange(24.0).reshape(2, 3, 4), np.diag([-1.0, -1.0, 2.0, 1.0]))
        >>> volume.orientation, volume.spacing_mm.tolist()
        ('LPS', [1.0, 1.0, 2.0])
        >>> volume.to_canonical_points([[0, 0, 0]]).tolist()
        [[1.0, 2.0, 0.0]]
    """

    array: np.ndarray
    affine: np.ndarray
    source: str = "<array>"
    header: Any = field(default=None, repr=False)
    is_orientation_known: bool = True
    nonfinite_count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        affine = check_affine(self.affine, self.source)
        array, count = replace_nonfinite(check_array(np.asarray(self.array), self.source), self.source)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "nonfinite_count", count)

    @classmethod
    def from_image(cls, image: Any, affine: Any = None, spacing: Any = None) -> Volume:
        """Takes an image in any of the usual forms.

        Args:
            image: path, (I, J, K) numpy array or torch tensor, nibabel image, SimpleITK image, or Volume.
            affine: (4, 4) voxel indices to RAS mm; only for arrays and tensors.
            spacing: (3,) voxel size in mm; only for arrays and tensors without an affine. Without either, voxels
                of 1 mm are assumed and a warning says so.

        Returns:
            The volume. Arrays, CPU tensors and nibabel images in memory are not copied.

        Raises:
            ValueError: for an image that cannot be read or used, or in which every voxel is the same.
        """
        from .io.objects import volume_from_object

        volume = volume_from_object(image, affine, spacing)
        check_contrast(volume.array, volume.source)
        return volume

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each native axis."""
        return self.array.shape  # type: ignore[return-value]

    @cached_property
    def spacing_mm(self) -> np.ndarray:
        """(3,) float64 size of a voxel along each native axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres, less than the product of its sides where the affine has a shear."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @cached_property
    def _axes(self) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], str]:
        """Permutation, flips and name of the orientation."""
        from nibabel.orientations import io_orientation, ornt2axcodes

        orientation = io_orientation(self.affine)  # row: native axis; columns: world axis, direction
        native = np.argsort(orientation[:, 0])
        flips = orientation[native, 1] < 0
        order = (int(native[0]), int(native[1]), int(native[2]))
        name = "".join(str(code) for code in ornt2axcodes(orientation))
        return order, (bool(flips[0]), bool(flips[1]), bool(flips[2])), name

    @property
    def orientation(self) -> str:
        """Directions the native axes run to, such as ``LPS``: left, posterior, superior."""
        return self._axes[2]

    @property
    def permutation(self) -> tuple[int, int, int]:
        """Native axis of each canonical axis."""
        return self._axes[0]

    @property
    def flips(self) -> tuple[bool, bool, bool]:
        """Whether each canonical axis runs against its native one."""
        return self._axes[1]

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """Voxels along each canonical axis."""
        i, j, k = self.permutation
        return self.shape[i], self.shape[j], self.shape[k]

    @property
    def canonical_spacing_mm(self) -> np.ndarray:
        """(3,) float64 size of a voxel along each canonical axis."""
        return self.spacing_mm[list(self.permutation)]

    @property
    def canonical_array(self) -> np.ndarray:
        """The image with canonical axes: a view, often with negative strides."""
        return self.to_canonical_array(self.array)

    def to_canonical_array(self, array: np.ndarray) -> np.ndarray:
        """A view, with canonical axes, of any array on the native grid or part of it."""
        return array.transpose(self.permutation)[self._flip_slices]

    def from_canonical_array(self, array: np.ndarray) -> np.ndarray:
        """A view, with native axes, of any array with canonical axes: the inverse of :meth:`to_canonical_array`."""
        return array[self._flip_slices].transpose(np.argsort(self.permutation).tolist())

    @property
    def _flip_slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)

    def to_canonical_points(self, points: Any, space: str = "voxel") -> np.ndarray:
        """Canonical voxel coordinates of points.

        Args:
            points: (N, 3) in ``space``.
            space: one of :data:`SPACES`.

        Returns:
            (N, 3) float64; not checked against the volume's bounds.
        """
        native = self.to_voxel(points, space)
        canonical = native[..., list(self.permutation)]
        return np.where(self.flips, np.subtract(self.canonical_shape, 1) - canonical, canonical)

    def from_canonical_points(self, points: Any, space: str = "voxel") -> np.ndarray:
        """Coordinates in ``space`` of (N, 3) canonical voxels: the inverse of :meth:`to_canonical_points`."""
        canonical = _as_points(points)
        turned = np.where(self.flips, np.subtract(self.canonical_shape, 1) - canonical, canonical)
        native = turned[..., np.argsort(self.permutation)]
        return native if _checked(space) == "voxel" else self.voxel_to_world(native, space)

    def to_canonical_box(self, low: Any, high: Any, space: str = "voxel") -> tuple[np.ndarray, np.ndarray]:
        """Half-open canonical voxel box of a box.

        Args:
            low: (3,) smaller corner. In voxels the box is half-open, ``[low, high)``.
            high: (3,) larger corner.
            space: one of :data:`SPACES`. A box in millimetres has its sides along the world's axes; on an oblique
                grid the result is the smallest box of voxels around it.

        Returns:
            low and high, (3,) float64 each; not clipped to the volume.
        """
        corners = np.stack([_as_points(low), _as_points(high)])
        if _checked(space) != "voxel":
            choices = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
            corners = self.world_to_voxel(corners[choices, np.arange(3)], space) + 0.5
        ends = self.to_canonical_points(corners - 0.5) + 0.5  # a box's faces lie half a voxel before voxel centres
        return ends.min(axis=0), ends.max(axis=0)

    def from_canonical_box(self, low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
        """Half-open native box of whole voxels around a canonical one: low and high, (3,) int64 each."""
        corners = np.stack([np.floor(_as_points(low)), np.ceil(_as_points(high))])
        ends = np.rint(self.from_canonical_points(corners - 0.5) + 0.5).astype(np.int64)
        return ends.min(axis=0), ends.max(axis=0)

    def voxel_to_world(self, points: Any, space: str = "ras") -> np.ndarray:
        """Millimetres, in ``ras`` or ``lps``, of (N, 3) or (3,) native voxel coordinates; float64."""
        ras_mm = _as_points(points) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return ras_mm * _LPS_SIGNS if _checked(space, world=True) == "lps" else ras_mm

    def world_to_voxel(self, points: Any, space: str = "ras") -> np.ndarray:
        """Native voxel coordinates of (N, 3) or (3,) points in millimetres, ``ras`` or ``lps``; float64."""
        world_mm = _as_points(points)
        ras_mm = world_mm * _LPS_SIGNS if _checked(space, world=True) == "lps" else world_mm
        return np.linalg.solve(self.affine[:3, :3], (ras_mm - self.affine[:3, 3]).T).T

    def to_voxel(self, points: Any, space: str = "voxel") -> np.ndarray:
        """Native voxel coordinates of (N, 3) or (3,) points in any of :data:`SPACES`; float64."""
        return _as_points(points) if _checked(space) == "voxel" else self.world_to_voxel(points, space)

    @cached_property
    def content_hash(self) -> str:
        """Names voxels, dtype, shape and affine: 32 hex digits, whatever the memory layout. About 1 s per GB."""
        digest = hashlib.blake2b(f"{self.array.dtype.str} {self.shape}".encode(), digest_size=16)
        digest.update(self.affine.tobytes())
        slices = self.array.T  # (K, J, I): in memory order, hence without a copy, as files are read
        step = max(1, BLOCK_BYTES * len(slices) // self.array.nbytes)
        for first in range(0, len(slices), step):
            digest.update(np.ascontiguousarray(slices[first : first + step]).data)
        return digest.hexdigest()


def _as_points(points: Any) -> np.ndarray:
    """Float64 copy of coordinates; the last axis has length 3.

    Raises:
        ValueError: for anything else.
    """
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape[-1:] != (3,):
        raise ValueError(f"coordinates {points!r}: expected an (N, 3) array of numbers, or one triple")
    return array


def _checked(space: str, world: bool = False) -> str:
    known = SPACES[1:] if world else SPACES
    if space not in known:
        raise ValueError(f"space={space!r}: expected one of {', '.join(map(repr, known))}")
    return space
