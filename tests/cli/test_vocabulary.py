"""``promptseg vocabulary``: search, show and list."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def test_search_finds_by_a_part_of_a_name(run):
    outcome = run("vocabulary", "search", "kidn")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split()[:3] == ["kidney", "left,", "right"]
    assert any(line.strip().startswith("renal cortex") for line in lines)
    assert run("vocabulary", "search", "kidn", "--limit", "2").out.count("\n") == 2


def test_show_says_how_a_text_is_understood(run):
    outcome = run("vocabulary", "show", "rib_left_7", "--json")
    facts = json.loads(outcome.out)
    assert (facts["name"], facts["laterality"], facts["level"]) == ("left rib 7", "left", "7")
    assert (facts["totalsegmentator"], facts["snomed"]) == ("rib_left_7", "113197003")
    assert "left kidney" in run("vocabulary", "show", "ren sinister").out


def test_list_counts_and_takes_a_category(run):
    everything = run("vocabulary", "list").out
    assert (
        everything.splitlines()[-1].startswith("1010 structures") or int(everything.splitlines()[-1].split()[0]) >= 500
    )
    muscles = json.loads(run("vocabulary", "list", "muscles", "--json").out)
    assert {term["category"] for term in muscles} == {"muscles"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["search"], "expected a text"),
        (["show"], "expected a text"),
        (["show", "dragon"], "names no known structure"),
        (["show", "left liver"], "no left or right"),
        (["search", "zzzz"], "no structure"),
        (["list", "spaceships"], "muscles"),
        (["search", "kidney", "--limit", "0"], "--limit 0"),
        (["find", "kidney"], "find"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, words, expected):
    outcome = run("vocabulary", *words)
    assert outcome.code == 2
    assert expected in outcome.error


def test_neither_help_nor_a_search_imports_torch():
    code = (
        "import sys; from promptseg.cli import main;"
        "codes = [main(['vocabulary', '--help']), main(['vocabulary', 'search', 'kidn'])];"
        "sys.exit(any(codes) or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
