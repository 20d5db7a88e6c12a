"""The training pool: volumes of several data sets, drawn with a weight for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .balance import BalancedObjects
from .crops import TrainingVolume
from .indexed import Indexed

if TYPE_CHECKING:
    from .structures import Structure

    _Elsewhere = list[tuple[Structure, tuple[int, ...]]]

MIN_VOLUMES_LOOKED_AT = 200
MAX_KEPT = 1024
"""Kinds of volumes for which it is kept what their labels rule out, so that memory does not grow with the pool."""
MIN_VOLUMES_THAT_SHOW = 2
"""Volumes that must label a structure for others to teach that they do not show it."""


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
        return self.draw_from(self.draw_source(rng, temperature), rng, temperature)

    def draw_source(self, rng: np.random.Generator, temperature: float = 0.0) -> int:
        """What is drawn first: the place of a group, or with a temperature of a label of one. Arguments as above."""
        if temperature:
            return self._balanced(temperature).draw_key(rng)
        return int(rng.choice(len(self.groups), p=[self.weights[name] for name in self.groups]))

    def draw_from(
        self, source: int, rng: np.random.Generator, temperature: float = 0.0
    ) -> tuple[TrainingVolume, int | None]:
        """A volume and one of its labels, of a drawn source: what cannot be used is drawn again there, so that the
        sources keep their shares."""
        if temperature:
            group, number, value = self._balanced(temperature).draw_holder(source, rng)
            return self.groups[group][number], value
        volumes = self.groups[list(self.groups)[source]]
        volume = volumes[int(rng.integers(len(volumes)))]
        values = list(volume.objects)
        return volume, values[int(rng.integers(len(values)))] if values else None

    def labelled_images(self) -> TrainingPool:
        """The images with labels of their own; the groups that have some keep their weights to each other.

        Raises:
            ValueError: if there is none.
        """
        groups: dict[str, Sequence[TrainingVolume]] = {}
        for name, volumes in self.groups.items():
            if isinstance(volumes, Indexed):
                found = volumes.labelled_images()
            else:
                found = [volume for volume in volumes if volume.levels and volume.objects]
            if len(found):
                groups[name] = found
        if not groups:
            raise ValueError(
                f"no image with labels among {', '.join(self.groups)}: set real_from to 0 for paintings alone"
            )
        total = sum(self.weights[name] for name in groups)
        return TrainingPool(groups, {name: self.weights[name] / total for name in groups})

    def some_outlines(self) -> Iterator[tuple[tuple[Structure, ...], Mapping[int, np.ndarray]]]:
        """What some evenly chosen volumes of each group show, 200 to 400 of one that has as many: to tell what the pool
        is. None of an index is opened.

        Returns:
            Of each its structures, and the box (2, 3) in mm of each of its labels.
        """
        for volumes in self.groups.values():
            for number in range(0, len(volumes), max(1, len(volumes) // MIN_VOLUMES_LOOKED_AT)):
                if isinstance(volumes, Indexed):
                    yield volumes.structures_of(number), volumes.boxes_of(number)
                else:
                    yield volumes[number].structures, volumes[number].boxes_mm

    @property
    def _kinds(self) -> list[tuple[tuple[Structure, ...], int]]:
        """Structures of :meth:`some_outlines`, and how many have the very same; found once."""
        if "_found_kinds" not in self.__dict__:
            found: dict[int, tuple[tuple[Structure, ...], int]] = {}
            for structures, _ in self.some_outlines():
                found[id(structures)] = structures, found.get(id(structures), (structures, 0))[1] + 1
            self.__dict__["_found_kinds"] = list(found.values())
        return self.__dict__["_found_kinds"]

    def make_tables(self, temperature: float = 0.0, with_names: bool = True) -> None:
        """Makes what draws look up, which else the first draw does: before loaders, which then share it, are started.

        Args:
            temperature: see :meth:`draw`.
            with_names: structures are asked for by name.
        """
        if temperature:
            self._balanced(temperature)
        if with_names:
            for structures, _ in self._kinds[:MAX_KEPT]:
                self._elsewhere(structures)

    def askable(self, volume: TrainingVolume) -> tuple[Structure, ...]:
        """What can be asked for by name in a volume: of what is absent from it, only what several others show."""
        return self._asked_of(volume)[0]

    def strangers(self, volume: TrainingVolume) -> tuple[Structure, ...]:
        """Structures that are certainly not in a volume and that hardly any other shows: not learnt is not seen."""
        return self._asked_of(volume)[1]

    def elsewhere(self, volume: TrainingVolume) -> _Elsewhere:
        """Structures that others show and a volume does not speak of, with the label values that exclude them."""
        return self._asked_of(volume)[2]

    def _asked_of(self, volume: TrainingVolume) -> tuple[tuple[Structure, ...], tuple[Structure, ...], _Elsewhere]:
        """The three above, kept with the volume for as long as it is open: it may speak of thousands of structures."""
        known, shown = volume.__dict__.setdefault("_asked", {}), self._shown
        if shown not in known:
            askable = tuple(s for s in volume.structures if s.values or s.key in shown)
            strangers = tuple(s for s in volume.structures if not s.values and s.key not in shown)
            known[shown] = askable, strangers, self._elsewhere(volume.structures)
        return known[shown]

    def _elsewhere(self, structures: tuple[Structure, ...]) -> _Elsewhere:
        from .exclusion import Exclusion

        known = self.__dict__.setdefault("_known_elsewhere", {})
        if "_exclusion" not in self.__dict__:
            self.__dict__["_exclusion"] = Exclusion(structures for structures, _ in self._kinds)
        spoken = tuple((s.key, s.values) for s in structures)  # of a data set often the same for all volumes
        if spoken not in known:
            if len(known) >= MAX_KEPT:
                known.clear()
            known[spoken] = self.__dict__["_exclusion"].elsewhere(structures, self._shown)
        return known[spoken]

    @property
    def _shown(self) -> frozenset[tuple[str, int, int]]:
        """Structures that several of :meth:`some_outlines` label; found once."""
        if "_shown_keys" not in self.__dict__:
            counts: Counter[tuple[str, int, int]] = Counter()
            for structures, number in self._kinds:
                counts.update({s.key: number for s in structures if s.values})
            self.__dict__["_shown_keys"] = frozenset(k for k, n in counts.items() if n >= MIN_VOLUMES_THAT_SHOW)
        return self.__dict__["_shown_keys"]

    def _balanced(self, temperature: float) -> BalancedObjects:
        """The table for a temperature, made once."""
        tables = self.__dict__.setdefault("_tables", {})
        if temperature not in tables:
            tables[temperature] = BalancedObjects.of(self.groups, self.weights, temperature)
        return tables[temperature]
