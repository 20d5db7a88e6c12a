"""Structures that are named, drawn where an atlas says that they lie: for images that show all of what it holds.

The atlas is registered to the image once. Where it fits, a structure's map, taken to the image, is the mask that the
decoder refines; the side of a name is then as sure as the image's orientation. Where it does not fit, because the image
shows something else or a part, nothing is said, and the structure is looked for as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .boxes import filled_box
from .engine import TileEngine
from .interaction import Interaction
from .models.atlas import Atlas, AtlasConfig
from .prompts import PromptSet
from .registration import FINE_MM, Registration, register
from .resample import sample_tile
from .search import Finding, hint_on_tile
from .structures import Structure, text_tokens
from .text import TextQuery, encode_text
from .text.laterality import BOTH, NONE
from .volume import Volume

MIN_PRESENCE = 0.8
"""Mean estimate of the word head that an image shows an atlas's structures, below which it is not registered."""
MAX_MISMATCH = 0.78
"""Largest mismatch of a registration that is believed."""
MIN_IN_VIEW = 0.9
"""Least share of the atlas's structures in the image."""
OBLIQUE_DEGREES = 5.0
"""Turn of an image's axes from the scanner's, above which an atlas is tried along both."""
LEVELS_LOOKED_AT = 2
"""Zoom levels, from the coarsest, at which the word head says whether structures are there."""
MAX_TILES_LOOKED_AT = 12
"""Most tiles of such a level."""
LIKELY = 0.5
"""Share of label maps from which on a place counts as the structure; half of the most where none has it."""
PLANES_AT_ONCE = 16
"""Planes of voxels that an atlas is read for at a time."""
MIN_VOXELS = 8
"""Smallest mask, in voxels of the image, that is handed to the decoder."""


def draw_by_atlas(interaction: Interaction, structures: Sequence[Structure]) -> dict[int, Finding]:
    """Draws those of some structures that an atlas among the weights holds, if it fits the image.

    Returns:
        Number of a structure -> what was found of it; nothing of those that are to be looked for otherwise.
    """
    engine = interaction.engine
    found: dict[int, Finding] = {}
    for atlas_number, atlas in enumerate(engine.model.atlases):
        assert isinstance(atlas, Atlas)
        maps = {
            n: members for n, s in enumerate(structures) if n not in found and (members := members_of(atlas.config, s))
        }
        if not maps or (placed := registered(engine, atlas_number)) is None:
            continue
        registration, whole = placed  # that all of it is there tells more than the estimate for a small structure
        presence = _presence(engine, [structures[n] for n in maps])
        for (number, members), own in zip(maps.items(), presence, strict=True):
            finding = _draw(interaction, atlas.shares_of(members), atlas.config, registration, max(own, whole))
            if finding is not None:
                found[number] = finding
    return found


def members_of(config: AtlasConfig, structure: Structure) -> list[int]:
    """Numbers of the atlas's maps that make up a structure: both sides of one that was named without a side."""
    asked = structure.query
    if not asked.is_known:
        return []
    return [
        number
        for number, query in enumerate(_queries(config.terms))
        if (query.term_id, query.level) == (asked.term_id, asked.level)
        and (query.laterality == asked.laterality or asked.laterality in (NONE, BOTH))
    ]


@lru_cache(maxsize=8)
def _queries(terms: tuple[str, ...]) -> tuple[TextQuery, ...]:
    return tuple(encode_text(term) for term in terms)


def registered(engine: TileEngine, number: int) -> tuple[Registration, float] | None:
    """An atlas's registration to the engine's image, made when it is first asked for; None where it does not fit.

    Beside it, the mean estimate of the word head that the atlas's structures are there.
    """
    key = engine.weights, number  # the estimate is of the adapters that are on, too
    if key not in engine.registrations:
        engine.registrations[key] = _register(engine, engine.model.get_submodule(f"atlases.{number}"))
    return engine.registrations[key]


def _register(engine: TileEngine, atlas: torch.nn.Module) -> tuple[Registration, float] | None:
    assert isinstance(atlas, Atlas)
    queries = _queries(atlas.config.terms)
    presence = float(np.mean(_presence(engine, [Structure(query, 0.0) for query in queries])))
    if presence < MIN_PRESENCE:
        return None
    tissues: dict[tuple[str, int], list[int]] = {}
    for number, query in enumerate(queries):
        tissues.setdefault((query.term_id, query.level), []).append(number)
    spacing_mm = np.array(engine.lattice.spacing_mm)
    shape = np.array(engine.lattice.shape)
    sides = np.maximum(2, np.ceil(shape * spacing_mm / FINE_MM).astype(int))
    image = sample_tile(
        engine.volume.canonical_array, np.zeros(3), FINE_MM / spacing_mm, int(sides.max()), engine.mapping.map_array
    )[: sides[0], : sides[1], : sides[2]]
    frame = upright_frame(engine.volume)
    frames = [None] if frame is None else [None, frame]  # a tilted slab may be along the patient, or along the scanner
    tried = [register(atlas, image, FINE_MM, list(tissues.values()), frame=f) for f in frames]
    found = min(tried, key=lambda registration: registration.mismatch)
    return (found, presence) if found.mismatch <= MAX_MISMATCH and found.in_view >= MIN_IN_VIEW else None


def upright_frame(volume: Volume) -> np.ndarray | None:
    """Right, anterior and superior as columns (3, 3) in canonical axes, where these are well off; else None."""
    first_mm, *next_mm = volume.from_canonical_points(np.vstack([np.zeros(3), np.eye(3)]), "ras")
    steps_mm = np.transpose(next_mm - first_mm)
    left, _, right = np.linalg.svd(steps_mm / np.linalg.norm(steps_mm, axis=0))
    axes = left @ right  # the nearest rotation
    return axes.T if np.degrees(np.arccos(np.clip((np.trace(axes) - 1) / 2, -1, 1))) > OBLIQUE_DEGREES else None


def _presence(engine: TileEngine, structures: Sequence[Structure]) -> list[float]:
    """The word head's estimate that each structure is in the image."""
    if engine.model.word_head is None:
        return [1.0] * len(structures)
    tokens, lattice = text_tokens(engine.model, structures), engine.lattice
    best: Tensor | None = None
    for level in range(lattice.num_levels - 1, max(-1, lattice.num_levels - 1 - LEVELS_LOOKED_AT), -1):
        tiles = lattice.all_tiles(level)
        if len(tiles) > MAX_TILES_LOOKED_AT:
            break
        for tile in tiles:
            seen = hint_on_tile(engine, tile, tokens).presence_logits[0].float().cpu().sigmoid()
            best = seen if best is None else torch.maximum(best, seen)
    return [0.0] * len(structures) if best is None else best.tolist()


def _draw(
    interaction: Interaction, shares: Tensor, config: AtlasConfig, registration: Registration, presence: float
) -> Finding | None:
    """Draws what a map of the atlas shows; None for less than a few voxels."""
    mask, low = _mask_in_image(interaction.engine, shares, config, registration)
    box = None if mask is None else filled_box(mask)
    if mask is None or box is None or mask.sum() < MIN_VOXELS:
        return None
    mask = np.ascontiguousarray(mask[tuple(slice(int(a), int(b)) for a, b in zip(*box, strict=True))])
    low, high = low + box[0], low + box[1]
    ends = low.astype(float), high.astype(float)
    drawing = interaction.start(PromptSet(boxes=(ends,), mask=mask, mask_low=low, mask_box=(low, high)))
    if drawing.canvas.box_vox() is None:
        return None
    return Finding(canvas=drawing.canvas, presence=presence, score=drawing.score)


def _mask_in_image(
    engine: TileEngine, shares: Tensor, config: AtlasConfig, registration: Registration
) -> tuple[np.ndarray | None, np.ndarray]:
    """Canonical voxels where a structure likely is, in a box, and the box's first voxel."""
    spacing_mm, shape = np.array(engine.lattice.spacing_mm), np.array(engine.lattice.shape)
    threshold = min(LIKELY, 0.5 * float(shares.max()))
    if threshold <= 0:
        return None, np.zeros(3, dtype=int)
    there = np.argwhere(shares.numpy() > threshold)
    corners = np.array(np.meshgrid(*zip(there.min(axis=0) - 1, there.max(axis=0) + 1, strict=True))).reshape(3, -1).T
    corners_mm = np.array(config.origin_mm) + config.spacing_mm * corners
    voxels = (corners_mm @ registration.matrix.T + registration.offset_mm) / spacing_mm
    low = np.clip(np.floor(voxels.min(axis=0)), 0, shape - 1).astype(int)
    high = np.clip(np.ceil(voxels.max(axis=0)) + 1, low + 1, shape).astype(int)
    mask = np.empty(high - low, dtype=bool)
    for first in range(0, len(mask), PLANES_AT_ONCE):
        planes = mask[first : first + PLANES_AT_ONCE]
        starts, ends = low + np.array([first, 0, 0]), low + np.array([first, 0, 0]) + planes.shape
        axes = [spacing * np.arange(a, b) for spacing, a, b in zip(spacing_mm, starts, ends, strict=True)]
        there_mm = registration.to_atlas_mm(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))
        grid = torch.from_numpy((there_mm - config.origin_mm) / config.spacing_mm).float()
        scaled = (2 * grid / (torch.tensor(config.shape) - 1) - 1).flip(-1)
        read = F.grid_sample(shares[None, None], scaled[None], align_corners=True)[0, 0]
        planes[:] = (read > threshold).numpy()
    return mask, low
