"""An atlas is what aligned label maps have in common."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from promptseg.data.atlas_building import build_atlas

from ..phantom_head import PARTS, SPACING_MM, training_volume

VOLUMES = [training_volume(seed) for seed in range(4)]


def test_poses_are_gone_and_shapes_are_sharp():
    atlas = build_atlas(VOLUMES, "heads", SPACING_MM)
    assert atlas.config.terms == tuple(PARTS) and atlas.config.cases == 4
    for number, name in enumerate(atlas.config.terms):
        shares = atlas.shares_of([number])
        volume_ml = float(shares.sum()) * SPACING_MM**3 / 1000
        shown = [
            (v.labels == number + 1).sum() * SPACING_MM**3 / 1000 for v in VOLUMES
        ]  # what later parts cover is gone
        assert volume_ml == pytest.approx(np.mean(shown), rel=0.15), name
        assert shares.max() > 0.9, name


def test_left_lies_left_and_sizes_are_the_mean():
    atlas = build_atlas(VOLUMES, "heads", SPACING_MM)
    places = atlas.config.positions_mm()
    middles = {}
    for number, name in enumerate(atlas.config.terms):
        shares = atlas.shares_of([number]).numpy()
        middles[name] = (places * shares[..., None]).sum(axis=(0, 1, 2)) / shares.sum()
    assert middles["left hippocampus"][0] < 0 < middles["right hippocampus"][0]
    apart = np.linalg.norm(middles["left thalamus"] - middles["right thalamus"])
    assert apart == pytest.approx(24.0, rel=0.1)


def test_both_sides_together_are_never_more_than_all():
    atlas = build_atlas(VOLUMES, "heads", SPACING_MM)
    assert atlas.shares_of(list(range(len(PARTS)))).max() <= 1.0


def test_label_maps_that_share_too_little_are_refused():
    few = [dataclasses.replace(v, structures=v.structures[:5]) for v in VOLUMES]
    with pytest.raises(ValueError, match="share 5 named structures of one value"):
        build_atlas(few, "heads", SPACING_MM)
    with pytest.raises(ValueError, match="its 0 label maps"):
        build_atlas([], "heads", SPACING_MM)
