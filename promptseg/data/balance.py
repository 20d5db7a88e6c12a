"""Which object of a pool is drawn how often: balanced over modality, data set and label by a temperature."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .indexed import holdings

if TYPE_CHECKING:
    from .crops import TrainingVolume

ObjectKey = tuple[str, str, int | None]
"""Modality, group, and label value (None for a volume without labels)."""


def temper(sizes: Mapping[object, float], temperature: float) -> dict[object, float]:
    """Shares proportional to ``size ** (1 / temperature)``: 1 keeps the proportions, infinity makes them equal.

    Example:
        >>> temper({"a": 9, "b": 1}, 1.0), temper({"a": 9, "b": 1}, 2.0)
        ({'a': 0.9, 'b': 0.1}, {'a': 0.75, 'b': 0.25})
    """
    raised = {k: float(v) ** (1 / temperature) if v > 0 else 0.0 for k, v in sizes.items()}
    total = sum(raised.values())
    return {k: v / total for k, v in raised.items()}


@dataclass(frozen=True)
class BalancedObjects:
    """Objects with the probability each is drawn with.

    Attributes:
        keys: what can be drawn.
        shares: (len(keys),) probabilities.
        holders: for each key the numbers, in its group, of the volumes that hold such an object; not the volumes, of
            which a store keeps few open.
    """

    keys: list[ObjectKey]
    shares: np.ndarray
    holders: list[np.ndarray]
    cumulative: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cumulative", np.cumsum(self.shares) / self.shares.sum())

    @classmethod
    def of(
        cls, groups: Mapping[str, Sequence[TrainingVolume]], weights: Mapping[str, float], temperature: float
    ) -> BalancedObjects:
        """Balances a pool.

        Args:
            groups: data set (and modality) -> volumes.
            weights: of the groups: what one case of each counts.
            temperature: 1 or more; see :func:`temper`. It is applied to modalities, to the groups of a modality and to
                the labels of a group, each of the size of the weighted cases that hold it.

        Raises:
            ValueError: for a temperature below 1.
        """
        if not temperature >= 1:
            raise ValueError(f"temperature={temperature}: expected 1 (as many as there are) or more (more even)")
        holders: dict[str, dict[str, dict[int | None, list[int]]]] = defaultdict(lambda: defaultdict(dict))
        cases: dict[tuple[str, str], int] = defaultdict(int)
        for group, volumes in groups.items():
            for number, (modality, values) in enumerate(holdings(volumes)):
                cases[modality, group] += 1
                of_group = holders[modality][group]
                for value in values or (None,):
                    of_group.setdefault(value, []).append(number)
        sizes = {(m, g): weights[g] * n for (m, g), n in cases.items()}
        of_modality = temper({m: sum(sizes[m, g] for g in by_group) for m, by_group in holders.items()}, temperature)
        keys, shares, numbers = [], [], []
        for modality, by_group in holders.items():
            share_of = temper({g: sizes[modality, g] for g in by_group}, temperature)
            for group, by_label in by_group.items():
                of_label = temper({v: len(found) for v, found in by_label.items()}, temperature)
                for value, found in by_label.items():
                    keys.append((modality, group, value))
                    shares.append(of_modality[modality] * share_of[group] * of_label[value])
                    numbers.append(np.array(found, dtype=np.int32))
        return cls(keys, np.array(shares), numbers)

    def draw_key(self, rng: np.random.Generator) -> int:
        """The place of a key, by its share."""
        return min(int(np.searchsorted(self.cumulative, rng.random(), side="right")), len(self.keys) - 1)

    def draw_holder(self, place: int, rng: np.random.Generator) -> tuple[str, int, int | None]:
        """Group, number of a volume of it, drawn evenly of those that hold a key's object, and the label value."""
        found, (_, group, value) = self.holders[place], self.keys[place]
        return group, int(found[int(rng.integers(len(found)))]), value
