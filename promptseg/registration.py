"""Registers an atlas to an image: which affine map makes the atlas's structures explain the image's intensities best.

The cost is the correlation ratio: what is left of the intensities' variance once each structure has its own mean. It
asks for no particular contrast, so that T1, T2, proton density and painted images are all the same to it. Starts all
over the image are compared on a coarse grid, and the best of them are followed by gradients on finer ones.

Source: Roche et al., The correlation ratio as a new similarity measure for multimodal image registration, 1998; the
coarse search as in Jenkinson and Smith, A global optimisation method for robust affine registration, 2001.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .models.atlas import Atlas

FINE_MM = 4.0
"""Spacing of the image that is registered at last."""
START_STEP_MM = 16.0
"""Distance of the places that are tried first."""
MAX_PLACES = 200
"""Most of them."""
START_PITCHES = (-0.35, 0.0, 0.35)
"""Turns about the axis from left to right that are tried at each place, in radians: how far a chin is up or down."""
START_SCALES = (0.9, 1.08)
"""Sizes that are tried at each place and turn."""
NUM_FOLLOWED = (8, 2)
"""Starts that are followed on the coarse grid, and on the fine one."""
NUM_STEPS = 40
"""Steps of the optimiser on each grid."""
LEARNING_RATES = (0.04, 0.02)
"""Of Adam, on the coarse grid and on the fine one; the map's entries are of the order of one."""
OFFSET_UNIT_MM = 50.0
"""What an offset is counted in there."""
SURROUNDINGS_MM = 20.0
"""How far around its structures an atlas is compared: far enough to see where a head ends."""
RARELY = 0.1
"""Share of label maps up to which a place is not taken for one of the structures."""
VARIANCE_FLOOR = 0.1
"""Variance, in units of the image's, that is added to that of the compared part, or an even part would be the best."""
AROUND_MM = 28.0
"""Half of the side of the cube that a place is compared with, so that a coil's shading tells nothing."""
LOCAL_FLOOR = 0.3
"""Share of the local contrast of the whole image that is added to that of each place, lest noise be raised."""
LOCAL_WEIGHT = 0.5
"""Weight of intensities beside those around them; the rest is that of intensities as they are."""
OUTSIDE_WEIGHT = 0.5
"""Cost of lying wholly outside the image."""
PRIOR_WEIGHT = 0.01
"""Cost of a map that deviates by one standard deviation from the atlas as it is."""
PITCH_DEVIATION, TURN_DEVIATION, SIZE_DEVIATION, SHAPE_DEVIATION = 0.25, 0.12, 0.08, 0.06
"""Standard deviations of maps: the turn about the axis from left to right, those about the other two axes, in radians,
the logarithm of the size, and each entry of the matrix besides."""


@dataclass(frozen=True)
class Registration:
    """Where an atlas lies in an image: at ``matrix @ atlas_mm + offset_mm``.

    Attributes:
        matrix: (3, 3).
        offset_mm: (3,) from the centre of the first canonical voxel.
        mismatch: share of the variance of the intensities that the structures do not explain, 0 to 1, and more where
            a part of the atlas lies outside the image.
        in_view: share of the atlas's structures that lies in the image, 0 to 1.
    """

    matrix: np.ndarray
    offset_mm: np.ndarray
    mismatch: float
    in_view: float

    def to_atlas_mm(self, positions_mm: np.ndarray) -> np.ndarray:
        """Positions in the image (..., 3) as positions in the atlas."""
        return (positions_mm - self.offset_mm) @ np.linalg.inv(self.matrix).T


@dataclass(frozen=True)
class _Compared:
    """What of an atlas is compared: N places (N, 3) in mm, and how often each of K tissues is there (K, N)."""

    places_mm: Tensor
    shares: Tensor
    is_structure: Tensor
    """(N,) how much of a place is a structure of the atlas."""

    def every(self, step: int, shape: tuple[int, ...], numbers: Tensor) -> _Compared:
        """Only the places on every ``step``-th voxel along each axis."""
        index = torch.stack(torch.unravel_index(numbers, shape))
        kept = (index % step == 0).all(dim=0)
        return _Compared(self.places_mm[kept], self.shares[:, kept], self.is_structure[kept])


def register(
    atlas: Atlas,
    image: Tensor,
    spacing_mm: float,
    tissues: Sequence[Sequence[int]],
    frame: np.ndarray | None = None,
) -> Registration:
    """Registers an atlas to an image; deterministic.

    Args:
        atlas: to register.
        image: (I, J, K) float32 preprocessed intensities on a cubic grid, axes towards right, anterior and superior.
        spacing_mm: of the image; :data:`FINE_MM` or about it.
        tissues: numbers of the structures that look alike, such as those of both sides, for all structures.
        frame: (3, 3) right, anterior and superior of an upright patient as columns, in the axes of the image, for one
            that was taken obliquely; None where the axes are those directions.

    Returns:
        The best registration that was found. Some seconds on one core.
    """
    config = atlas.config
    shares = torch.stack([atlas.shares_of(list(numbers)) for numbers in tissues])
    structures = shares.sum(dim=0).clamp(max=1)
    reach = int(round(SURROUNDINGS_MM / config.spacing_mm))
    near = F.max_pool3d(structures[None, None], 2 * reach + 1, 1, reach)[0, 0] > RARELY
    numbers = near.flatten().nonzero()[:, 0]
    other = atlas.shares_of([len(config.terms)])
    all_shares = torch.cat([shares, other[None], (1 - structures - other).clamp(min=0)[None]]).flatten(1)[:, numbers]
    places = torch.from_numpy(config.positions_mm().reshape(-1, 3)).float()[numbers]
    compared = _Compared(places, all_shares, structures.flatten()[numbers])
    fine = _Image.of(image.cpu(), spacing_mm, np.eye(3) if frame is None else frame)
    coarse = fine.halved()
    step = max(1, round(2 * FINE_MM / config.spacing_mm))
    on_coarse = compared.every(step, config.shape, numbers)
    matrices, offsets = _best_starts(coarse, compared.every(step + 1, config.shape, numbers), spacing_mm)
    for seen, part, rate, kept in ((coarse, on_coarse, 0, NUM_FOLLOWED[1]), (fine, compared, 1, 1)):
        matrices, offsets, costs = _follow(seen, part, matrices, offsets, LEARNING_RATES[rate])
        best = costs.argsort()[:kept]
        matrices, offsets, costs = matrices[best], offsets[best], costs[best]
    mismatch = float(_cost(fine, compared, matrices, offsets, floor=1e-3)[0])
    inside = fine.read(_moved(places, matrices, offsets))[1][0]
    in_view = float((inside * compared.is_structure).sum() / compared.is_structure.sum().clamp(min=1e-6))
    turn = fine.frame.double()
    return Registration((turn @ matrices[0].double()).numpy(), (turn @ offsets[0].double()).numpy(), mismatch, in_view)


def _mean_around(values: Tensor, width: int) -> Tensor:
    """Means over cubes of ``width`` voxels: (1, 1, I, J, K)."""
    for axis in range(3):
        kernel = [width if a == axis else 1 for a in range(3)]
        padding = [width // 2 if a == axis else 0 for a in range(3)]
        values = F.avg_pool3d(values, kernel, 1, padding, count_include_pad=False)
    return values


@dataclass(frozen=True)
class _Image:
    """Channels (C, I, J, K), the distance of their voxels, the position (mm) of the first voxel's centre along the
    axes, and the directions in which positions are counted, as columns (3, 3) in these axes."""

    values: Tensor
    spacing_mm: float
    first_mm: float
    frame: Tensor

    @classmethod
    def of(cls, values: Tensor, spacing_mm: float, frame: np.ndarray) -> _Image:
        """The intensities (I, J, K), and what they are beside those around them; each of unit variance."""
        flat = values.float()[None, None]
        width = 2 * round(AROUND_MM / spacing_mm) + 1
        local = flat - _mean_around(flat, width)
        deviation = _mean_around(local.square(), width).sqrt()
        local = local / (deviation + LOCAL_FLOOR * local.std())
        channels = torch.cat([flat, local])[:, 0]
        scale = channels.flatten(1).std(dim=1).clamp(min=1e-6)
        turn = torch.from_numpy(np.asarray(frame, dtype=np.float32))
        return cls(channels / scale[:, None, None, None], spacing_mm, 0.0, turn)

    def halved(self) -> _Image:
        values = F.avg_pool3d(self.values[None], 2, ceil_mode=True, count_include_pad=False)[0]
        return _Image(values, 2 * self.spacing_mm, self.first_mm + self.spacing_mm / 2, self.frame)

    def read(self, positions_mm: Tensor) -> tuple[Tensor, Tensor]:
        """Channels at positions (S, N, 3): (C, S, N); and whether these lie in the image: (S, N)."""
        sides = torch.tensor(self.values.shape[1:])
        voxels = (positions_mm @ self.frame.T - self.first_mm) / self.spacing_mm
        grid = (2 * voxels / (sides - 1).clamp(min=1) - 1).flip(-1)
        values = self.values[None].expand(len(grid), -1, -1, -1, -1)
        read = F.grid_sample(values, grid[:, :, None, None], align_corners=True, padding_mode="border")
        return read[:, :, :, 0, 0].transpose(0, 1), (grid.abs() <= 1).all(dim=-1).float()


def _moved(places_mm: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    return places_mm[None] @ matrices.transpose(1, 2) + offsets[:, None]


def correlation_ratio(shares: Tensor, values: Tensor, inside: Tensor, floor: float) -> Tensor:
    """Share of the variance of intensities that tissues do not explain, 0 to about 1.

    Args:
        shares: (K, N) how much of each place is each of K tissues.
        values: (S, N) intensities there, for each of S maps.
        inside: (S, N) 1 where the image has them, else 0.
        floor: variance that is added to that of the values.

    Returns:
        (S,).
    """
    count = inside @ shares.T + 1e-3
    mean = (inside * values) @ shares.T / count
    square = (inside * values.square()) @ shares.T
    within = (square - count * mean.square()).sum(dim=1)
    total = count.sum(dim=1)
    variance = square.sum(dim=1) - (count * mean).sum(dim=1).square() / total
    return within / (variance + floor * total)


def _cost(
    image: _Image, compared: _Compared, matrices: Tensor, offsets: Tensor, floor: float = VARIANCE_FLOOR
) -> Tensor:
    values, inside = image.read(_moved(compared.places_mm, matrices, offsets))
    ratios = [correlation_ratio(compared.shares, channel, inside, floor) for channel in values]
    unexplained = (1 - LOCAL_WEIGHT) * ratios[0] + LOCAL_WEIGHT * ratios[1]
    return unexplained + OUTSIDE_WEIGHT * (1 - inside.mean(dim=1))


@torch.no_grad()
def _best_starts(image: _Image, compared: _Compared, margin_mm: float) -> tuple[Tensor, Tensor]:
    """The best of many maps, no two of them near each other."""
    half = compared.places_mm.abs().amax(dim=0).numpy() * 0.5
    ranges = []
    for side, margin in zip(image.values.shape[1:], half, strict=True):
        end = (side - 1) * image.spacing_mm
        low, high = (margin, end - margin) if end > 2 * margin + margin_mm else (end / 2, end / 2)
        ranges.append((low, high, 1 + int(np.ceil((high - low) / START_STEP_MM))))
    crowd = max(1.0, (np.prod([n for _, _, n in ranges]) / MAX_PLACES) ** (1 / 3))
    axes = [np.linspace(low, high, max(1, round(n / crowd))) if n > 1 else np.array([low]) for low, high, n in ranges]
    places = torch.tensor(list(itertools.product(*axes)), dtype=torch.float32) @ image.frame
    tried = []
    for pitch, scale in itertools.product(START_PITCHES, START_SCALES):
        matrix = scale * torch.matrix_exp(pitch * _PITCH)
        for part in places.split(64):
            costs = _cost(image, compared, matrix.expand(len(part), 3, 3), part)
            tried += [(cost, pitch, place, matrix) for cost, place in zip(costs.tolist(), part, strict=True)]
    tried.sort(key=lambda start: start[0])
    chosen: list[tuple[float, float, Tensor, Tensor]] = []
    for start in tried:
        if all(bool((start[2] - c[2]).norm() > START_STEP_MM) or start[1] != c[1] for c in chosen):
            chosen.append(start)
        if len(chosen) == NUM_FOLLOWED[0]:
            break
    return torch.stack([c[3] for c in chosen]), torch.stack([c[2] for c in chosen])


def _follow(
    image: _Image, compared: _Compared, matrices: Tensor, offsets: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps improved by gradients, with their costs."""
    with torch.enable_grad():
        matrices = matrices.clone().requires_grad_()
        units = (offsets / OFFSET_UNIT_MM).requires_grad_()
        optimizer = torch.optim.Adam([matrices, units], lr=rate)
        for step in range(NUM_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1.1 - step / NUM_STEPS)
            deviation = (matrices - torch.eye(3)).flatten(1)
            costs = _cost(image, compared, matrices, units * OFFSET_UNIT_MM)
            costs = costs + PRIOR_WEIGHT * ((deviation @ _PRECISION) * deviation).sum(dim=1)
            optimizer.zero_grad()
            costs.sum().backward()
            optimizer.step()
    return matrices.detach(), units.detach() * OFFSET_UNIT_MM, costs.detach()


def _turn(first: int, second: int) -> Tensor:
    """Generator of the turn in the plane of two axes."""
    turn = torch.zeros(3, 3)
    turn[first, second], turn[second, first] = -1.0, 1.0
    return turn


_PITCH = _turn(1, 2)


def _precision() -> Tensor:
    """(9, 9) inverse covariance of a map's deviation from the identity."""
    parts = (
        (PITCH_DEVIATION, _PITCH),
        (TURN_DEVIATION, _turn(0, 2)),
        (TURN_DEVIATION, _turn(0, 1)),
        (SIZE_DEVIATION, torch.eye(3)),
    )
    covariance = SHAPE_DEVIATION**2 * torch.eye(9)
    for deviation, direction in parts:
        covariance += deviation**2 * torch.outer(direction.flatten(), direction.flatten())
    return torch.linalg.inv(covariance)


_PRECISION = _precision()
