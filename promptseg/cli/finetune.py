"""``promptseg finetune``: two folders in, an adapter with its report out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..training.finetune_config import FinetuneConfig
from .command import Command, option
from .loading import check_device, progress_bar


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(FinetuneConfig):
    __doc__ = FinetuneConfig.__doc__

    images: str = option(metavar="DIR")
    """folder of images: .nii, .nii.gz, or (with the extra promptseg[itk]) .nrrd, .mha, .mhd"""
    labels: str = option(metavar="DIR")
    """folder of label maps on the images' grids, of the same names (a trailing _0000 of the images' is ignored)"""
    output: str = option(short="-o", metavar="DIR")
    """folder of the adapter to write"""


def run(config: FinetuneOptions) -> int:
    """Tunes, and prints what was gained and what it cost."""
    check_device(config.device)
    from ..training.finetune import finetune, read_report

    with progress_bar("tuning", total=1000, unit="‰") as bar:

        def show(spent: float, line: str) -> None:
            bar.update(int(1000 * min(1.0, spent)) - bar.n)
            bar.set_postfix_str(line)

        folder = finetune(config, show)
    report = read_report(folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    cases = f"{len(report['training_cases'])} cases, {len(report['validation_cases'])} held out"
    print(f"{folder}: {size:.1f} MB, {report['steps']} steps in {report['seconds']:.0f} s, {cases}")
    for line in table(report["measured"]):
        print(line)
    return 0


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of what was measured, in columns."""
    if not rows:
        return []
    width = max(len(row["what"]) for row in rows)
    lines = [f"  {'':{width}}  {'base':>6}  {'tuned':>6}  cases"]
    for row in rows:
        base = row["base"] if isinstance(row["base"], str) else f"{row['base']:.3f}"
        lines.append(f"  {row['what']:{width}}  {base:>6}  {row['adapter']:>6.3f}  {row['cases']:>5}")
    return lines


COMMAND = Command(
    FinetuneOptions,
    run,
    example="""\
  promptseg finetune --images imagesTr --labels labelsTr -o hippocampus
  promptseg finetune --images ct --labels masks --names 1=liver,2=tumour --method dora --minutes 30 -o liver""",
)
