"""What a check of the data sets found, and how it is written down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something to know about a data set.

    Attributes:
        severity: ``error`` must be put right before training, ``warning`` be looked at, ``info`` is for the record.
        code: short and stable, such as ``leakage`` or ``empty-mask``.
        dataset: name of the catalog.
        case: name of the case, or empty.
        message: what was found, and the cure.
    """

    severity: Severity
    code: str
    dataset: str
    case: str
    message: str


@dataclass(frozen=True)
class CaseFacts:
    """What a case's files hold.

    Attributes:
        dataset: name of the catalog.
        case: name of the case.
        patient: name of the patient.
        fold: fold of the case.
        modality: modality of the case.
        shape: canonical voxels along each axis.
        spacing_mm: canonical sides of a voxel.
        orientation: axes of the image's file, such as ``LPS``.
        dtype: of the image, or of the label map where there is no image.
        content_hash: of the canonical voxel values, whatever the file's orientation, dtype and header.
        voxels: label value -> number of voxels, background left out.
        labelled: whether the case has label files.
        problems: (severity, code, message) triples.
    """

    dataset: str
    case: str
    patient: str
    fold: str
    modality: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    dtype: str
    content_hash: str
    voxels: dict[int, int]
    labelled: bool
    problems: tuple[tuple[Severity, str, str], ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """The findings and the facts they rest on, in a stable order."""

    findings: tuple[Finding, ...]
    facts: tuple[CaseFacts, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that must be put right before training."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def to_json(self) -> str:
        """Everything, as one JSON object."""
        content = {"findings": [asdict(f) for f in self.findings], "cases": [asdict(f) for f in self.facts]}
        return json.dumps(content, indent=1, sort_keys=True)

    def to_markdown(self, max_findings: int = 200) -> str:
        """A table of the data sets and a list of the findings, those that say the same of several cases as one.

        Args:
            max_findings: how many lines are written; the rest is counted.
        """
        lines = [
            "| data set | cases | labelled | folds | modalities | orientations | spacing mm (smallest to largest) |",
            "|---|---|---|---|---|---|---|",
        ]
        for dataset in sorted({fact.dataset for fact in self.facts}):
            facts = [fact for fact in self.facts if fact.dataset == dataset]
            spacing = [side for fact in facts for side in fact.spacing_mm]
            cells = [
                dataset,
                str(len(facts)),
                str(sum(fact.labelled for fact in facts)),
                _counted(fact.fold for fact in facts),
                _counted(fact.modality for fact in facts),
                _counted(fact.orientation for fact in facts),
                f"{min(spacing):.3g} to {max(spacing):.3g}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        totals = Counter(finding.severity for finding in self.findings)
        lines += ["", f"{totals['error']} errors, {totals['warning']} warnings, {totals['info']} notes", ""]
        groups: dict[tuple[str, str, str, str], list[str]] = {}
        for finding in self.findings:
            key = (finding.severity, finding.code, finding.dataset, finding.message)
            groups.setdefault(key, []).append(finding.case)
        for (severity, code, dataset, message), cases in list(groups.items())[:max_findings]:
            place = dataset + (f"/{cases[0]}" if cases[0] else "")
            more = f" and {len(cases) - 1} more cases" if len(cases) > 1 else ""
            lines.append(f"- {severity} [{code}] {place}{more}: {message}")
        if len(groups) > max_findings:
            lines.append(f"- and {len(groups) - max_findings} more")
        return "\n".join(lines) + "\n"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))
