"""The volume that ships for demonstrations and self-tests, and prompts on it as a person would place them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FOLDER = Path(__file__).resolve().parent / "assets" / "demo"
IMAGE = FOLDER / "image.nii.gz"
"""A computed tomography of a trunk, 122 x 101 x 112 voxels of 3 mm. Source and licence: README.md beside it."""
LABELS = FOLDER / "labels.nii.gz"
"""What another model, TotalSegmentator's fast one, gave for it: a reference to agree with, not the truth."""


@dataclass(frozen=True)
class DemoObject:
    """A structure of the demo volume and the prompts that ask for it.

    Attributes:
        name: of the structure.
        label_value: its value in :data:`LABELS`.
        points: clicks, voxel coordinates of :data:`IMAGE`, in the order they are made.
        labels: 1 for each click on the structure, 0 for each beside it.
        box: half-open voxel box, drawn before the clicks; None for none.
    """

    name: str
    label_value: int
    points: tuple[tuple[int, int, int], ...]
    labels: tuple[int, ...]
    box: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None

    def rounds(self) -> list[dict[str, Any]]:
        """Arguments of ``Predictor.predict`` after each prompt: the box if there is one, then click by click."""
        found = []
        for count in range(0 if self.box else 1, len(self.points) + 1):
            clicks = {"points": self.points[:count], "labels": self.labels[:count]} if count else {}
            found.append({**clicks, "box": self.box})
        return found


OBJECTS = (
    DemoObject("liver", 5, ((92, 51, 100), (64, 54, 98), (57, 73, 105), (96, 69, 98)), (1, 0, 1, 0)),
    DemoObject(
        "right kidney",
        2,
        ((77, 45, 84), (74, 36, 98), (81, 42, 84), (81, 53, 76)),
        (0, 1, 0, 1),
        box=((70, 29, 66), (94, 55, 102)),
    ),
    DemoObject("left kidney", 3, ((31, 33, 90),), (1,)),
    DemoObject("spleen", 1, ((23, 32, 104), (17, 39, 92), (38, 39, 108)), (1, 1, 1)),
    DemoObject("gallbladder", 4, ((86, 74, 87), (76, 60, 92)), (1, 1), box=((75, 58, 84), (88, 76, 96))),
    DemoObject(
        "vertebra L4",
        28,
        ((58, 35, 66), (65, 37, 64), (60, 31, 61)),
        (0, 1, 1),
        box=((43, 22, 55), (73, 52, 70)),
    ),
    DemoObject("bladder", 21, ((59, 53, 18),), (1,)),
)
"""Clicks, or a box and clicks, each where the answer before it was most wrong, until a person would stop."""
OVERVIEW = (55, 46, 95)
"""Voxel whose three slices show most of the objects."""


def agreement(mask: np.ndarray, reference: np.ndarray) -> float:
    """Dice overlap of two binary masks of one shape, 0 to 1; 1 when both are empty.

    Example:
        >>> import numpy as np
        >>> round(agreement(np.array([1, 1, 0]), np.array([0, 1, 0])), 3)
        0.667
    """
    found, wanted = mask.astype(bool), reference.astype(bool)
    total = int(found.sum()) + int(wanted.sum())
    return 2 * int((found & wanted).sum()) / total if total else 1.0
