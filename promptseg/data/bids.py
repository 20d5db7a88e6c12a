"""Which labels of a BIDS derivative belong to which image, told by the entities of their names.

Source: https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html, and the habits of lesion data
sets, which name the image a label was drawn on: ``sub-01_space-T1w_dseg``, ``sub-01_FLAIR_label-lesion_mask``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .catalog import LabelFile, Term

CONTRASTS = frozenset(
    ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "PDT2", "inplaneT1", "inplaneT2", "UNIT1", "angio", "T1map", "T2map")
)
"""Suffixes of anatomical images: words in a label's name that say which image it was drawn on."""

_OF_THE_LABEL = frozenset(("sub", "ses", "space", "desc", "label", "seg", "atlas", "hemi", "res", "den", "mod"))
"""Entities that do not tell images apart: those of the folder, and those that describe a derivative."""

_TEMPLATE = re.compile(r"(MNI|ICBM|fs|OASIS|NIHPD|UNC|NKI|DARTEL|Talairach|CTF|RESILIENT|WHS)\w*")
"""Standard coordinate systems (BIDS, appendix): a label in one does not lie on the raw image's grid."""


@dataclass(frozen=True)
class BidsName:
    """What a file's name says.

    Attributes:
        entities: such as ``run`` -> ``1``.
        words: parts that are no entity, such as ``FLAIR`` in ``sub-01_FLAIR_seg``.
        suffix: last part, such as ``T1w`` or ``dseg``.
    """

    entities: dict[str, str]
    words: tuple[str, ...]
    suffix: str

    @classmethod
    def of(cls, path: Path) -> BidsName:
        """Takes a name apart; leading zeros of a number say nothing."""
        *parts, suffix = path.name.partition(".")[0].split("_")
        pairs = [part.partition("-") for part in parts]
        entities = {key: value.lstrip("0") or "0" if value.isdecimal() else value for key, dash, value in pairs if dash}
        return cls(entities, tuple(key for key, dash, _ in pairs if not dash or key in CONTRASTS), suffix)


def agreement(label: BidsName, image: BidsName) -> int | None:
    """How many parts of its name a label has in common with an image; None if one of them says that it is another's."""
    shared = (label.entities.keys() & image.entities.keys()) - _OF_THE_LABEL
    if any(label.entities[key] != image.entities[key] for key in shared):
        return None
    known = {name.casefold() for name in (*CONTRASTS, image.suffix)}
    space = label.entities.get("space", "")
    words = [space, label.entities.get("mod", ""), *label.words]  # the space first: it is the grid
    contrast = next((word.casefold() for word in words if word.casefold() in known), "")
    if contrast and contrast != image.suffix.casefold():
        return None
    own_space = image.entities.get("space", "")
    if (own_space and space and own_space != space) or (not own_space and _TEMPLATE.fullmatch(space)):
        return None
    return len(shared) + bool(contrast)


def labels_of(
    image: Path, candidates: Iterable[Path], terms: Sequence[Term]
) -> tuple[tuple[LabelFile, ...], tuple[Path, ...]]:
    """The labels of an image.

    A segmentation is taken before masks, and the one whose name says most. A mask that is named as a term (``label-``
    or ``desc-``) is that term's; a mask of the brain is no label unless a term is called so, since pipelines put it
    beside every lesion.

    Args:
        image: file of the image.
        candidates: label files of its patient and session.
        terms: of the data set.

    Returns:
        Its label files, and those that are its own, but are left out for others.
    """
    own = BidsName.of(image)
    names = {path: BidsName.of(path) for path in candidates}
    fit = {path: score for path, name in names.items() if (score := agreement(name, own)) is not None}
    drawn = {path: score for path, score in fit.items() if names[path].suffix != "mask"}
    if drawn:
        chosen = tuple(LabelFile(path) for path, score in drawn.items() if score == max(drawn.values()))
    else:
        values = {path: _value_of(names[path], terms) for path in fit}
        masks = [path for path in fit if values[path] is not None or not _is_brain(names[path])]
        named = [path for path in masks if values[path] is not None]
        chosen = tuple(LabelFile(path, values[path]) for path in named or masks)
    taken = {label.path for label in chosen}
    return chosen, tuple(path for path in fit if path not in taken)


def _value_of(name: BidsName, terms: Sequence[Term]) -> int | None:
    """Value of the term that a mask is named as."""
    called = [_plain(name.entities[key]) for key in ("label", "desc") if key in name.entities]
    return next((t.value for word in called for t in terms if word in (_plain(t.file_stem), _plain(t.name))), None)


def _is_brain(name: BidsName) -> bool:
    return any(_plain(name.entities.get(key, "")) in ("brain", "brainmask") for key in ("label", "desc"))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
