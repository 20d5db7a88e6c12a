"""Options of an evaluation: the same object is the command line, the YAML file and what ``summary.json`` records."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, replace
from typing import Any

from .names import meaning_of
from .protocols import ProtocolName, choose_protocol

DEFAULT_MODELS = ("promptseg-tiny", "random-walker", "region-growing", "fast-marching", "box-as-mask")
"""What is measured if nothing else is asked for: the model, and every baseline beside it."""


def _shell(
    default: Any = MISSING, short: str | None = None, metavar: str | None = None, is_repeatable: bool = False
) -> Any:
    """A field and how the command line spells it."""
    return field(default=default, metadata={"short": short, "metavar": metavar, "is_repeatable": is_repeatable})


@dataclass(frozen=True)
class EvaluationConfig:
    """Measures models on labelled cases as a simulated user would, with classical baselines beside them.

    Writes a folder with report.html, results.csv (one row per case, object and step) and summary.json. A run that was
    interrupted goes on where it stopped when the same command is given again. A case that fails counts as zero and is
    listed.
    """

    catalog: str = _shell(metavar="PATH")
    """labelled cases: a YAML catalog, a dataset.json, a folder of either, or a folder of the CVPR challenge's .npz"""
    output: str = _shell(short="-o", metavar="FOLDER")
    """where to write the report"""
    model: tuple[str, ...] = _shell((), metavar="[NAME=]MODEL", is_repeatable=True)
    """what to measure; may be repeated. Weights (a name that ships, or a folder), a baseline (random-walker,
    region-growing, fast-marching, box-as-mask), nninteractive:FOLDER, package.module:factory, oracle, empty or
    clicked-voxels; promptseg-tiny and all baselines if not given"""
    protocol: ProtocolName = "clicks"
    """what the simulated user does"""
    fold: str = _shell("validation", metavar="NAME")
    """which fold; all for every case"""
    root: str | None = _shell(None, metavar="FOLDER")
    """folder that the paths in a single catalog are relative to"""
    clicks: int | None = _shell(None, metavar="N")
    """number of corrections; the protocol's own if not given: clicks and named 10, cvpr25, scribble and mask 5, the
    others 0"""
    absent: tuple[str, ...] = _shell((), metavar="WORDS", is_repeatable=True)
    """with the protocols text and auto: a structure that the images do not show, asked for by name to measure whether
    its absence is noticed; left out where structures of the same region of the body are labelled; may be repeated.
    Structures that a data set labels and a case lacks are asked for in any case"""
    max_cases: int | None = _shell(None, metavar="N")
    """at most so many cases of each data set, drawn with the seed"""
    max_objects: int | None = _shell(None, metavar="N")
    """at most so many objects of each case, drawn with the seed"""
    min_voxels: int = _shell(1, metavar="N")
    """objects with fewer voxels are left out, and counted"""
    tolerance_mm: float = _shell(2.0, metavar="MM")
    """of the normalised surface Dice"""
    jitter_repeats: int = _shell(2, metavar="N")
    """how often the first prompt of each object is given again, jittered"""
    jitter: float = _shell(0.5, metavar="SHARE")
    """how far: a click by this share of its depth in the object, a box's sides by a quarter of it of their length"""
    click_depth: float = _shell(1.0, metavar="SHARE")
    """how exact the clicks are: anywhere in the largest error that is at least this share as deep as its deepest point,
    drawn with the seed; 1 for the deepest point"""
    seed: int = _shell(0, metavar="N")
    """of all random choices"""
    bootstrap: int = _shell(1000, metavar="N")
    """resamplings for confidence intervals"""
    gallery: int = _shell(2, metavar="N")
    """pictures of so many best, median and worst objects for each model; 0 for none"""
    workers: int = _shell(1, metavar="N")
    """processes; 1 computes in this one"""
    threads: int | None = _shell(None, metavar="N")
    """threads of each process; all cores divided among the workers if not given"""
    device: str | None = _shell(None, metavar="DEVICE")
    """cpu, cuda, cuda:N or mps, for models that can choose"""
    npz: bool = False
    """also write cases and answers as the challenge's .npz, for its own scorer; only with the protocol cvpr25"""
    resume: bool = True
    """go on with what is in the output folder; --no-resume starts afresh"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", tuple(self.model) or DEFAULT_MODELS)
        object.__setattr__(self, "absent", tuple(self.absent))
        if self.absent and not choose_protocol(self.protocol, self.clicks).asks_for_absent:
            raise ValueError(f"--absent {self.absent[0]!r}: only with the protocols text and auto")
        if unknown := [name for name in self.absent if meaning_of(name) is None]:
            raise ValueError(f"--absent {unknown[0]!r}: not in the vocabulary; see promptseg vocabulary search")
        choose_protocol(self.protocol, self.clicks, self.click_depth)
        for name in ("max_cases", "max_objects", "clicks", "threads"):
            value = getattr(self, name)
            if value is not None and value < (0 if name == "clicks" else 1):
                raise ValueError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
        for name, least in (("min_voxels", 1), ("workers", 1), ("bootstrap", 1), ("jitter_repeats", 0), ("gallery", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {least} or more")
        if self.tolerance_mm < 0:
            raise ValueError(f"--tolerance-mm {self.tolerance_mm}: expected 0 mm or more")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"--jitter {self.jitter}: expected a share, 0 to 1")
        if self.npz and self.protocol != "cvpr25":
            raise ValueError(
                f"--npz is the challenge's format and --protocol is {self.protocol}: use --protocol cvpr25"
            )

    def with_models(self, *models: str) -> EvaluationConfig:
        """The same options for other models."""
        return replace(self, model=models)

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, apart from model and data: a resumed run must have the same."""
        protocol = choose_protocol(self.protocol, self.clicks)
        return {
            "protocol": self.protocol,
            "corrections": protocol.num_corrections,
            "seed": self.seed,
            "max_objects": self.max_objects,
            "min_voxels": self.min_voxels,
            "tolerance_mm": self.tolerance_mm,
            "jitter_repeats": self.jitter_repeats,
            "jitter": self.jitter,
            "npz": self.npz,
            **({"absent": list(self.absent)} if self.absent else {}),
            **({"click_depth": self.click_depth} if self.click_depth < 1 else {}),
        }
