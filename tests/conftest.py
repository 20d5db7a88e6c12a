"""What all tests share: where the real data are, and small volumes that lie any way in space."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from promptseg.volume import Volume
from promptseg.volume_checks import warn_of_missing_orientation, warn_of_missing_spacing

settings.register_profile("promptseg", deadline=None, max_examples=50)
settings.load_profile("promptseg")

ORIENTATIONS = tuple(
    "".join(axes[n] for n in order)
    for order in itertools.permutations(range(3))
    for axes in itertools.product("RL", "AP", "SI")
)
"""All 48 ways in which the axes of an array can run along those of the body."""


def make_affine(
    orientation: str = "RAS",
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    turn: Sequence[float] = (0.0, 0.0, 0.0),
    shear: float = 0.0,
) -> np.ndarray:
    """A (4, 4) affine, voxel indices to RAS millimetres.

    Args:
        orientation: where the array's axes run to, before the turn.
        spacing: mm along the array's axes.
        origin: mm of the first voxel.
        turn: axis of a rotation times its angle in radians.
        shear: of the array's second axis towards its first.
    """
    axes = np.zeros((3, 3))
    for n, letter in enumerate(orientation):
        world = next(w for w, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        axes[world, n] = 1.0 if letter in "RAS" else -1.0
    skew = np.eye(3)
    skew[0, 1] = shear
    affine = np.eye(4)
    affine[:3, :3] = _rotation(np.asarray(turn, dtype=float)) @ axes @ np.diag(spacing) @ skew
    affine[:3, 3] = origin
    return affine


def _rotation(turn: np.ndarray) -> np.ndarray:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(turn))
    if angle == 0:
        return np.eye(3)
    x, y, z = turn / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def make_array(shape: Sequence[int] = (5, 6, 7), dtype: str = "float32") -> np.ndarray:
    """An array in which no two voxels are equal, as far as the dtype has values."""
    count = int(np.prod(shape))
    return (np.arange(count) % (120 if np.dtype(dtype).itemsize == 1 else count)).reshape(shape).astype(dtype)


_spacings = st.tuples(*[st.floats(-3.5, 1.0).map(lambda e: 10.0**e)] * 3)
"""0.3 um to 10 mm."""

_origins = st.tuples(*[st.floats(-500, 500)] * 3)


def affines(oblique: bool = True, sheared: bool = True) -> st.SearchStrategy[np.ndarray]:
    """Affines of any orientation, spacing and place; turned and skewed by any amount that scanners do, and more."""
    turns = st.tuples(*[st.floats(-0.6, 0.6)] * 3) if oblique else st.just((0.0, 0.0, 0.0))
    shears = st.one_of(st.just(0.0), st.floats(-0.3, 0.3)) if sheared else st.just(0.0)
    return st.builds(make_affine, st.sampled_from(ORIENTATIONS), _spacings, _origins, turns, shears)


def volumes(oblique: bool = True, sheared: bool = True, longest: int = 9) -> st.SearchStrategy[Volume]:
    """Small volumes of any shape on such grids; single slices and single rows among them."""
    shapes = st.tuples(*[st.integers(1, longest)] * 3)
    return st.builds(lambda s, a: Volume(make_array(s), a), shapes, affines(oblique, sheared))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: ``PROMPTSEG_DATA``, or ``shared/data`` beside the checkout."""
    given = os.environ.get("PROMPTSEG_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data in {root}; set PROMPTSEG_DATA")
    return root


MakeVolume = Callable[..., Volume]


@pytest.fixture
def make_volume() -> MakeVolume:
    """Makes a small volume: ``make_volume(shape, dtype, **arguments of make_affine)``."""

    def make(shape: Sequence[int] = (5, 6, 7), dtype: str = "float32", **geometry: object) -> Volume:
        return Volume(make_array(shape, dtype), make_affine(**geometry))  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def _warnings_once_per_test() -> Iterator[None]:
    """Warnings that come once per process come once per test."""
    warn_of_missing_spacing.cache_clear()
    warn_of_missing_orientation.cache_clear()
    yield


@pytest.fixture
def promptseg_tiny() -> str:
    """Name of the weights that ship; skips where this checkout has none."""
    from promptseg.models.registry import list_models

    if "promptseg-tiny" not in list_models():
        pytest.skip("the weights promptseg-tiny are not in this checkout")
    return "promptseg-tiny"
