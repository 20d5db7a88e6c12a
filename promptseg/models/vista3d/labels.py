"""The class names of VISTA3D's published weights, by their index.

Source: Project-MONAI/model-zoo, ``models/vista3d/configs/metadata.json`` (``channel_def``), ``configs/inference.json``
(``subclass``) and ``docs/inference.md`` (which are not supported).
"""

from __future__ import annotations

_FIRST = (
    "liver", "kidney", "spleen", "pancreas", "right kidney", "aorta", "inferior vena cava", "right adrenal gland",
    "left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney", "bladder",
    "prostate or uterus", "portal vein and splenic vein", "rectum", "small bowel", "lung", "bone", "brain",
    "lung tumor", "pancreatic tumor", "hepatic vessel", "hepatic tumor", "colon cancer primaries",
    "left lung upper lobe", "left lung lower lobe", "right lung upper lobe", "right lung middle lobe",
    "right lung lower lobe",
)  # fmt: skip
_VERTEBRAE = tuple(
    f"vertebrae {part}{n}" for part, count in (("L", 5), ("T", 12), ("C", 7)) for n in range(count, 0, -1)
)
_VESSELS = ("trachea", "left iliac artery", "right iliac artery", "left iliac vena", "right iliac vena", "colon")
_RIBS = tuple(f"{side} rib {n}" for side in ("left", "right") for n in range(1, 13))
_PAIRS = ("humerus", "scapula", "clavicula", "femur", "hip")
_MUSCLES = ("gluteus maximus", "gluteus medius", "gluteus minimus", "autochthon", "iliopsoas")
_LAST = (
    "left atrial appendage", "brachiocephalic trunk", "left brachiocephalic vein", "right brachiocephalic vein",
    "left common carotid artery", "right common carotid artery", "costal cartilages", "heart", "left kidney cyst",
    "right kidney cyst", "prostate", "pulmonary vein", "skull", "spinal cord", "sternum", "left subclavian artery",
    "right subclavian artery", "superior vena cava", "thyroid gland", "vertebrae S1", "bone lesion", "kidney mass",
    "liver tumor", "vertebrae L6", "airway",
)  # fmt: skip


def _both(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{side} {name}" for name in names for side in ("left", "right"))


CLASS_NAMES = (
    *_FIRST,
    *_VERTEBRAE,
    *_VESSELS,
    *_RIBS,
    *_both(_PAIRS),
    "sacrum",
    *_both(_MUSCLES),
    *_LAST,
)
"""Name of class 1, 2, ... 132."""
SUBCLASSES: dict[int, tuple[int, ...]] = {
    2: (14, 5),
    20: (28, 29, 30, 31, 32),
    21: (*range(33, 57), *range(63, 98), 114, 120, 122),
}
"""Classes that the weights know by their parts only: kidney, lung and bone."""
SPECIAL_CLASSES = (23, 24, 25, 26, 27, 57, 128)
"""Tumours and the like, whose clicks carry labels of their own. Source: ``monai.networks.nets.vista3d``."""
UNSUPPORTED_CLASSES = (16, 18, 129, 130, 131)
"""Names kept in the table that the weights were not, or hardly, trained to find."""
