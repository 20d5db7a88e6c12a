"""Parsers made from dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptseg.cli.command import Command, field_docstrings, join_negative_values, option, parse_options
from promptseg.cli.coordinates import parse_coordinates, parse_stroke
from promptseg.cli.segment import COMMAND as SEGMENT


@dataclass(frozen=True)
class Inner:
    """Options of a part."""

    rate: float = 0.5
    """a share"""


@dataclass(frozen=True)
class Example:
    """An example."""

    source: str = option(is_positional=True)
    """where from"""
    count: int = 3
    """how many; 50 % more is fine"""
    kind: Literal["a", "b"] = "a"
    """which"""
    is_loud: bool = False
    """whether it
    shouts"""
    is_on: bool = True
    """whether it works"""
    inner: Inner = field(default_factory=Inner)
    """the part"""


EXAMPLE = Command(Example, lambda config: 0, example="  promptseg example x")
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 3))


def test_defaults_and_options() -> None:
    assert parse_options("example", EXAMPLE, ["x"]) == Example("x")
    words = ["x", "--count", "-7", "--kind", "b", "--is-loud", "--no-is-on", "--inner.rate", "0.25"]
    assert parse_options("example", EXAMPLE, words) == Example("x", -7, "b", True, False, Inner(0.25))


def test_field_docstrings_are_one_line() -> None:
    assert field_docstrings(Example)["is_loud"] == "whether it shouts"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "required: source"),
        (["x", "--count", "many"], "--count: expected int. Got value: many"),
        (["x", "--kind", "c"], "--kind: expected one of 'a', 'b'. Got value: c"),
        (["x", "y"], "unrecognized arguments: y"),
        (["x", "--coutn", "3"], "unrecognized arguments: --coutn 3"),
        (["x", "--count"], "--count: expected one argument"),
        (["x", "--config", "nowhere.yaml"], "--config: File does not exist: "),
    ],
)
def test_words_that_do_not_fit(words: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match="see promptseg example --help") as caught:
        parse_options("example", EXAMPLE, words)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_file_is_the_same_config(tmp_path: Path) -> None:
    path = tmp_path / "segment.yaml"
    path.write_text("image: ct.nii\noutput: a.nii\npoint:\n- [1, 2, 3]\n- -4,5,6.5\nspace: lps\n", encoding="utf-8")
    words = ["ct.nii", "-o", "a.nii", "--point", "1,2,3", "--point", "-4,5,6.5", "--space", "lps"]
    assert parse_options("segment", SEGMENT, ["--config", str(path)]) == parse_options("segment", SEGMENT, words)
    later = parse_options("segment", SEGMENT, ["--config", str(path), "--space", "ras"])
    assert later.space == "ras"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_any_coordinates_come_through_in_order(points: list[tuple[float, float, float]]) -> None:
    words = ["ct.nii", "-o", "m.nii"]
    for i, j, k in points:
        words += ["--point", f"{i},{j},{k}"]
    config = parse_options("segment", SEGMENT, words)
    assert config.point == tuple(points)


@pytest.mark.parametrize("value", ["1,2", "1,2,3,4", "1;2;3", "a,b,c", "", "1,,3", "nan,1,2", "inf,1,2", "1 2 3"])
def test_bad_coordinates_name_the_form(value: str) -> None:
    with pytest.raises(ValueError, match="expected 3 numbers with commas") as caught:
        parse_coordinates(value, 3, "--point", "I,J,K")
    assert "--point" in str(caught.value)
    assert "I,J,K" in str(caught.value)


def test_strokes() -> None:
    assert parse_stroke("-1,2,3;4,5,6 7,8,9;", "--scribble") == ((-1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert parse_stroke([[1, 2, 3]], "--scribble") == ((1, 2, 3),)
    for bad in ("", ";", "1,2"):
        with pytest.raises(ValueError, match="--scribble"):
            parse_stroke(bad, "--scribble")


def test_only_numbers_are_joined() -> None:
    assert join_negative_values(["--a", "-x", "-o", "-1", "-.5,1"]) == ["--a", "-x", "-o", "-1", "-.5,1"]
    assert join_negative_values(["--box-low", "-.5,1"]) == ["--box-low=-.5,1"]
