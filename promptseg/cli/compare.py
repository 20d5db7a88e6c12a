"""``promptseg compare``: two reports, paired by object, with confidence intervals."""

from __future__ import annotations

from ..evaluation.compare import CompareConfig
from .command import Command


def run(config: CompareConfig) -> int:
    """Prints the tables."""
    from ..evaluation.compare import compare_reports, write_comparison

    comparison = compare_reports(config.first, config.second, config)
    print(comparison.to_markdown())
    if config.output:
        print(f"{write_comparison(comparison, config.output)}: the same as JSON")
    return 0


COMMAND = Command(
    CompareConfig,
    run,
    example="""\
  promptseg compare report-0.1/ report-new/
  promptseg compare report/ report/ --model-a random-walker --model-b promptseg-tiny""",
)
