"""An object's logits on the part of a zoom level where it has been drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .boxes import box_slices, filled_box
from .resample import sample_grid
from .tiles import TileKey, TileLattice

ENFORCED_LOGIT = 1.0
"""Size of the logit written around a click that the decoder did not respect."""
UNDRAWN_LOGIT = -10.0
"""What counts as drawn where nothing was, when it lies between what was."""


@dataclass(frozen=True)
class Canvas:
    """Logits of one object at one level; immutable, each change gives a new canvas.

    Attributes:
        lattice: of the image.
        level: whose voxels the logits lie on.
        low: (3,) level voxel of the first logit.
        logits: (n0, n1, n2) float32; NaN where nothing was drawn.
    """

    lattice: TileLattice
    level: int
    low: np.ndarray
    logits: Tensor

    @classmethod
    def from_tiles(cls, lattice: TileLattice, tiles: list[TileKey], logits: Iterable[Tensor]) -> Canvas:
        """Blends tiles of one level with Gaussian weights, so that no seams show.

        Args:
            lattice: of the image.
            tiles: at least one, all of one level.
            logits: (len(tiles), T, T, T) float32, or an iterable that makes them one by one.
        """
        size = lattice.tile_size
        lows = np.stack([lattice.tile_low(t) for t in tiles])
        low, high = lows.min(axis=0), lows.max(axis=0) + size
        if len(tiles) == 1:
            return cls(lattice, tiles[0].level, low, next(iter(logits)).clone())
        window = gaussian_window(size)
        total = torch.zeros(tuple(high - low))
        weight = torch.zeros_like(total)
        for tile_low, tile_logits in zip(lows - low, logits, strict=True):
            part = tuple(slice(int(a), int(a) + size) for a in tile_low)
            total[part] += window * tile_logits
            weight[part] += window
        return cls(lattice, tiles[0].level, low, torch.where(weight > 0, total / weight, torch.nan))

    @classmethod
    def blank(cls, lattice: TileLattice) -> Canvas:
        """A canvas on which nothing is: one voxel of the coarsest level."""
        return cls(lattice, lattice.num_levels - 1, np.zeros(3, dtype=int), torch.full((1, 1, 1), UNDRAWN_LOGIT))

    @property
    def high(self) -> np.ndarray:
        """(3,) one past the last level voxel."""
        return self.low + np.array(self.logits.shape)

    def paste(self, tile: TileKey, logits: Tensor, keeps_drawn: bool = False) -> Canvas:
        """Replaces a tile's core and fades into what was there towards the tile's border.

        Args:
            tile: of this canvas's level.
            logits: (T, T, T) float32.
            keeps_drawn: replace only what was not drawn, and fade into what was there from its end inwards.

        Returns:
            A canvas that spans both.
        """
        tile_low = self.lattice.tile_low(tile)
        tile_high = tile_low + self.lattice.tile_size
        low, high = np.minimum(self.low, tile_low), np.maximum(self.high, tile_high)
        out = torch.full(tuple(int(n) for n in high - low), torch.nan)
        out[box_slices(self.low - low, self.high - low)] = self.logits
        part = box_slices(tile_low - low, tile_high - low)
        old = out[part]
        window = fade_window(self.lattice.tile_size)
        if keeps_drawn:
            window = window * (1 - depth_inside(~old.isnan(), self.lattice.tile_size // 8))
        out[part] = torch.where(old.isnan(), logits, old + window * (logits - old))
        return Canvas(self.lattice, self.level, low, out)

    def limited(self, before: Canvas, adds: bool) -> Canvas:
        """This canvas as far as it adds to an earlier mask, or as far as it takes away from it.

        Args:
            before: of the same level, inside this one.
            adds: keep what was included; else keep what was excluded, and draw nothing new.
        """
        part = box_slices(before.low - self.low, before.high - self.low)
        old, new = before.logits, self.logits[part]
        if not adds:
            return Canvas(self.lattice, self.level, before.low, torch.minimum(old, new))
        out = self.logits.clone()
        out[part] = torch.where(old.isnan(), new, torch.maximum(old, new))
        return Canvas(self.lattice, self.level, self.low, out)

    def local(self, before: Canvas, place: np.ndarray, reach: float) -> Canvas:
        """This canvas near a place, which fades into an earlier one away from it.

        Args:
            before: of the same level, inside this one; what was not drawn there counts as outside of the object.
            place: (3,) level voxel position.
            reach: level voxels at which the change has fallen to e^-1.
        """
        new, old = self.logits, torch.full_like(self.logits, UNDRAWN_LOGIT)
        old[box_slices(before.low - self.low, before.high - self.low)] = before.logits.nan_to_num(UNDRAWN_LOGIT)
        weight = torch.exp(-_squared_distance(new, place - self.low) / reach**2)
        is_let_be = new.isnan() | ((old == UNDRAWN_LOGIT) & (new <= 0))
        return Canvas(self.lattice, self.level, self.low, torch.where(is_let_be, new, old + weight * (new - old)))

    def distance_to(self, place: np.ndarray, inside: bool) -> float:
        """Level voxels from a position (3,) to the nearest voxel in the mask, or outside it; infinite without one."""
        is_other = (self.logits > 0) != inside
        return float(_squared_distance(self.logits, place - self.low).masked_fill_(is_other, torch.inf).min()) ** 0.5

    def cropped(self, margin: int) -> Canvas:
        """The logits around the mask, in memory of their own; a single voxel of an empty one.

        Args:
            margin: level voxels that are kept around the mask's box.
        """
        box = filled_box((self.logits > 0).numpy())
        if box is None:
            return Canvas(self.lattice, self.level, self.low, torch.full((1, 1, 1), UNDRAWN_LOGIT))
        low = np.maximum(box[0] - margin, 0)
        high = np.minimum(box[1] + margin, self.logits.shape)
        return Canvas(self.lattice, self.level, self.low + low, self.logits[box_slices(low, high)].clone())

    def for_tile(self, tile: TileKey) -> Tensor:
        """Logits on a tile of any level, as its mask prompt: (T, T, T) float32, 0 where unknown."""
        size, lattice = self.lattice.tile_size, self.lattice
        tile_low = lattice.tile_low(tile)
        if tile.level == self.level:
            out = torch.zeros((size,) * 3)
            low, high = np.maximum(self.low, tile_low), np.minimum(self.high, tile_low + size)
            if (low < high).all():
                out[box_slices(low - tile_low, high - tile_low)] = self.logits[
                    box_slices(low - self.low, high - self.low)
                ]
            return out.nan_to_num_(0.0)
        return self._at_level(self.logits.nan_to_num(0.0), tile.level, tile_low, (size,) * 3, 0.0)

    def within(self, before: Canvas) -> Canvas:
        """This canvas as far as it lies in an earlier mask of any level, up to one of that level's voxels beyond it."""
        widened = F.max_pool3d(before.logits.nan_to_num(UNDRAWN_LOGIT)[None, None], 3, stride=1, padding=1)[0, 0]
        most = before._at_level(widened, self.level, self.low, tuple(self.logits.shape), UNDRAWN_LOGIT)
        return Canvas(self.lattice, self.level, self.low, torch.minimum(self.logits, most))  # NaN stays NaN

    def _at_level(self, values: Tensor, level: int, low: np.ndarray, shape: tuple[int, ...], fill: float) -> Tensor:
        """Values on this canvas's voxels, interpolated at the voxels of another level from ``low`` on: float32."""
        lattice, ratio = self.lattice, 2.0 ** (level - self.level)
        start = (lattice.from_level(self.low, self.level) - lattice.from_level(low, level)) / lattice.step_vox(level)
        first = np.maximum(np.ceil(start - 0.5 / ratio), 0).astype(int)
        last = np.minimum(np.floor(start + (np.array(values.shape) - 0.5) / ratio) + 1, shape).astype(int)
        out = torch.full(shape, fill)
        if (first < last).all():
            out[box_slices(first, last)] = sample_grid(values, start, np.full(3, 1 / ratio), first, last)
        return out

    def box_vox(self, minimum_logit: float = 0.0) -> tuple[np.ndarray, np.ndarray] | None:
        """Half-open box, in canonical voxels (float), of the mask's level voxels; None for an empty mask."""
        box = filled_box((self.logits > minimum_logit).numpy())
        if box is None:
            return None
        return (
            self.lattice.from_level(self.low + box[0] - 0.5, self.level) + 0.5,
            self.lattice.from_level(self.low + box[1] - 0.5, self.level) + 0.5,
        )

    @property
    def volume_ml(self) -> float:
        """Of the mask on the level's voxels, in millilitres."""
        return float((self.logits > 0).sum()) * self.lattice.level_spacing_mm(self.level) ** 3 / 1000

    def open_tiles(self) -> list[TileKey]:
        """Tiles that hold what lies next to the mask but was not drawn: few, those that hold most of it first."""
        half = self.lattice.tile_size // 2
        last = np.array(self.lattice.counts(self.level)) - 1
        beyond = self._undrawn_neighbours()
        tiles: list[TileKey] = []
        while len(beyond):
            nearest = np.clip(np.round((beyond + 0.5) / half - 1), 0, last).astype(int)
            places, counts = np.unique(nearest, axis=0, return_counts=True)
            place = places[np.argmax(counts)]
            tiles.append(TileKey(self.level, (int(place[0]), int(place[1]), int(place[2]))))
            local = beyond - place * half
            beyond = beyond[~((local >= 0) & (local < self.lattice.tile_size)).all(axis=1)]
        return tiles

    def _undrawn_neighbours(self) -> np.ndarray:
        """(N, 3) level voxels of the image next to the mask that were not drawn; sides with one or two are let be."""
        inside = (self.logits > 0).numpy()
        undrawn = self.logits.isnan().numpy()
        has_gaps = bool(undrawn.any())
        grid_shape = self.lattice.grid_shape(self.level)
        found = [np.zeros((0, 3), dtype=int)]
        for axis in range(3):
            lower, upper = (
                tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(None, -1), slice(1, None))
            )
            for step, at_end in ((-1, self.low[axis] <= 0), (1, self.high[axis] >= grid_shape[axis])):
                beyond = []
                if not at_end:
                    end = inside.shape[axis] - 1 if step == 1 else 0
                    beyond.append(np.insert(np.argwhere(inside.take(end, axis=axis)), axis, end + step, axis=1))
                if has_gaps:
                    here, there = (lower, upper) if step == 1 else (upper, lower)
                    beyond.append(np.argwhere(inside[here] & undrawn[there]) + (np.arange(3) == axis) * (step == 1))
                if sum(map(len, beyond)) > 2:
                    found.append(np.concatenate(beyond) + self.low)
        places = np.concatenate(found)
        return places[((places >= 0) & (places < grid_shape)).all(axis=1)]  # moved tiles reach beyond the grid

    def sample(self, low_vox: np.ndarray, high_vox: np.ndarray) -> Tensor:
        """Logits at the canonical voxels of a half-open integer box; -inf where nothing was drawn."""
        step = self.lattice.step_vox(self.level)
        start = self.lattice.from_level(self.low, self.level)
        inner_low = np.maximum(low_vox, np.ceil(start - step / 2 - 1e-6)).astype(int)
        inner_high = np.minimum(
            high_vox, np.floor(start + step * (np.array(self.logits.shape) - 0.5) + 1e-6) + 1
        ).astype(int)
        values = self.logits.nan_to_num(nan=UNDRAWN_LOGIT)
        if np.array_equal(inner_low, low_vox) and np.array_equal(inner_high, high_vox):
            return sample_grid(values, start, step, low_vox, high_vox)
        out = torch.full(tuple(int(n) for n in high_vox - low_vox), -torch.inf)
        if (inner_low < inner_high).all():
            inner = box_slices(inner_low - low_vox, inner_high - low_vox)
            out[inner] = sample_grid(values, start, step, inner_low, inner_high)
        return out

    def enforce(self, points_vox: np.ndarray, labels: np.ndarray) -> Canvas:
        """Turns the logits around each click that is not respected, so that the click is."""
        if not len(points_vox):
            return self
        logits = self.logits.clone()
        for point, label in zip(self.lattice.to_level(points_vox, self.level) - self.low, labels, strict=True):
            if (point < -0.5).any() or (point > np.array(logits.shape) - 0.5).any():
                continue  # not drawn there; an excluded point far from the object
            low = np.clip(np.floor(point), 0, np.array(logits.shape) - 1).astype(int)
            part = logits[box_slices(low, np.minimum(low + 2, logits.shape))]
            weight = 1 - np.clip(np.abs(point - low), 0, 1)
            value = part
            for axis in range(3):
                end = min(1, part.shape[axis] - 1)
                a, b = value.select(0, 0), value.select(0, end)
                value = weight[axis] * a + (1 - weight[axis]) * b
            if label and not float(value) > 0:
                part.copy_(part.nan_to_num(UNDRAWN_LOGIT).clamp(min=ENFORCED_LOGIT))
            elif not label and float(value) > 0:
                part.copy_(part.nan_to_num(UNDRAWN_LOGIT).clamp(max=-ENFORCED_LOGIT))
        return Canvas(self.lattice, self.level, self.low, logits)


def _squared_distance(like: Tensor, place: np.ndarray) -> Tensor:
    """Square of each voxel's distance to a position (3,), in voxels: float32 of the shape of ``like``."""
    squares = [(torch.arange(n) - p) ** 2 for n, p in zip(like.shape, place.tolist(), strict=True)]
    return (squares[0][:, None, None] + squares[1][:, None] + squares[2]).float()


def gaussian_window(size: int) -> Tensor:
    """Blending weight of a tile's voxels: (size, size, size), 1 at the centre, small at the border."""
    axis = torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / (size * 0.25)) ** 2)
    return axis[:, None, None] * axis[None, :, None] * axis[None, None, :]


def fade_window(size: int) -> Tensor:
    """Weight of a re-drawn tile over what was there: 1 in the core, falling to 0 over the outer eighth."""
    distance = torch.minimum(torch.arange(size), torch.arange(size - 1, -1, -1)).float()
    axis = ((distance + 0.5) / (size / 8)).clamp(max=1.0)
    return torch.minimum(torch.minimum(axis[:, None, None], axis[None, :, None]), axis[None, None, :])


def depth_inside(drawn: Tensor, reach: int) -> Tensor:
    """How far voxels lie inside a region: (n0, n1, n2) bool to float32, 0 at its end, 1 from ``reach`` voxels on.

    What lies beyond the array is taken as part of the region.
    """
    outside = ~drawn
    depth = torch.zeros(drawn.shape)
    for _ in range(max(1, reach)):
        for axis in range(3):
            grown, along = outside.clone(), drawn.shape[axis] - 1
            grown.narrow(axis, 1, along).logical_or_(outside.narrow(axis, 0, along))
            grown.narrow(axis, 0, along).logical_or_(outside.narrow(axis, 1, along))
            outside = grown
        depth += (~outside).float() / max(1, reach)
    return depth
