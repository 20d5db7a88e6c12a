"""Classical segmenters with the same prompts as the model, and their tuned parameters.

All of them answer anew from all prompts at each call, work in a bounded window (:mod:`.working_grid`), and set every
clicked voxel as it was clicked. ``benchmarks/tune_baselines.py`` chose the parameters in ``baselines_tuned.json`` on
training cases, with clicks alone.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import slices
from .morphology import ball, closed, dilated, distance_mm, eroded
from .prompts import ObjectPrompts
from .segmenters import SegmenterAnswer, SegmenterImage
from .working_grid import WorkingGrid

TUNED_PATH = Path(__file__).with_name("baselines_tuned.json")


def tuned_parameters(name: str) -> dict[str, Any]:
    """Parameters of a baseline as they were tuned.

    Args:
        name: such as ``random-walker``.
    """
    return dict(json.loads(TUNED_PATH.read_text(encoding="utf-8"))["baselines"][name]["parameters"])


@dataclass
class ClassicalSegmenter(ABC):
    """What the classical baselines share: a window, seeds in it, and a mask back on the image.

    The middle of a box is taken for the object, and nothing outside of it is.
    """

    margin_mm: float = 40.0
    """Of the window around the prompts."""
    max_voxels: int = 64_000
    """Of the window's grid."""
    core: float = 0.3
    """Share of a box, along each axis, whose middle is taken for the object unless a click says otherwise."""

    accepts = frozenset({"points", "box", "scribbles", "mask"})

    @classmethod
    def tuned(cls, name: str) -> ClassicalSegmenter:
        """With the parameters that were tuned for ``name``."""
        return cls(**tuned_parameters(name))

    def set_image(self, image: SegmenterImage) -> None:
        """Keeps the image."""
        self._image = image

    def start_object(self) -> None:
        """Forgets nothing: each answer is made of all prompts anew."""
        return None

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """Segments in the window around the prompts."""
        voxels, labels = prompts.marked_voxels()
        grid = WorkingGrid.around(self._image, prompts, self.margin_mm, self.max_voxels)
        values = self.segment(grid, *self._seeds(grid, prompts))
        mask = grid.to_image(values, self._image.array.shape)
        if prompts.box is not None:
            inside = np.zeros_like(mask)
            inside[slices(*prompts.box)] = True
            mask &= inside
        mask[tuple(voxels.T)] = labels.astype(bool)
        return SegmenterAnswer(mask)

    def _seeds(self, grid: WorkingGrid, prompts: ObjectPrompts) -> tuple[np.ndarray, np.ndarray | None]:
        """Marks of the prompts on the grid.

        Returns:
            (n0, n1, n2) int8, 1 the object's, -1 not the object's, 0 to be decided; and, where a box or a mask bounds
            the object, (n0, n1, n2) bool of what lies outside of it.
        """
        seeds = np.zeros(grid.shape, dtype=np.int8)
        outside = None
        if prompts.mask is not None:
            inside = grid.mask_to_grid(prompts.mask) > 0.5
            depth = max(1, round(3.0 / float(grid.spacing_mm.min())))
            seeds[eroded(inside, depth)] = 1
            outside = ~dilated(inside, depth)
        if prompts.box is not None:
            outside = np.ones(grid.shape, dtype=bool) if outside is None else outside
            low, high = grid.box_on_grid(prompts.box)
            outside[slices(low, high)] = False
            seeds[self._core(grid.shape, low, high, grid.to_grid(prompts.points[prompts.labels == 0]))] = 1
        voxels, labels = prompts.marked_voxels()
        for label, value in ((0, -1), (1, 1)):
            places = tuple(grid.to_grid(voxels[labels == label]).T)
            seeds[places] = value
            if outside is not None and value == 1:
                outside[places] = False
        return seeds, outside

    def _core(self, shape: tuple[int, ...], low: np.ndarray, high: np.ndarray, excluded: np.ndarray) -> np.ndarray:
        """Ellipsoid in the middle of a box, (n0, n1, n2) bool; empty where a click says that it is not the object."""
        half = np.maximum(self.core * (high - low) / 2, 0.51)
        offsets = np.indices(shape).reshape(3, -1).T - (low + high - 1) / 2
        core = ((offsets / half) ** 2).sum(axis=1).reshape(shape) <= 1
        return np.zeros_like(core) if core[tuple(excluded.T)].any() else core

    @abstractmethod
    def segment(self, grid: WorkingGrid, seeds: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
        """Decides the grid's voxels.

        Args:
            grid: the window.
            seeds: (n0, n1, n2) int8, 1 clicked inside, -1 clicked outside, 0 to be decided.
            outside: (n0, n1, n2) bool, what a box or a mask leaves out; None without one.

        Returns:
            (n0, n1, n2), above 0.5 in the object.
        """

    def parameters(self) -> dict[str, Any]:
        """Every parameter and its value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass
class BoxAsMask(ClassicalSegmenter):
    """The box itself; without one, a ball around each click."""

    radius_mm: float = 10.0
    """Of the balls."""

    def segment(self, grid: WorkingGrid, seeds: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
        """What is in the box or a ball, and not nearer to an excluded click than to an included one."""
        if not (seeds == 1).any():
            return np.zeros(grid.shape)
        to_inside = distance_mm(seeds == 1, grid.spacing_mm)
        taken = to_inside <= self.radius_mm if outside is None else ~outside
        if (seeds == -1).any():
            to_excluded = distance_mm(seeds == -1, grid.spacing_mm)
            taken = taken & ((to_inside < to_excluded) | (to_excluded > self.radius_mm))
        return taken.astype(np.float32)


@dataclass
class RegionGrowing(ClassicalSegmenter):
    """Connected voxels of like intensity, by SimpleITK's ConfidenceConnected after smoothing.

    The interval is the mean of the region so far plus and minus a multiple of its standard deviation. It is narrowed
    until no excluded click is inside; should none be narrow enough, what is nearer to the excluded click is cut off.
    """

    multiplier: float = 2.0
    """Half width of the interval, in standard deviations."""
    iterations: int = 2
    """How often mean and deviation are computed again from the region."""
    radius: int = 1
    """Of the neighbourhood of the seeds that starts them, in voxels of the grid."""
    smoothing: int = 2
    """Iterations of curvature flow before."""
    closing: int = 1
    """Radius of the closing after, in voxels of the grid."""

    def segment(self, grid: WorkingGrid, seeds: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
        """The region that grows from the seeds inside."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(grid.image)
        if self.smoothing:
            image = sitk.CurvatureFlow(image, timeStep=0.0625, numberOfIterations=self.smoothing)
        places = np.argwhere(seeds == 1)
        if not len(places):
            return np.zeros(grid.shape)
        chosen = places[np.linspace(0, len(places) - 1, min(len(places), 200)).astype(int)]
        points = [tuple(int(v) for v in place[::-1]) for place in chosen]
        region = seeds == 1
        for narrowing in (1.0, 0.75, 0.5, 0.35, 0.25):
            grown = sitk.ConfidenceConnected(
                image, points, self.iterations, self.multiplier * narrowing, self.radius, 1
            )  # fmt: skip
            region = sitk.GetArrayViewFromImage(grown) > 0
            if not (region & (seeds == -1)).any():
                break
        return self._tidied(region, seeds, outside, grid).astype(np.float32)

    def _tidied(
        self, region: np.ndarray, seeds: np.ndarray, outside: np.ndarray | None, grid: WorkingGrid
    ) -> np.ndarray:
        from scipy.ndimage import binary_fill_holes

        if outside is not None:
            region = region & ~outside
        if self.closing:
            region = closed(region, self.closing)
        region = np.asarray(binary_fill_holes(region))
        if (region & (seeds == -1)).any():
            region &= distance_mm(seeds == 1, grid.spacing_mm) < distance_mm(seeds == -1, grid.spacing_mm)
        return (region | (seeds == 1)) & (seeds != -1)


@dataclass
class FastMarching(ClassicalSegmenter):
    """Voxels that a front from the included clicks reaches early, and before one from the excluded clicks.

    SimpleITK's FastMarching computes geodesic arrival times; a front is slow where intensities differ from those at the
    seeds it started from, and at edges.
    """

    reach_mm: float = 12.0
    """Arrival time, as a distance through homogeneous tissue, up to which voxels are taken."""
    tolerance: float = 1.0
    """Deviation from the seeds' intensity that slows the front to 37 %, in standard deviations of the window."""
    edge: float = 1.0
    """How much edges slow the front; 0 not at all."""

    def segment(self, grid: WorkingGrid, seeds: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
        """Compares the arrival times of both fronts."""
        from scipy.ndimage import gaussian_gradient_magnitude, median_filter

        if not (seeds == 1).any():
            return np.zeros(grid.shape)
        smooth = median_filter(grid.image, size=3)
        spread = max(float(smooth.std()), 1e-6)
        gradient = gaussian_gradient_magnitude(smooth, 1.0) / spread
        barrier = np.exp(-self.edge * gradient / max(float(np.percentile(gradient, 90)), 1e-6))
        limit = self.reach_mm if outside is None else float("inf")
        inside = self._arrival(smooth, seeds == 1, spread, barrier, limit, grid)
        excluded = seeds == -1
        if outside is not None:
            excluded |= outside & dilated(~outside, 1)
        reach = np.full(grid.shape, limit)
        if excluded.any():
            reach = np.minimum(reach, self._arrival(smooth, excluded, spread, barrier, limit, grid))
        taken = (inside < reach) | (seeds == 1)
        if outside is not None:
            taken &= ~outside
        return (taken & (seeds != -1)).astype(np.float32)

    def _arrival(
        self,
        smooth: np.ndarray,
        from_seeds: np.ndarray,
        spread: float,
        barrier: np.ndarray,
        limit: float,
        grid: WorkingGrid,
    ) -> np.ndarray:
        """(n0, n1, n2) arrival times in mm of a front that moves at most 1 mm per unit of time."""
        import SimpleITK as sitk

        places = np.argwhere(from_seeds)
        typical = float(np.median(smooth[from_seeds]))
        speed = np.exp(-(((smooth - typical) / (self.tolerance * spread)) ** 2)) * barrier
        image = sitk.GetImageFromArray(np.maximum(speed, 1e-3).astype(np.float32))
        image.SetSpacing([float(s) for s in grid.spacing_mm[::-1]])
        march = sitk.FastMarchingImageFilter()
        march.SetTrialPoints([[*(int(v) for v in place[::-1]), 0] for place in places])
        if np.isfinite(limit):
            march.SetStoppingValue(limit + 1)
        return sitk.GetArrayFromImage(march.Execute(image))


@dataclass
class RandomWalker(ClassicalSegmenter):
    """scikit-image's random walker from the seeds; the window's border is outside.

    Source: Grady, "Random walks for image segmentation", IEEE TPAMI 28 (2006).
    """

    beta: float = 100.0
    """How much a step across a difference in intensity is avoided."""
    seed_radius: int = 1
    """Of the ball around each click that counts as clicked, in voxels of the grid."""
    threshold: float = 0.5
    """Probability from which a voxel is inside."""

    def segment(self, grid: WorkingGrid, seeds: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
        """Probability that a walker meets an included seed first, moved so that 0.5 is the threshold."""
        from skimage.segmentation import random_walker

        if not (seeds == 1).any():
            return np.zeros(grid.shape)
        marked = np.zeros(grid.shape, dtype=np.int8)
        border = np.ones(grid.shape, dtype=bool)
        border[1:-1, 1:-1, 1:-1] = False
        marked[border] = 2
        if outside is not None:
            marked[outside] = 2
        for value, label in ((-1, 2), (1, 1)):
            marked[dilated(seeds == value, 1, ball(self.seed_radius))] = label
        marked[seeds == -1], marked[seeds == 1] = 2, 1
        if (marked != 0).all():
            return (marked == 1).astype(np.float32)
        low, high = np.percentile(grid.image, [1, 99])
        data = np.clip((grid.image - low) / max(float(high - low), 1e-6), 0, 1)
        if data.min() == data.max():
            data.flat[0] = 1.0  # scikit-image divides by the standard deviation, and would search for ever
        spacing = grid.spacing_mm / grid.spacing_mm.min()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The probability range is outside")
            probability = random_walker(
                data, marked, beta=self.beta, mode="cg_j", tol=1e-3, spacing=tuple(spacing), return_full_prob=True
            )[0]
        return probability - self.threshold + 0.5


BASELINES: dict[str, type[ClassicalSegmenter]] = {
    "box-as-mask": BoxAsMask,
    "region-growing": RegionGrowing,
    "fast-marching": FastMarching,
    "random-walker": RandomWalker,
}
"""Name -> class."""
