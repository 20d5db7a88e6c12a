"""One bad item costs that item alone, whatever it does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from promptseg.data.parallel import run_isolated


@pytest.fixture(autouse=True)
def workers_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh process imports ``work`` by this module's name, whose root no installed package is on."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2])  # handed on to every process


def work(item: int) -> int:
    if item == 3:
        raise ValueError("three is bad")
    if item == 5:
        os._exit(1)
    if item == 6:
        raise KeyError("six")
    return item * item


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_is_the_items_error(workers: int) -> None:
    outcomes = {o.item: o for o in run_isolated(work, [1, 2, 3, 4, 6], workers)}
    assert {item: o.result for item, o in outcomes.items()} == {1: 1, 2: 4, 3: None, 4: 16, 6: None}
    assert outcomes[3].error == "three is bad"
    assert outcomes[6].error == "KeyError: 'six'"


def test_a_worker_that_dies_costs_its_item_alone() -> None:
    outcomes = {o.item: o for o in run_isolated(work, list(range(12)), 2)}
    assert sorted(outcomes) == list(range(12))
    assert "process died" in outcomes[5].error
    assert [i for i, o in outcomes.items() if o.result is None and i not in (3, 6)] == [5]


def test_a_pool_that_breaks_while_idle_is_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pool refuses work before it has any; the rest goes on in another."""
    from concurrent.futures.process import BrokenProcessPool

    from promptseg.data import parallel

    real, made = parallel._pool, []

    def pool(workers: int):
        opened = real(workers)
        made.append(opened)
        if len(made) == 1:

            def refuse(*_: object) -> None:
                raise BrokenProcessPool("an idle worker died")

            opened.submit = refuse
        return opened

    monkeypatch.setattr(parallel, "_pool", pool)
    started = time.monotonic()
    assert sorted(o.result or 0 for o in run_isolated(work, [1, 2], 1)) == [1, 4]
    assert time.monotonic() - started < 60


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="workers=-1"):
        list(run_isolated(work, [1], -1))
