"""Masks that an evaluation keeps: one for each object of a case, so packed in memory, and a file of them on disk."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.atomic import atomic_path
from .boxes import bounding_box, slices


@dataclass(frozen=True)
class MaskCrop:
    """A mask without the empty space around it, packed: one that fills a large image takes a few kilobytes.

    Attributes:
        low: (3,) first voxel in the image.
        shape: of the part that is kept.
        packed: its bits, compressed.
    """

    low: np.ndarray
    shape: tuple[int, ...]
    packed: bytes

    @classmethod
    def from_mask(cls, mask: np.ndarray) -> MaskCrop:
        """Cuts out the bounding box."""
        box = bounding_box(mask)
        if box is None:
            return cls.from_part(np.zeros(3, dtype=int), np.zeros((1, 1, 1), dtype=bool))
        return cls.from_part(box[0], mask[slices(*box)])

    @classmethod
    def from_part(cls, low: np.ndarray, part: np.ndarray) -> MaskCrop:
        """Packs a part of an image, (n0, n1, n2) bool, that begins at voxel ``low``."""
        return cls(low, tuple(part.shape), zlib.compress(np.packbits(part).tobytes(), 1))

    @property
    def bits(self) -> np.ndarray:
        """(n,) uint8 of ``numpy.packbits``."""
        return np.frombuffer(zlib.decompress(self.packed), dtype=np.uint8)

    @property
    def part(self) -> np.ndarray:
        """(n0, n1, n2) bool, unpacked at each call."""
        return np.unpackbits(self.bits, count=int(np.prod(self.shape))).reshape(self.shape).astype(bool)

    def paste(self, into: np.ndarray, value: int) -> None:
        """Sets an image's voxels inside the mask to ``value``."""
        into[slices(self.low, self.low + np.array(self.shape))][self.part] = value


@dataclass(frozen=True)
class KeptMask:
    """The last answer for an object, for the report's gallery.

    Attributes:
        label: of the object.
        name: of the object.
        mask: the answer.
        points: (M, 3) int, voxels that were marked.
        labels: (M,) int.
    """

    label: int
    name: str
    mask: MaskCrop
    points: np.ndarray
    labels: np.ndarray


def write_masks(path: Path, masks: Iterable[KeptMask]) -> None:
    """Writes the masks of a case as an ``.npz``, one in memory at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, kept in enumerate(masks):
            content = {
                "object": np.array([kept.label, *kept.name.encode()], dtype=np.int64),
                "low": kept.mask.low,
                "shape": np.array(kept.mask.shape),
                "bits": kept.mask.bits,
                "points": kept.points,
                "labels": kept.labels,
            }
            for key, array in content.items():
                with archive.open(f"{number}.{key}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)


def read_mask(path: Path, label: int, name: str) -> KeptMask:
    """Reads one of the masks that :func:`write_masks` left.

    Raises:
        KeyError: if it is not among them.
    """
    with np.load(path) as content:
        for key in (k for k in content.files if k.endswith(".object")):
            number = key.split(".")[0]
            its_label, *letters = content[key].tolist()
            if (its_label, bytes(letters)) == (label, name.encode()):
                shape = tuple(content[f"{number}.shape"].tolist())
                packed = zlib.compress(content[f"{number}.bits"].tobytes(), 1)
                mask = MaskCrop(content[f"{number}.low"], shape, packed)
                return KeptMask(label, name, mask, content[f"{number}.points"], content[f"{number}.labels"])
    raise KeyError(f"no mask of {name} ({label})")
