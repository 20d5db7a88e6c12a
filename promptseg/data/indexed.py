"""Volumes of which an index tells what they hold: opening each of 100 000 to ask takes hours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from .crops import TrainingVolume
    from .structures import Structure


@runtime_checkable
class Indexed(Protocol):
    """Volumes of which an index tells what they hold, without opening each."""

    def labelled_images(self) -> Sequence[TrainingVolume]:
        """Those that are images with labels."""
        ...

    def holds(self, number: int) -> tuple[str, tuple[int, ...]]:
        """Modality of a volume, and the labels that can be drawn of it."""
        ...

    def structures_of(self, number: int) -> tuple[Structure, ...]:
        """What can be asked for by name in a volume, or is certainly not there."""
        ...

    def boxes_of(self, number: int) -> dict[int, np.ndarray]:
        """Labels that can be drawn of a volume -> (2, 3) ends of the box of each, in mm."""
        ...


def holdings(volumes: Sequence[TrainingVolume]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Modality of each volume, and the labels that can be drawn of it."""
    if isinstance(volumes, Indexed):
        yield from (volumes.holds(number) for number in range(len(volumes)))
    else:
        yield from ((volume.modality, tuple(volume.objects)) for volume in volumes)
