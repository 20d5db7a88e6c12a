"""The shipped vocabulary, and the folder of real data sets where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from promptseg.text import TermIndex, Vocabulary, load_index


@pytest.fixture(scope="session")
def index() -> TermIndex:
    return load_index()


@pytest.fixture(scope="session")
def vocabulary(index: TermIndex) -> Vocabulary:
    return index.vocabulary


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data sets: ``PROMPTSEG_DATA``, else ``../shared/data`` beside the checkout."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("PROMPTSEG_DATA", default))
    if not root.is_dir():
        pytest.skip(f"no data sets at {root}")
    return root
