"""The intensity mapping: monotone, bounded, blind to units and orientation, and cheap on large images."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.preprocessing import IntensityMapping, PreprocessingConfig, subsample


def image_like(kind: str, shape: tuple[int, int, int] = (20, 24, 28), seed: int = 0) -> np.ndarray:
    """Intensities as CT, MR, PET, a mask and two values have them."""
    random = np.random.default_rng(seed)
    if kind == "CT":
        return random.choice([-1000, -80, 40, 60, 900], shape) + random.normal(0, 15, shape).round()
    if kind == "MR":
        return np.abs(random.normal(300, 120, shape))
    if kind == "PET":
        return random.gamma(0.5, 1.0, shape) ** 3
    if kind == "mask":
        return (random.random(shape) > 0.999).astype(float)
    return random.choice([0.0, 1e-6], shape)


kinds = st.sampled_from(["CT", "MR", "PET", "mask", "tiny"])


@settings(max_examples=30)
@given(kinds, st.integers(0, 3))
def test_it_is_monotone_and_fills_minus_one_to_one(kind: str, seed: int) -> None:
    array = image_like(kind, seed=seed)
    mapping = IntensityMapping.from_array(array)
    mapped = mapping.map_array(array).numpy()
    assert mapped.dtype == np.float32
    assert mapped.min() == pytest.approx(-1, abs=1e-3)
    assert mapped.max() == pytest.approx(1, abs=1e-3)
    order = np.argsort(array.ravel(), kind="stable")
    assert (np.diff(mapped.ravel()[order]) >= -1e-6).all()
    beyond = mapping(torch.tensor([-1e30, 1e30]))
    assert beyond.tolist() == pytest.approx([-1, 1])


@settings(max_examples=20)
@given(kinds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_units_do_not_matter(kind: str, slope: float, intercept: float) -> None:
    array = image_like(kind)
    scale = float(np.ptp(array))
    other = array * slope + intercept * scale * slope
    first, second = (IntensityMapping.from_array(a).map_array(a) for a in (array, other))
    assert float((first - second).abs().mean()) < 5e-3


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "float32", "float64", "bool"])
def test_every_dtype_is_mapped_as_its_values(dtype: str) -> None:
    array = (np.random.default_rng(0).integers(0, 120, (12, 13, 14)) > 60) if dtype == "bool" else (
        np.random.default_rng(0).integers(0, 120, (12, 13, 14)).astype(dtype)
    )  # fmt: skip
    mapping = IntensityMapping.from_array(array)
    expected = mapping(torch.from_numpy(array.astype(np.float32)))
    torch.testing.assert_close(mapping.map_array(array), expected)
    torch.testing.assert_close(mapping.map_array(array[::-1, :, ::2]), expected.flip(0)[:, :, ::2])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.filterwarnings("error")
def test_memory_that_torch_does_not_take_is_mapped(dtype: str) -> None:
    image = np.arange(60).reshape(1, 6, 10).astype(dtype)
    mapping = IntensityMapping.from_array(image)
    expected = mapping.map_array(image)
    image.flags.writeable = False
    assert torch.equal(mapping.map_array(image), expected)
    assert torch.equal(mapping.map_array(image[::-1]), expected)  # one slice: contiguous, with a negative stride
    assert torch.equal(mapping.map_array(image[:, ::-1]), expected.flip(1))


def test_negative_short_integers_are_looked_up_right() -> None:
    array = np.array([[[-32768, -1024, -1], [0, 1, 32767]]], dtype=np.int16)
    mapping = IntensityMapping(-1024.0, 3071.0, np.linspace(-1, 1, 257, dtype=np.float32))
    expected = np.clip((array.astype(float) + 1024) / 4095, 0, 1) * 2 - 1
    np.testing.assert_allclose(mapping.map_array(array).numpy(), expected, atol=1e-5)
    other = mapping.map_array(array.clip(0, 255).astype(np.uint8))  # another dtype needs another table
    np.testing.assert_allclose(other.numpy(), (array.clip(0, 255) + 1024.0) / 4095 * 2 - 1, atol=1e-5)


def test_outliers_and_constants_do_no_harm() -> None:
    array = image_like("MR")
    spiked = array.copy()
    spiked[3, 4, 5] = 1e9
    first, second = (IntensityMapping.from_array(a).map_array(array) for a in (array, spiked))
    assert float((first - second).abs().mean()) < 0.02
    pair = np.array([[[198.0]], [[201.0]]])  # percentiles between them leave both out
    assert IntensityMapping.from_array(pair).map_array(pair).flatten().tolist() == [-1, 1]
    constant = IntensityMapping.from_array(np.full((4, 5, 6), 7.0)).map_array(np.full((4, 5, 6), 7.0))
    assert constant.isfinite().all()


def test_soft_tissue_keeps_contrast_beside_air_and_bone() -> None:
    array = image_like("CT")
    mapping = IntensityMapping.from_array(array)
    fat, muscle = mapping(torch.tensor([-80.0, 50.0]))
    assert float(muscle - fat) > 2 * 130 / 2000  # twice what a linear range from -1000 to 1000 would leave


def test_turning_the_image_changes_little() -> None:
    array = image_like("CT", (40, 50, 60))
    config = PreprocessingConfig(max_samples=5000)
    first = IntensityMapping.from_array(array, config)
    second = IntensityMapping.from_array(array[::-1].transpose(2, 0, 1), config)
    values = torch.linspace(-1000, 1000, 50)
    assert float((first(values) - second(values)).abs().max()) < 0.2


@given(st.tuples(*[st.integers(1, 40)] * 3), st.integers(1, 3000))
def test_samples_are_bounded_and_from_the_array(shape: tuple[int, int, int], most: int) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    samples = subsample(array, most)
    assert 1 <= len(samples) <= 2 * most
    assert np.isin(samples, array).all()
    assert len(samples) == array.size or array.size > most


def test_measuring_a_large_image_needs_little_memory() -> None:
    array = np.zeros((400, 400, 200), dtype=np.int16)
    array[::7, ::5, ::3] = 100
    config = PreprocessingConfig(max_samples=100_000)
    tracemalloc.start()
    IntensityMapping.from_array(array, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 8


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"low_percentile": 60, "high_percentile": 40}, ["low_percentile=60", "high_percentile=40"]),
        ({"high_percentile": 101}, ["high_percentile=101"]),
        ({"equalization": 1.5}, ["equalization=1.5"]),
        ({"num_bins": 1}, ["num_bins=1"]),
        ({"clip_limit": 0.5}, ["clip_limit=0.5"]),
    ],
)
def test_contradictions_are_refused(fields: dict[str, float], named: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        PreprocessingConfig(**fields)  # type: ignore[arg-type]
    for name in named:
        assert name in str(caught.value)


@pytest.mark.parametrize("exponent", [120, 900, -140, -1000])
@pytest.mark.parametrize("kind", ["CT", "MR", "PET"])
def test_what_float32_does_not_hold_is_mapped_as_its_multiple(kind: str, exponent: int) -> None:
    array = image_like(kind)
    array[0, 0, :2] = 1e30, -1e30  # beyond what is clipped
    scaled = np.ldexp(array, exponent)
    first, second = (IntensityMapping.from_array(a).map_array(a) for a in (array, scaled))
    assert torch.equal(first, second)


@pytest.mark.parametrize("value", [0.0, -1e17, 1e36])
def test_samples_that_are_all_alike_are_mapped(value: float) -> None:
    mapping = IntensityMapping.from_array(np.full((4, 5, 6), value))
    assert mapping.high > mapping.low
    assert bool(mapping.map_array(np.full((2, 2, 2), value)).isfinite().all())
