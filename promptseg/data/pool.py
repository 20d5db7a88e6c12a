"""The training pool: volumes of several data sets, drawn with a weight for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .balance import BalancedObjects
from .crops import TrainingVolume


@dataclass(frozen=True)
class TrainingPool:
    """Volumes grouped by data set, with the weight each group is drawn with.

    Attributes:
        groups: data set (and modality) -> its volumes.
        weights: data set (and modality) -> sampling weight; sums to 1.
    """

    groups: Mapping[str, Sequence[TrainingVolume]]
    weights: dict[str, float]

    def draw(self, rng: np.random.Generator, temperature: float = 0.0) -> tuple[TrainingVolume, int | None]:
        """A volume and one of its labels, or None for a volume without labels.

        Args:
            rng: source of randomness.
            temperature: 0 for a group by its weight, then a case evenly, then a label evenly; 1 or more for
                :class:`~promptseg.data.balance.BalancedObjects`.
        """
        if temperature:
            return self._balanced(temperature).draw(rng)
        names = list(self.groups)
        group = self.groups[names[int(rng.choice(len(names), p=[self.weights[n] for n in names]))]]
        volume = group[int(rng.integers(len(group)))]
        values = list(volume.objects)
        return volume, values[int(rng.integers(len(values)))] if values else None

    def _balanced(self, temperature: float) -> BalancedObjects:
        """The table for a temperature, made once."""
        tables = self.__dict__.setdefault("_tables", {})
        if temperature not in tables:
            tables[temperature] = BalancedObjects.of(self.groups, self.weights, temperature)
        return tables[temperature]
