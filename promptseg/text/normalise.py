"""Free text as tokens that can be compared: case, accents, spelling, ordinals and plurals are evened out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

STOP_WORDS = frozenset({"of", "the", "a", "an", "in", "and", "structure", "structures", "ctx"})
"""Words that tell no structure from another; ``ctx`` is FreeSurfer's prefix of cortical regions."""

_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"oesophag", "esophag"),
        (r"oedema", "edema"),
        (r"haem", "hem"),
        (r"tumour", "tumor"),
        (r"grey", "gray"),
        (r"caec(?=um|al)", "cec"),
        (r"^foet", "fet"),
        (r"coeliac", "celiac"),
        (r"fibre$", "fiber"),
        (r"disk", "disc"),
        (r"^goitre$", "goiter"),
        (r"leuco", "leuko"),
        (r"aneurism", "aneurysm"),
        (r"^lachrym", "lacrim"),
        (r"^lacrym", "lacrim"),
        (r"^faec", "fec"),
        (r"gynaec", "gynec"),
        (r"paed", "ped"),
        (r"centre$", "center"),
        (r"^mets$", "metastasis"),
    )
)
"""British and variant spellings, each turned into the American one that SNOMED CT and TotalSegmentator use."""

_DOTTED = {"m": "musculus", "mm": "musculus", "a": "arteria", "v": "vena", "n": "nervus", "lig": "ligamentum"}
"""Anatomists' short forms, which have a dot: ``M. sartorius``."""

_ORDINAL_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ORDINALS = {word: str(i) for i, word in enumerate((*_ORDINAL_WORDS, "eleventh", "twelfth", "thirteenth"), start=1)}

_PLURALS = {
    "vertebrae": "vertebra",
    "bronchi": "bronchus",
    "testes": "testis",
    "metastases": "metastasis",
    "phalanges": "phalanx",
    "thrombi": "thrombus",
    "emboli": "embolus",
    "calculi": "calculus",
    "foramina": "foramen",
    "ganglia": "ganglion",
    "nuclei": "nucleus",
    "gyri": "gyrus",
    "sulci": "sulcus",
    "cortices": "cortex",
    "menisci": "meniscus",
    "diverticula": "diverticulum",
    "hippocampi": "hippocampus",
    "thalami": "thalamus",
    "uteri": "uterus",
    "humeri": "humerus",
    "femora": "femur",
    "tali": "talus",
    "pelves": "pelvis",
    "epididymides": "epididymis",
    "atria": "atrium",
    "septa": "septum",
    "teeth": "tooth",
    "feet": "foot",
    "stenoses": "stenosis",
    "lenses": "lens",
    "abscesses": "abscess",
    "masses": "mass",
    "calluses": "callus",
    "sinuses": "sinus",
    "viruses": "virus",
    "fetuses": "fetus",
    "thymuses": "thymus",
    "plexuses": "plexus",
    "processes": "process",
    "biopsies": "biopsy",
}


def tokenise(text: str) -> tuple[str, ...]:
    """Splits text into lower-case tokens, with spelling variants and ordinals evened out.

    Underscores, hyphens, slashes and camel case separate tokens; a word is split from digits that follow it, but a
    level such as ``L4`` or ``CA1`` stays whole. ``instance 12`` at the end counts objects and is dropped.

    Example:
        >>> tokenise("Tumour_of-the LeftKidney"), tokenise("Cerebelum_Crus1_L"), tokenise("3rd ventricle")
        (('tumor', 'of', 'the', 'left', 'kidney'), ('cerebelum', 'crus', '1', 'l'), ('3', 'ventricle'))
    """
    text = unicodedata.normalize("NFKD", text)
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = re.sub(r"['\u2019]s\b", "", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
    text = re.sub(r"\b(mm?|a|v|n|lig)\. ", lambda short: _DOTTED[short[1]] + " ", text)
    text = re.sub(r"[^a-z0-9]+", " ", text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", text)
    text = re.sub(r"\b([a-z]{3,})(\d)", r"\1 \2", text)
    text = re.sub(r"\binstance \d+\s*$", "", text)
    return tuple(_spell(token) for token in text.split())


@lru_cache(maxsize=1 << 14)
def _spell(token: str) -> str:
    for pattern, replacement in _SPELLINGS:
        token = pattern.sub(replacement, token)
    return _ORDINALS.get(token, token)


def singular(token: str) -> str:
    """The token without its plural ending; what matters is only that both sides of a comparison get the same.

    Example:
        >>> [singular(token) for token in ("kidneys", "vertebrae", "arteries", "bronchus", "pelvis", "ribs")]
        ['kidney', 'vertebra', 'artery', 'bronchus', 'pelvis', 'rib']
    """
    if token in _PLURALS:
        return _PLURALS[token]
    if len(token) <= 3 or token[-1] != "s" or token.endswith(("ss", "us", "is")):
        return token
    if token.endswith("ies") and len(token) > 4:
        return token[:-3] + "y"
    if token.endswith(("ches", "shes", "xes")):
        return token[:-2]
    return token[:-1]


def word_key(tokens: Sequence[str]) -> tuple[str, ...]:
    """Key under which the order of words, plurals and stop words make no difference.

    Example:
        >>> word_key(tokenise("upper lobes of the lung")) == word_key(tokenise("lung_upper_lobe"))
        True
    """
    return tuple(sorted(singular(token) for token in tokens if token not in STOP_WORDS))


def joined_key(tokens: Sequence[str]) -> str:
    """Key under which spaces and hyphens make no difference: ``brain-stem`` and ``brainstem``."""
    kept = [token for token in tokens if token not in STOP_WORDS]
    return singular("".join(kept)) if kept else ""


def edit_distance(first: str, second: str, limit: int) -> int:
    """Number of insertions, deletions, substitutions and swaps of neighbours between two words.

    Args:
        first: a word.
        second: another.
        limit: distances above it are returned as ``limit + 1``. Cost grows with the product of the lengths.

    Source: Damerau, A technique for computer detection and correction of spelling errors, 1964 (restricted form).

    Example:
        >>> edit_distance("kidny", "kidney", 2), edit_distance("livre", "liver", 2), edit_distance("hip", "lip", 0)
        (1, 1, 1)
    """
    if abs(len(first) - len(second)) > limit or len(set(first) ^ set(second)) > 2 * limit:
        return limit + 1  # an edit changes at most two letters of the set
    before_last: list[int] = []
    last = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and b == first[i - 2]:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
        before_last, last = last, row
    return min(last[-1], limit + 1)
