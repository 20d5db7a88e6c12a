"""Objects of a crop that are asked for by name: structures it shows, and structures it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.word_head import WORD_STRIDE
from ..text import load_bank
from .counted_labels import CountedLabels
from .crops import IGNORED
from .structures import Structure

UNKNOWN = -1.0
"""Share of cells of which a crop does not tell how much is a structure's."""
EXCLUDED_SHARE = 0.25
"""Share of the names of a crop that are ruled out where its labels are, and unknown elsewhere; where there are such."""
STRANGER_SHARE = 0.13
"""Largest share of the names of a crop that are of what no image of the pool shows."""
MIN_LABELLED = 0.75
"""Share of a cell that must be labelled for it to rule out names."""
WORD_TENSORS = ("text", "text_laterality", "text_level", "text_is_present")


@dataclass(frozen=True)
class Words:
    """Names of objects, as the prompt encoder takes them, with the objects' axes in front.

    Attributes:
        text: (..., D) float32 embeddings.
        text_laterality: (...) int64.
        text_level: (...) int64.
        text_is_present: (...) bool: which objects have a name.
    """

    text: Tensor
    text_laterality: Tensor
    text_level: Tensor
    text_is_present: Tensor

    @classmethod
    def none(cls, count: int) -> Words:
        """For ``count`` objects without names."""
        zeros = torch.zeros(count, dtype=torch.long)
        return cls(torch.zeros(count, load_bank().width), zeros, zeros.clone(), zeros.bool())

    @classmethod
    def draw(cls, structures: Sequence[Structure], rng: np.random.Generator) -> Words:
        """For named objects; which of a term's synonyms is used is drawn."""
        return cls(
            torch.from_numpy(np.stack([structure.draw_words(rng) for structure in structures])),
            torch.tensor([structure.laterality for structure in structures]),
            torch.tensor([structure.level for structure in structures]),
            torch.ones(len(structures), dtype=torch.bool),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(self.__dict__)


def _shown_and_hidden(
    labels: CountedLabels, structures: Sequence[Structure], min_voxels: int
) -> tuple[list[Structure], list[Structure]]:
    """Structures of which a crop shows at least ``min_voxels``, and those of which it certainly shows nothing: none
    where it has voxels that may be anything."""
    tells_all = not _is_ignored(labels).any()
    voxels = dict(zip(labels.values.tolist(), labels.voxels.tolist(), strict=True))
    sizes = [sum(voxels.get(v, 0) for v in s.values) for s in structures]
    pairs = list(zip(structures, sizes, strict=True))
    return [s for s, n in pairs if n >= min_voxels], [s for s, n in pairs if n == 0 and s.is_exhaustive and tells_all]


def _is_ignored(labels: CountedLabels) -> np.ndarray:
    """(V,) bool: which values nobody says what they are of."""
    return labels.values >= IGNORED


def cell_share(masks: Tensor) -> Tensor:
    """Share of each cell of the word head that is a structure's, relative to the cell that has most of it.

    A structure smaller than a cell, as most are at a coarse level, would otherwise teach no more than that it is
    nowhere.

    Args:
        masks: (..., D, H, W) bool, multiples of 8 voxels.

    Returns:
        (..., D/8, H/8, W/8) float32; all 0 where there is nothing.
    """
    flat = masks.reshape(-1, 1, *masks.shape[-3:]).float()
    share = _of_densest(F.avg_pool3d(flat, WORD_STRIDE))
    return share.reshape(*masks.shape[:-3], *share.shape[-3:])


def _of_densest(share: Tensor) -> Tensor:
    return share / share.amax(dim=(-3, -2, -1), keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)


def _shares(labels: CountedLabels, cells: Tensor, groups: Sequence[tuple[int, ...]]) -> Tensor:
    """Share of each cell that has one of the values of each group: (G, D/8, H/8, W/8) float32."""
    members = np.array([np.isin(labels.values, values) for values in groups]).reshape(-1, len(labels.values))
    return torch.einsum("dhwv,gv->gdhw", cells, torch.from_numpy(members).float()) / WORD_STRIDE**3


def _pairs_together(structures: Sequence[Structure], rng: np.random.Generator) -> list[Structure]:
    """Structures in a random order, but left and right of one beside each other: they differ in the side alone."""
    places: dict[tuple[str, int], float] = {}
    for structure in structures:
        places.setdefault((structure.term_id, structure.level), float(rng.random()))
    return sorted(structures, key=lambda s: places[s.term_id, s.level])


def _draw_excluded(
    labels: CountedLabels,
    cells: Tensor,
    elsewhere: Sequence[tuple[Structure, tuple[int, ...]]],
    rng: np.random.Generator,
    count: int,
) -> list[tuple[Structure, Tensor]]:
    """Up to ``count`` structures that a crop's labels rule out somewhere, with the cells (D/8, H/8, W/8) bool where."""
    found: list[tuple[Structure, Tensor]] = []
    ruled_out: dict[tuple[int, ...], Tensor] = {}
    present = set(labels.values.tolist())
    possible = [(s, here) for s, values in elsewhere if (here := tuple(v for v in values if v in present))]
    for i in rng.permutation(len(possible)):
        if len(found) == count:
            break
        structure, values = possible[i]
        if values not in ruled_out:
            ruled_out[values] = _shares(labels, cells, [values])[0] >= MIN_LABELLED
        if bool(ruled_out[values].any()):
            found.append((structure, ruled_out[values]))
    return found


def draw_names(
    labels: CountedLabels,
    structures: Sequence[Structure],
    is_mirrored: bool,
    rng: np.random.Generator,
    count: int,
    min_voxels: int,
    elsewhere: Sequence[tuple[Structure, tuple[int, ...]]] = (),
    strangers: Sequence[Structure] = (),
) -> dict[str, Tensor]:
    """Names of what a crop shows and does not show, with the share of each cell that is theirs: for the word head.

    Of a pair, left and right are asked for together.

    Args:
        labels: of an upright crop; none for a crop without names.
        structures: of the volume.
        is_mirrored: left and right of the volume are swapped in the crop.
        rng: source of randomness.
        count: K names; at most two thirds of them are shown, where there are others.
        min_voxels: smallest that counts as shown; what is smaller is not asked for.
        elsewhere: structures that nobody looked for, with the values that rule them out, see
            :meth:`~promptseg.data.pool.TrainingPool.elsewhere`.
        strangers: structures that are not there, see :meth:`~promptseg.data.pool.TrainingPool.strangers`; a few of them
            are asked for.

    Returns:
        The tensors of :class:`Words` for K names as ``name_text`` and so on, and ``name_share`` (K, D/8, H/8, W/8), see
        :func:`cell_share`; -1 where that is unknown.
    """
    words = Words.none(count).tensors()
    share = torch.zeros(count, *(n // WORD_STRIDE for n in labels.numbers.shape))
    if structures or elsewhere:
        chosen, shares = _draw_asked(labels, structures, rng, count, min_voxels, elsewhere, strangers)
        if chosen:
            drawn = Words.draw([s.mirrored() if is_mirrored else s for s in chosen], rng).tensors()
            for name, tensor in words.items():
                tensor[: len(chosen)] = drawn[name]
            share[: len(chosen)] = shares
    return {f"name_{name.removeprefix('text_')}": tensor for name, tensor in words.items()} | {"name_share": share}


def _draw_asked(
    labels: CountedLabels,
    structures: Sequence[Structure],
    rng: np.random.Generator,
    count: int,
    min_voxels: int,
    elsewhere: Sequence[tuple[Structure, tuple[int, ...]]],
    strangers: Sequence[Structure],
) -> tuple[list[Structure], Tensor]:
    """Up to ``count`` structures, and what share of each cell is theirs."""
    cells = torch.from_numpy(labels.in_cells(WORD_STRIDE)).float()
    shown, hidden = _shown_and_hidden(labels, structures, min_voxels)
    excluded = _draw_excluded(labels, cells, elsewhere, rng, int(EXCLUDED_SHARE * count))
    others = [strangers[i] for i in rng.permutation(len(strangers))[: int(STRANGER_SHARE * count)]]
    room = count - len(excluded) - len(others)
    most = max(room - len(hidden), -(-2 * room // 3))
    chosen = _pairs_together(shown, rng)[:most]
    chosen += [hidden[i] for i in rng.permutation(len(hidden))[: room - len(chosen)]]
    chosen += others
    shares = _of_densest(_shares(labels, cells, [structure.values for structure in chosen]))
    if (is_ignored := _is_ignored(labels)).any():
        is_strange = torch.tensor([s in others for s in chosen], dtype=torch.bool)[:, None, None, None]
        shares = torch.where((cells[..., is_ignored] > 0).any(dim=-1) & ~is_strange, UNKNOWN, shares)
    unknown = [torch.where(is_ruled_out, 0.0, UNKNOWN) for _, is_ruled_out in excluded]
    return chosen + [structure for structure, _ in excluded], torch.cat([shares, *(u[None] for u in unknown)])


def choose_named_targets(
    labels: CountedLabels,
    primary: int,
    structures: Sequence[Structure],
    is_mirrored: bool,
    rng: np.random.Generator,
    num_objects: int,
    min_voxels: int,
    absent_share: float,
) -> tuple[np.ndarray, Words] | None:
    """Draws objects with names.

    Args:
        labels: of an upright crop.
        primary: value that the first object shall have a part of.
        structures: of the volume.
        is_mirrored: left and right of the volume are swapped in the crop.
        rng: source of randomness.
        num_objects: P.
        min_voxels: smallest object.
        absent_share: probability that an object but the first is a structure that the crop does not show.

    Returns:
        (P, D, H, W) bool, all False for one that is absent; and the names. None where nothing with a name is there.
    """
    shown, hidden = _shown_and_hidden(labels, structures, min_voxels)
    first = [s for s in shown if primary in s.values] or shown
    if not first:
        return None
    chosen = [first[int(rng.integers(len(first)))]]
    while len(chosen) < num_objects:
        takes_hidden = bool(hidden) and rng.random() < absent_share
        candidates = hidden if takes_hidden else [s for s in shown if s not in chosen] or hidden or shown
        chosen.append(candidates[int(rng.integers(len(candidates)))])
    targets = np.stack([labels.mask(s.values) for s in chosen])
    return targets, Words.draw([s.mirrored() if is_mirrored else s for s in chosen], rng)
