"""Cases as the sampler takes them: read from a store crop by crop, or from the files of a catalog into memory.

    pool = open_pool("store", {"msd_liver": 1.0, "brats:MR T1": 0.5}, preprocessing)
    sample = draw_sample(pool, seed, step, index, config, preprocessing)

Nothing the size of a volume is held: an image is read, mapped to the model's intensities and cropped where a sample
asks for it, coarser copies come from the store's pyramid. The same draw from a store and from the files is the same
sample, up to the float16 of the pyramid.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from ..preprocessing import IntensityMapping, PreprocessingConfig
from .catalog import Case, Catalog
from .crops import PyramidLevel, TrainingVolume, build_pyramid
from .label_maps import read_labels
from .label_plan import LabelPlan, wild_values
from .pool import TrainingPool
from .reading import grid_difference, read_grid
from .store_address import open_store
from .store_case import LABEL_COLUMNS, StoreConfig, index_labels
from .store_reader import Store, StoreCase
from .store_views import CaseArray, StoredImage, StoredLabels, renumber
from .structures import Structure, structures_of

MAX_OPEN_VOLUMES = 512
"""Volumes that a pool keeps open, of all its groups together, in each process that draws."""


class StoreVolumes(Sequence[TrainingVolume]):
    """Cases of a store, each opened as a training volume when it is asked for.

    Args:
        cases: which.
        preprocessing: the model's; must be the one that the store was prepared with.
        max_open: volumes that are kept open: indices and look-up tables, some 100 kB to 1 MB each, no voxels.
    """

    def __init__(self, cases: Sequence[StoreCase], preprocessing: PreprocessingConfig, max_open: int = 64) -> None:
        self.cases = tuple(cases)
        self.preprocessing = preprocessing
        self.max_open = max_open
        self._open: OrderedDict[int, TrainingVolume] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> TrainingVolume: ...
    @overload
    def __getitem__(self, index: slice) -> StoreVolumes: ...
    def __getitem__(self, index: int | slice) -> TrainingVolume | StoreVolumes:
        """A volume; asking for it again costs nothing while it is kept open."""
        if isinstance(index, slice):
            return StoreVolumes(self.cases[index], self.preprocessing, self.max_open)
        number = range(len(self))[index]
        volume = self._open.pop(number, None)
        if volume is None:
            volume = open_volume(self.cases[number], self.preprocessing)
            while len(self._open) >= self.max_open:
                self._open.popitem(last=False)
        self._open[number] = volume
        return volume

    def labelled_images(self) -> StoreVolumes:
        """See :class:`~promptseg.data.indexed.Indexed`."""
        found = [
            n for n, (case, held) in enumerate(zip(self.cases, self._held, strict=True)) if held and case.has_image
        ]
        volumes = StoreVolumes([self.cases[n] for n in found], self.preprocessing, self.max_open)
        volumes.__dict__["_held"] = [self._held[n] for n in found]
        return volumes

    def holds(self, number: int) -> tuple[str, tuple[int, ...]]:
        """See :class:`~promptseg.data.indexed.Indexed`."""
        return self.cases[number].modality, self._held[number]

    @cached_property
    def _held(self) -> list[tuple[int, ...]]:
        """Labels of each case that can be drawn, read from the index once; cases that hold the same share a tuple."""
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        plans = (_plan_of(case) for case in self.cases)
        values = (plan.values if plan else () for plan in plans)
        return [known.setdefault(held, held) for held in values]

    def structures_of(self, number: int) -> tuple[Structure, ...]:
        """See :class:`~promptseg.data.indexed.Indexed`."""
        plan = _plan_of(self.cases[number])
        return _structures_of(self.cases[number], plan) if plan else ()

    def boxes_of(self, number: int) -> dict[int, np.ndarray]:
        """See :class:`~promptseg.data.indexed.Indexed`."""
        plan = _plan_of(self.cases[number])
        return plan.boxes_mm(self.cases[number].spacing_mm) if plan else {}


def open_pool(
    store: Store | str | Path,
    weights: Mapping[str, float],
    preprocessing: PreprocessingConfig,
    fold: str = "train",
    max_cases: int | None = None,
    skip_empty: bool = False,
) -> TrainingPool:
    """The cases of a fold as the sampler's pool, read from the store as they are drawn.

    Args:
        store: a store, or its address: a folder, that of a Zarr export too, or the URL of one.
        weights: group -> weight; a group is ``dataset`` or ``dataset:modality``.
        preprocessing: the model's.
        fold: which cases; ``validation`` and ``test`` are never trained on.
        max_cases: at most so many cases of a group.
        skip_empty: leave out groups without cases in the fold, and cases without labels, as validation does.

    Raises:
        ValueError: for a group without cases, unless those are skipped; if nothing is left; for a store that was
            prepared with another preprocessing.
    """
    store = store if isinstance(store, Store) else open_store(store)
    groups: dict[str, Any] = {}
    of_dataset: dict[str, list[StoreCase]] = defaultdict(list)
    for case in store.select(fold=fold):
        of_dataset[case.dataset].append(case)
    for group in weights:
        dataset, _, modality = group.partition(":")
        found = [case for case in of_dataset[dataset] if modality in ("", case.modality)]
        cases = [case for case in found if not skip_empty or len(case.labels)][:max_cases]
        if not cases and skip_empty:
            continue
        if not cases:
            there = ", ".join(sorted({f"{case.dataset}:{case.modality} ({case.fold})" for case in store})) or "nothing"
            raise ValueError(f"group {group!r} has no case of fold {fold!r} in the store, which holds {there}")
        for case in cases:
            check_preprocessing(case, preprocessing)
        groups[group] = StoreVolumes(cases, preprocessing, max(1, MAX_OPEN_VOLUMES // max(8, len(weights))))
    if not groups:
        raise ValueError(f"no case of fold {fold!r} in the store; name data sets in data_weights")
    total = sum(weights[group] for group in groups)
    return TrainingPool(groups, {group: weights[group] / total for group in groups})


def check_preprocessing(case: StoreCase, preprocessing: PreprocessingConfig) -> None:
    """Refuses an image that was prepared for another intensity preprocessing, or for none.

    Raises:
        ValueError: naming what differs.
    """
    stored = case.record.get("pyramid", {}).get("preprocessing", {})
    wanted = asdict(preprocessing)
    if case.has_image and stored != wanted:
        differing = {key: f"{stored.get(key)} stored, {value} wanted" for key, value in wanted.items()
                     if stored.get(key) != value} if stored else "none is stored"  # fmt: skip
        raise ValueError(
            f"{case.key} was not prepared for this intensity preprocessing ({differing}); prepare the store again with "
            "that of the model: promptseg data prepare ... --preprocessing CONFIG.json"
        )


def open_volume(case: StoreCase, preprocessing: PreprocessingConfig) -> TrainingVolume:
    """A case of a store as a training volume whose voxels stay in the store.

    Raises:
        ValueError: if the store was prepared with another preprocessing, or a file is damaged.
    """
    check_preprocessing(case, preprocessing)
    levels: list[PyramidLevel] = []
    if case.has_image:
        low, high, *table = case.source.table(case.record, "intensity").tolist()
        mapping = IntensityMapping(low, high, np.array(table, dtype=np.float32))
        image: Any = StoredImage(CaseArray(case, "image"), case.shape, mapping)
        levels.append(PyramidLevel(image, case.spacing_mm, np.zeros(3)))
        for number, level in enumerate(case.record["pyramid"]["levels"], 1):
            image = StoredImage(CaseArray(case, f"level{number}"), tuple(level["shape"]))
            levels.append(PyramidLevel(image, np.array(level["spacing_mm"]), np.array(level["offset_mm"])))
    plan = _plan_of(case)
    if plan is None:
        return _volume(case, tuple(levels), None, case.spacing_mm)
    labels = StoredLabels(CaseArray(case, "label"), plan.low, plan.step, plan.shape, plan.renumbering)
    foreground = case.source.table(case.record, "foreground")
    structures = _structures_of(case, plan)
    return _volume(case, tuple(levels), labels, case.spacing_mm, plan, foreground, _names_of(case), structures)


def _names_of(case: StoreCase) -> dict[int, str]:
    return {int(value): name for value, name in case.dataset_info["terms"].items()}


def _plan_of(case: StoreCase) -> LabelPlan | None:
    """How a case's labels become the sampler's, from the index alone; None without labels."""
    if not case.has_label:
        return None
    info, rows = case.dataset_info, case.record["labels"]
    is_object = case.instances or info["unnamed_values"] != "expected"
    wild = wild_values(rows[:, 0].tolist(), _names_of(case), info["ignore"], is_object)
    return LabelPlan.make(rows, case.shape, case.spacing_mm, case.has_image, wild, info["ignore"])


def _structures_of(case: StoreCase, plan: LabelPlan) -> tuple[Structure, ...]:
    """What a case shows by name, with the sampler's values."""
    unions = tuple(case.dataset_info["unions"].items())
    found = structures_of(_names_of(case), unions, case.absent, case.annotated, case.complete)
    return _renumbered(found, plan)


def _renumbered(structures: tuple[Structure, ...], plan: LabelPlan) -> tuple[Structure, ...]:
    new_values = dict(plan.renumbering)
    if not new_values:
        return structures  # the same object for all cases of a data set
    return tuple(
        replace(s, values=tuple(new_values.get(v, v) for v in s.values)) if s.values else s for s in structures
    )


def load_volume(catalog: Catalog, case: Case, preprocessing: PreprocessingConfig) -> TrainingVolume:
    """A case of a catalog as a training volume in memory, without a store.

    Raises:
        ValueError: if the case cannot be used.
    """
    image = None if case.image is None else read_grid(case.image, case.frame)
    found = read_labels(catalog, case, image)
    if image is not None and found is not None and (difference := grid_difference(image, found.grid)):
        raise ValueError(f"{case.key}: the grid of the label is not the image's: {difference}; resample the label")
    levels = () if image is None else build_pyramid(image.array, image.spacing_mm, preprocessing)
    if found is None:
        assert image is not None, f"{case.key} has neither an image nor a label"
        return _volume(case, levels, None, image.spacing_mm)
    array, spacing_mm = found.grid.array, (image or found.grid).spacing_mm
    entries, foreground = index_labels(array, case.key, StoreConfig.foreground_samples)
    rows = np.array(entries, dtype=np.int64).reshape(-1, len(LABEL_COLUMNS))
    is_object = case.instances or catalog.unnamed_values != "expected"
    wild = wild_values(rows[:, 0].tolist(), catalog.names, catalog.ignore, is_object)
    plan = LabelPlan.make(rows, array.shape, spacing_mm, image is not None, wild, catalog.ignore)
    thinned = array[plan.slices]
    structures = structures_of(catalog.names, catalog.unions, case.absent, case.annotated, case.complete)
    labels = renumber(np.ascontiguousarray(thinned), plan.renumbering)
    shown = _renumbered(structures, plan)
    return _volume(case, levels, labels, spacing_mm, plan, foreground, catalog.names, shown)


def _volume(
    case: Case | StoreCase,
    levels: tuple[PyramidLevel, ...],
    labels: Any,
    spacing_mm: np.ndarray,
    plan: LabelPlan | None = None,
    foreground: np.ndarray | None = None,
    names: Mapping[int, str] = MappingProxyType({}),
    structures: tuple[Structure, ...] = (),
) -> TrainingVolume:
    if plan is None or foreground is None:
        return TrainingVolume(case.name, case.dataset, case.modality, levels, None, spacing_mm)
    new_values = dict(plan.renumbering)
    return TrainingVolume(
        case=case.name,
        dataset=case.dataset,
        modality=case.modality,
        levels=levels,
        labels=labels,
        spacing_mm=spacing_mm * plan.step,
        objects=plan.objects(foreground),
        boxes_mm=plan.boxes_mm(spacing_mm),
        names={new_values.get(value, value): name for value, name in names.items()},
        structures=structures,
    )
