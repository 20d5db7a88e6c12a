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
from promptseg.cli.data import COMMAND as DATA
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


@pytest.mark.parametrize(
    ("line", "option", "value"),
    [
        ("text: vertebra", "--text", "vertebra"),
        ("text: 7", "--text", "7"),
        ("point: 86,47,100", "--point", "86,47,100"),
        ("point: [86, 47, 100]", "--point", "86,47,100"),
        ("box: 1,2,3,4,5,6", "--box", "1,2,3,4,5,6"),
        ("scribble: 1,2,3;4,5,6", "--scribble", "1,2,3;4,5,6"),
        ("scribble: [[1, 2, 3], [4, 5, 6]]", "--scribble", "1,2,3;4,5,6"),
        ("lasso: [[[1, 2, 3], [4, 5, 3], [4, 1, 3]]]", "--lasso", "1,2,3;4,5,3;4,1,3"),
        ("adapter: hippocampus", "--adapter", "hippocampus"),
    ],
)
def test_one_value_in_a_yaml_file_is_as_on_the_command_line(tmp_path: Path, line: str, option: str, value: str) -> None:
    path = tmp_path / "segment.yaml"
    path.write_text(f"image: ct.nii\noutput: a.nii\n{line}\n", encoding="utf-8")
    more = [] if option in ("--text", "--box", "--point") else ["--point", "1,2,3"]
    words = ["ct.nii", "-o", "a.nii", option, value, *more]
    assert parse_options("segment", SEGMENT, ["--config", str(path), *more]) == parse_options("segment", SEGMENT, words)


def test_later_options_win_where_they_may_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "segment.yaml"
    for lines in ("text: vertebra", "text: [vertebra, aorta]"):
        path.write_text(f"image: ct.nii\noutput: a.nii\n{lines}\n", encoding="utf-8")
        words = ["--config", str(path), "--text", "liver", "--text", "spleen"]
        assert parse_options("segment", SEGMENT, words).text == ("liver", "spleen")
        assert parse_options("segment", SEGMENT, [*words[2:], *words[:2]]).text[0] == "vertebra"
    path.write_text("image: ct.nii\noutput: a.nii\n", encoding="utf-8")
    between = ["--text", "liver", "--config", str(path), "--text", "spleen"]
    assert parse_options("segment", SEGMENT, between).text == ("liver", "spleen")


def test_one_value_of_a_positional_option(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("action: check\ncatalog: cases.yaml\nroot: cases\n", encoding="utf-8")
    config = parse_options("data", DATA, ["--config", str(path)])
    assert (config.catalog, config.root) == (("cases.yaml",), ("cases",))


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
