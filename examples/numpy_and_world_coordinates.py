"""An array with its affine, prompts in millimetres, probabilities of a region: promptseg inside another program.

python examples/numpy_and_world_coordinates.py
"""

from __future__ import annotations

import argparse

import numpy as np

from promptseg import Predictor


def make_image() -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in noise on an anisotropic grid, and the affine that places it in millimetres (RAS)."""
    spacing_mm = np.array([1.0, 1.0, 3.0])
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-40.0, -40.0, 100.0]
    i, j, k = np.indices((80, 80, 30)) * spacing_mm.reshape(3, 1, 1, 1)
    is_ball = (i - 40) ** 2 + (j - 50) ** 2 + (k - 45) ** 2 < 18**2
    noise = np.random.default_rng(0).normal(0, 15, is_ball.shape)
    return (100 + 80 * is_ball + noise).astype(np.float32), affine


def main(model: str) -> None:
    """Clicks the ball three times over: by voxel, by RAS and by LPS millimetres; all three give one mask."""
    image, affine = make_image()
    predictor = Predictor.from_pretrained(model)
    predictor.set_image(image, affine=affine)  # or spacing=(1, 1, 3), where orientation does not matter
    by_voxel = predictor.predict(points=[(40, 50, 15)])
    by_ras = predictor.predict(points=[(0.0, 10.0, 145.0)], space="ras")
    by_lps = predictor.predict(points=[(0.0, -10.0, 145.0)], space="lps")
    assert np.array_equal(by_voxel.mask, by_ras.mask)
    assert np.array_equal(by_voxel.mask, by_lps.mask)
    assert by_voxel.mask.shape == image.shape  # always the grid that came in

    around = ((35, 45, 13), (46, 56, 18))  # half-open voxel box
    probability = by_voxel.probability(around)
    print(f"{by_voxel.volume_ml:.1f} ml (the ball has {4 / 3 * np.pi * 18**3 / 1000:.1f} ml)")
    print(f"mean probability around the click {probability.mean():.2f}, in an array of shape {probability.shape}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="promptseg-tiny")
    main(parser.parse_args().model)
