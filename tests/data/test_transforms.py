"""Augmentations do what they are named for, to the volumes they were drawn for and no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptseg.data.fields import blur, coarsen, smooth_fields, take_along
from promptseg.data.randomness import Randomness
from promptseg.data.transforms import acquire, equalise, remap
from promptseg.preprocessing import IntensityMapping, PreprocessingConfig

SIZE = 20


def noise(count: int = 2) -> torch.Tensor:
    return torch.randn(count, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) / 3


def test_blur_is_the_gaussian_of_each_volume_and_keeps_the_mean_of_a_constant():
    from scipy.ndimage import gaussian_filter1d

    images = noise()
    blurred = blur(images, torch.tensor([[0.0, 1.0, 0.5], [0.7, 0.0, 0.0]]))
    expected = gaussian_filter1d(images[1].numpy(), 0.7, axis=0, mode="nearest", radius=3)
    np.testing.assert_allclose(blurred[1].numpy(), expected, atol=1e-3)
    assert blurred[0].std() < images[0].std()
    torch.testing.assert_close(blur(torch.full((1, 8, 8, 8), 0.3), torch.ones(1, 3)), torch.full((1, 8, 8, 8), 0.3))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_constant_when_repeated_and_smooth_when_interpolated(axis):
    images = noise()
    thick = coarsen(images, axis, torch.tensor([4.0, 4.0]), torch.tensor([False, True]))
    blocks = thick[0].movedim(axis, 0).reshape(5, 4, SIZE, SIZE)
    assert torch.allclose(blocks, blocks[:, :1].expand_as(blocks))
    expected = images[0].movedim(axis, 0).reshape(5, 4, SIZE, SIZE).mean(dim=1)
    torch.testing.assert_close(blocks[:, 0], expected, atol=1e-5, rtol=1e-4)
    assert thick[1].movedim(axis, 0).diff(dim=0).abs().max() < blocks[:, 0].diff(dim=0).abs().max()


def test_a_linear_ramp_survives_coarsening_between_the_outer_blocks():
    ramp = torch.linspace(-1, 1, SIZE)[:, None, None].expand(1, SIZE, SIZE, SIZE).contiguous()
    found = coarsen(ramp, 0, torch.tensor([4.0]), torch.tensor([True]))
    torch.testing.assert_close(found[:, 2:-2], ramp[:, 2:-2], atol=1e-5, rtol=1e-4)


def test_slices_are_taken_by_each_volumes_own_list():
    images = noise()
    index = torch.tensor([[1, 3], [0, 5]])
    assert torch.equal(take_along(images, index, 1), torch.stack([images[0][:, [1, 3]], images[1][:, [0, 5]]]))


def test_fields_are_smooth_and_of_unit_variance_at_their_points():
    field = smooth_fields(Randomness((1,)), 1, 8, 33, 5)
    assert field[..., ::8, ::8, ::8].std().item() == pytest.approx(1, abs=0.15)
    assert field.diff(dim=-1).abs().max() < 1


def test_without_strength_nothing_happens():
    images = noise().clamp(-1, 1)
    assert torch.equal(acquire(images, Randomness((1,)), 0.0), images)
    assert torch.equal(remap(images, Randomness((1,)), PreprocessingConfig(), 0.0), images)


def test_strength_is_each_volumes_own_and_inputs_are_not_written_to():
    images = noise(8).clamp(-1, 1)
    kept = images.clone()
    strength = np.array([0.0, 1.0] * 4)
    changed = remap(acquire(images, Randomness((3,)), strength), Randomness((4,)), PreprocessingConfig(), strength)
    assert torch.equal(images, kept)
    assert torch.equal(changed[::2], images[::2])
    assert not any(torch.equal(a, b) for a, b in zip(changed[1::2], images[1::2], strict=True))
    assert changed.abs().max() <= 1 and changed.isfinite().all()


def test_a_tenth_of_images_is_inverted():
    """Of all changes of contrast only inversion turns the order of intensities round."""
    ramp = torch.linspace(-0.9, 0.9, 8)[:, None, None].expand(600, 8, 8, 8).contiguous()
    changed = remap(ramp, Randomness((5,)), PreprocessingConfig())
    falls = changed[:, 0].mean(dim=(1, 2)) > changed[:, -1].mean(dim=(1, 2))
    assert float(falls.float().mean()) == pytest.approx(0.1, abs=0.04)
    middle = changed[:, 2:6].diff(dim=1).mean(dim=(1, 2, 3))
    assert torch.equal(middle < 0, falls)


def test_some_images_show_a_second_copy_as_after_motion():
    """A block in the dark: blur and thick slices spread it by a few voxels, noise averages out, motion goes further."""
    images = torch.full((150, 32, 32, 32), -1.0)
    images[:, 12:20, 12:20, 12:20] = 1
    changed = acquire(images, Randomness((6,)))
    beams = torch.stack([changed.movedim(axis + 1, 1)[:, :, 12:20, 12:20].mean(dim=(2, 3)) for axis in range(3)], dim=1)
    far = torch.cat([beams[..., :6], beams[..., 27:]], dim=2) + 1  # (n, axes, voxels)
    brightness = far.amax(dim=(1, 2))
    has_copy = brightness > 0.09
    assert float(has_copy.float().mean()) == pytest.approx(0.08, abs=0.04)
    assert brightness[has_copy].max() < 1, "the copy is fainter than what it is of"


def test_one_volume_and_a_numpy_generator_do_as_well():
    image = noise(1)[0]
    found = [acquire(image, np.random.default_rng(2), 1.0) for _ in range(2)]
    assert found[0].shape == image.shape and torch.equal(*found)


def test_equalisation_is_the_models_own_up_to_its_sampling():
    images = torch.rand(2, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) ** 3
    config = PreprocessingConfig()
    found = equalise(images, config, step=1)
    for image, mapped in zip(images, found, strict=True):
        expected = IntensityMapping.from_array(image.numpy(), config)(image)
        assert (mapped - expected).abs().max() < 0.03
    assert torch.equal(equalise(torch.full((1, 4, 4, 4), 0.2), config), torch.zeros(1, 4, 4, 4))
