"""Boxes of voxels, half-open."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from promptseg.boxes import box_slices, filled_box, intersect_box, union_box

corners = st.tuples(*[st.integers(-5, 9)] * 3).map(np.array)
boxes = st.builds(lambda low, size: (low, low + size), corners, st.tuples(*[st.integers(1, 6)] * 3).map(np.array))


@given(st.tuples(*[st.integers(1, 6)] * 3), st.data(), st.permutations(range(3)), st.booleans())
def test_the_filled_box_is_numpys(
    shape: tuple[int, ...], data: st.DataObject, order: list[int], is_flipped: bool
) -> None:
    array = np.zeros(shape, dtype=data.draw(st.sampled_from([bool, np.uint8, np.float32])))
    for _ in range(data.draw(st.integers(0, 3))):
        array[tuple(data.draw(st.integers(0, n - 1)) for n in shape)] = 1
    array = array.transpose(order)[:: -1 if is_flipped else 1]
    box = filled_box(array)
    places = np.argwhere(array)
    if not len(places):
        assert box is None
    else:
        assert box is not None
        assert np.array_equal(box[0], places.min(axis=0))
        assert np.array_equal(box[1], places.max(axis=0) + 1)
        assert array[box_slices(*box)].sum() == array.sum()


@given(boxes, boxes)
def test_unions_and_intersections_are_those_of_their_voxels(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> None:
    filled = [np.zeros((25, 25, 25), dtype=bool) for _ in range(2)]
    for array, (low, high) in zip(filled, (first, second), strict=True):
        array[box_slices(low + 5, high + 5)] = True
    low, high = union_box(first, second)
    expected = filled_box(filled[0] | filled[1])
    assert expected is not None
    assert np.array_equal(low + 5, expected[0])
    assert np.array_equal(high + 5, expected[1])
    shared = intersect_box(first, second)
    both = filled_box(filled[0] & filled[1])
    assert (shared is None) == (both is None)
    if shared is not None and both is not None:
        assert np.array_equal(shared[0] + 5, both[0])
        assert np.array_equal(shared[1] + 5, both[1])
