"""Images that are already in memory: numpy arrays, torch tensors, nibabel and SimpleITK images."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..volume import Volume
from ..volume_checks import (
    affine_from_spacing,
    warn_of_missing_orientation,
    warn_of_missing_spacing,
    warn_of_strange_extent,
)


def volume_from_object(image: Any, affine: Any = None, spacing: Any = None) -> Volume:
    """A volume of whatever the user calls an image; see :meth:`Volume.from_image`.

    Raises:
        ValueError: for an object of an unknown kind, affine or spacing where the image brings its own, or both.
    """
    kind = _kind(image)
    if kind in ("array", "tensor"):
        return _from_array(image, kind, affine, spacing)
    for name, value in (("affine", affine), ("spacing", spacing)):
        if value is not None:
            raise ValueError(
                f"{name}=: only for arrays and tensors; this {kind} brings its own. To overrule it, give its array"
            )
    if kind == "volume":
        return image
    if kind == "path":
        from .files import read_volume

        return read_volume(image)
    if kind == "nibabel image":
        from .nifti import volume_from_nibabel

        return volume_from_nibabel(image, image.get_filename() or "<nibabel image>")
    from .itk import volume_from_itk

    return volume_from_itk(image, "<SimpleITK image>")


def _kind(image: Any) -> str:
    """Tells what an object is without importing the package it is from."""
    if isinstance(image, Volume):
        return "volume"
    if isinstance(image, (str, os.PathLike)):
        return "path"
    packages = {base.__module__.partition(".")[0] for base in type(image).__mro__}
    if "torch" in packages:
        return "tensor"
    if "SimpleITK" in packages:
        return "SimpleITK image"
    if "nibabel" in packages and hasattr(image, "dataobj"):
        return "nibabel image"
    if hasattr(image, "__array__"):
        return "array"
    raise ValueError(
        f"image: a {type(image).__name__} is not an image; expected a path, a 3D numpy array or torch tensor, a "
        "nibabel image, or a SimpleITK image"
    )


def _from_array(image: Any, kind: str, affine: Any, spacing: Any) -> Volume:
    if affine is not None and spacing is not None:
        raise ValueError("affine= and spacing= are both given; give one: an affine holds the spacing")
    source = "<numpy array>" if kind == "array" else "<torch tensor>"
    if affine is None and spacing is None:
        affine = getattr(image, "affine", None)  # of a MONAI MetaTensor
    array = _tensor_as_array(image) if kind == "tensor" else np.asarray(image)
    affine = _tensor_as_array(affine) if hasattr(affine, "detach") else affine
    is_known = affine is not None
    if affine is None:
        warn_of_missing_spacing() if spacing is None else warn_of_missing_orientation()
        affine = affine_from_spacing(1.0 if spacing is None else spacing, source)
    volume = Volume(array, affine, source, is_orientation_known=is_known)
    warn_of_strange_extent(volume.shape, volume.spacing_mm, source)
    return volume


def _tensor_as_array(tensor: Any) -> np.ndarray:
    """Numpy array of a torch tensor; shares memory with one on the CPU whose dtype numpy has."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return np.asarray(tensor.resolve_conj().resolve_neg())
