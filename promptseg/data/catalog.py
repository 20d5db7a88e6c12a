"""What a data set is: its files, its terms, what is annotated in it, and which fold each patient belongs to."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .catalog_rules import check_catalog

logger = logging.getLogger(__name__)

LabelFormat = Literal["map", "classes", "probabilities"]
RaterRule = Literal["majority", "union", "intersection", "each"]
Layout = Literal["files", "nnunet", "medical_decathlon", "bids", "dataset_json"]


@dataclass(frozen=True)
class Term:
    """One label value of a data set and what it means."""

    value: int
    """Value in the label map; 0 is the background and has no term."""
    name: str
    """Vocabulary term, lower case, side first: ``left kidney``."""
    file: str = ""
    """What ``{term}`` is in the file name where every class has a file; empty: the name with underscores."""

    @property
    def file_stem(self) -> str:
        """The text that stands for ``{term}`` in a file name."""
        return self.file or self.name.replace(" ", "_")


@dataclass(frozen=True)
class FoldRule:
    """Puts patients into a fold, by name or by a share; everyone else is in ``train``."""

    fold: str
    """Name of the fold; ``validation`` and ``test`` are never trained on."""
    fraction: float = 0.0
    """Share of the patients, 0 to 1, chosen by a hash of their name: adding patients moves nobody."""
    match: tuple[str, ...] = ()
    """Globs on the case, the patient or the image's path relative to the root."""


@dataclass(frozen=True)
class FoldTable:
    """A table (CSV) that comes with the data set and names each case's fold."""

    file: str
    """Path relative to the root."""
    case: str
    """Column with the case or the patient."""
    fold: str
    """Column with the fold."""
    delimiter: str = ","
    """Separator of the columns."""
    rename: tuple[tuple[str, str], ...] = ()
    """(value in the table, fold) pairs; other values are used as they are."""


@dataclass(frozen=True)
class Override:
    """What is different for some cases of a data set; a later override wins."""

    match: tuple[str, ...]
    """Globs on the case, the patient or the image's path relative to the root."""
    modality: str | None = None
    """Modality of these cases."""
    annotated: tuple[str, ...] | None = None
    """Terms annotated in these cases."""
    absent: tuple[str, ...] | None = None
    """Terms that are certainly not in these images."""
    complete: bool | None = None
    """Whether every instance of the annotated terms is labelled."""
    instances: bool | None = None
    """Whether label values number instances rather than name structures."""


@dataclass(frozen=True)
class LabelFile:
    """A file that holds labels of a case.

    Attributes:
        path: the file.
        value: label value of the file's voxels where every class has a file; None for a label map.
        rater: who drew it, empty where there is one rater.
    """

    path: Path
    value: int | None = None
    rater: str = ""


@dataclass(frozen=True)
class Case:
    """One image of a data set with its labels; the channels of one study are cases of one patient.

    Attributes:
        dataset: name of the catalog.
        name: unique within the data set.
        patient: the unit that folds are made of.
        fold: ``train``, ``validation``, ``test`` or another name.
        modality: such as ``CT`` or ``MR T2``.
        image: file, or None for a label map without an image.
        frame: index on the fourth axis of the file, or None for a 3D file.
        labels: files; empty for an unlabelled image.
        annotated: label values whose absence means "not in this image".
        absent: terms that are certainly not in the image.
        complete: whether every instance of those is labelled.
        instances: whether label values number instances rather than name structures.
    """

    dataset: str
    name: str
    patient: str
    fold: str
    modality: str
    image: Path | None
    frame: int | None = None
    labels: tuple[LabelFile, ...] = ()
    annotated: tuple[int, ...] = ()
    absent: tuple[str, ...] = ()
    complete: bool = True
    instances: bool = False

    @property
    def key(self) -> str:
        """``dataset/name``, unique among all catalogs."""
        return f"{self.dataset}/{self.name}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case, the image first."""
        return (() if self.image is None else (self.image,)) + tuple(label.path for label in self.labels)


@dataclass(frozen=True)
class Catalog:
    """One data set, read from a YAML file by :func:`promptseg.data.load_catalog`.

    Patterns are paths relative to ``root`` with fields in braces (``{case}``, ``{patient}``, ``{channel}``, ``{term}``,
    ``{rater}`` and any other name); see :mod:`promptseg.data.layouts`.

    Raises:
        ValueError: for a field that is missing, unknown or contradicts another; the message names the data set.
    """

    name: str
    """Name of the data set: letters, digits, ``_``, ``-`` and ``.``."""
    licence: str
    """Licence of images and labels, as the publisher states it."""
    citation: str
    """What to cite."""
    modality: str
    """Modality of the cases, unless a channel or an override says otherwise."""
    root: Path
    """Folder that all paths are relative to."""
    title: str = ""
    """Full name."""
    anatomy: str = ""
    """What part of the body, in words."""
    url: str = ""
    """Where the data set is published."""
    ground_truth: str = ""
    """How the labels were made."""
    ship_weights: bool = False
    """Whether the licence lets weights trained on it be published."""
    layout: Layout = "files"
    """How files are found; every layout but ``files`` and ``dataset_json`` is a pair of preset patterns."""
    index: str = ""
    """The ``dataset.json`` of layout ``dataset_json``."""
    images: str = ""
    """Pattern of the images; empty: the layout's, or a data set of label maps alone."""
    labels: str = ""
    """Pattern of the labels; empty: the layout's, or unlabelled images."""
    channels: tuple[tuple[str, str], ...] = ()
    """(``{channel}`` of the file name, or index on the fourth axis, -> modality) pairs; others are left out."""
    label_format: LabelFormat = "map"
    """One label map, one file per class, or probabilities."""
    raters: RaterRule = "majority"
    """How several raters' maps become one; ``each`` makes a case of every rater."""
    threshold: float = 0.5
    """Smallest probability of the foreground, relative to ``probability_scale``."""
    probability_scale: float = 1.0
    """Value that stands for a probability of 1; 255 for maps stored as bytes."""
    trust_label_affine: bool = True
    """False: a label of the image's shape lies on the image's grid whatever its own header says."""
    terms: tuple[Term, ...] = ()
    """Label values and their terms."""
    unions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(term, label values) pairs: further structures that are unions of labels, such as a kidney with its tumour."""
    annotated: tuple[str, ...] | None = None
    """Terms that are annotated; None: all. A term that is not is unknown in the image, never background."""
    absent: tuple[str, ...] = ()
    """Terms that are certainly not in these images, such as the lung in a head; what is part of them is not, either.
    Cases of which that is not sure have ``absent`` in an override."""
    complete: bool = True
    """Whether every instance of the annotated terms is labelled."""
    instances: bool = False
    """Whether label values number instances rather than name structures."""
    ignore: tuple[int, ...] = ()
    """Label values that are neither object nor background."""
    unnamed_values: Literal["report", "expected"] = "report"
    """What a label value without a term is: a finding, or tissue that is only there to be painted."""
    patient: str = ""
    """Regular expression with one group that finds the patient in the case's name; empty: ``{patient}`` or the case."""
    folds: tuple[FoldRule, ...] = ()
    """Rules, the first that matches a patient wins."""
    fold_table: FoldTable | None = None
    """Folds from a table; the rules come first."""
    overrides: tuple[Override, ...] = ()
    """Exceptions for some cases."""
    exclude: tuple[str, ...] = ()
    """Globs of cases that are left out."""
    listing: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    """Cases of layout ``dataset_json``, as the file lists them."""

    def __post_init__(self) -> None:
        check_catalog(self)

    @property
    def names(self) -> dict[int, str]:
        """Label value -> term."""
        return {term.value: term.name for term in self.terms}

    def annotated_values(self, names: tuple[str, ...] | None = None) -> tuple[int, ...]:
        """Label values of annotated terms, ascending.

        Args:
            names: terms; None: those of the data set.
        """
        names = self.annotated if names is None else names
        wanted = {term.name for term in self.terms} if names is None else set(names)
        return tuple(sorted(term.value for term in self.terms if term.name in wanted))

    def cases(self) -> tuple[Case, ...]:
        """Finds the cases on disk, sorted by name; those that cannot be told apart are left out with a warning.

        Raises:
            ValueError: if the root is missing.
        """
        from .layouts import scan

        found = scan(self)
        for case, reason in found.rejected:
            logger.warning("%s is left out: %s", case.key, reason)
        return found.cases
