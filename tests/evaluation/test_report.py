"""``report.html``: one file that needs no other, with everything that a reader asks for."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptseg.evaluation import EvaluationConfig, EvaluationResult, run_evaluation
from promptseg.evaluation.charts import ChartFrame, Line, draw_chart
from promptseg.evaluation.gallery import choose_rows
from promptseg.evaluation.html import table
from promptseg.evaluation.records import StepRecord

from .test_summary import rows


class Reader(HTMLParser):
    """Collects what a page links to, and checks that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Opens."""
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]
        self.images += tag == "img"
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closes."""
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(re.sub(r"<(line|rect|circle|polyline|polygon)\b[^>]*/>", "", page))
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def result(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    """A run with a picture of each kind; ``mine`` stands for a model that is not a baseline."""
    output = tmp_path_factory.mktemp("report") / "out"
    models = ("mine=promptseg.evaluation.segmenters:ClickedVoxelsSegmenter", "box-as-mask")
    return run_evaluation(
        EvaluationConfig(str(pool), str(output), models, clicks=3, jitter_repeats=1, gallery=1, bootstrap=10)
    )


def test_the_page_is_whole_and_needs_no_other_file(result: EvaluationResult) -> None:
    page = result.report.read_text(encoding="utf-8")
    reader = read(page)
    assert reader.images == 3
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    text = re.sub(r'src="data:[^"]*"|<code>None</code>', "", page)  # an option that was not given is None
    assert not re.search(r"\b(nan|NaN|None)\b", text)


def test_the_page_says_what_was_measured_how_and_on_what(result: EvaluationResult) -> None:
    page = result.report.read_text(encoding="utf-8")
    environment = result.summary["environment"]
    for word in (
        "10 objects of 5 cases, 4 patients, 2 data sets", "95 % intervals", "NoC@85", "clicks respected", "jitter",
        "encoder calls", "memory (MB)", "seconds first, p95", "mean of the data sets", "alpha: ball", "beta: hole",
        "best", "median", "worst", environment["git_revision"], environment["processor"], "SimpleITK",
    ):  # fmt: skip
        assert word in page, word


def test_the_pictures_show_truth_answer_and_clicks(result: EvaluationResult) -> None:
    image = pytest.importorskip("PIL.Image")
    page = result.report.read_text(encoding="utf-8")
    for source in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(source))).convert("RGB")).astype(int)
        missed = (pixels[..., 2] > pixels[..., 0] + 60).sum()  # blue: no answer of single voxels finds the object
        assert missed > 50
        assert pixels.std() > 10


def test_failures_head_the_page_and_their_text_is_escaped(pool: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "failing.py").write_text(
        "from promptseg.evaluation.segmenters import EmptySegmenter\n"
        "class Made(EmptySegmenter):\n"
        "    def set_image(self, image): raise OSError('<script>alert(1)</script>')\n"
    )
    config = EvaluationConfig(
        str(pool), str(tmp_path / "out"), ("failing:Made",), max_cases=1, gallery=1, jitter_repeats=0, bootstrap=5
    )
    page = run_evaluation(config).report.read_text(encoding="utf-8")
    read(page)
    assert "<script>" not in page
    assert "OSError: &lt;script&gt;" in page
    assert page.index("counts as zero") < page.index("Summary")


def test_the_gallery_takes_no_object_twice_and_no_failed_one() -> None:
    records: list[StepRecord] = []
    for n, dice in enumerate([0.1, 0.9, 0.5, 0.4, 0.6]):
        records += rows([0.0, dice], case=f"c{n}")
    chosen = choose_rows(records, 1)
    assert [(rank, r.dice) for rank, r in chosen] == [("best", 0.9), ("median", 0.5), ("worst", 0.1)]
    assert len(choose_rows(records, 3)) == 5
    assert choose_rows(records, 0) == []
    assert len(choose_rows(rows([0.0, 0.7]), 2)) == 1


def test_charts_leave_out_what_is_not_known() -> None:
    frame = ChartFrame("Dice", "clicks", "Dice", (1, 2, 3))
    svg = draw_chart(
        [Line("a<b", (1, 2, 3), (0.2, float("nan"), 1.4), (0.1, float("nan"), 0.3), (0.3, 0.5, 1.6))], frame
    )
    assert "nan" not in svg
    assert "a&lt;b" in svg
    assert svg.count("<circle") == 2
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert min(heights) >= 30  # clipped to the frame


def test_tables_escape_their_titles() -> None:
    assert "<th>a&lt;b</th>" in table(["a<b"], [["1"]])
