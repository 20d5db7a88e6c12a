"""From words to the indices of VISTA3D's classes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from .config import Vista3DConfig
from .labels import CLASS_NAMES, SUBCLASSES


def find_classes(config: Vista3DConfig, words: Sequence[str]) -> list[int]:
    """Indices of the classes that names stand for; kidney, lung and bone stand for their parts.

    Args:
        config: with the names.
        words: one or several names, in any case; several stand for their union.

    Raises:
        ValueError: for a name that the weights do not know; the nearest are listed.

    Example:
        >>> find_classes(Vista3DConfig(), ["Liver"]), find_classes(Vista3DConfig(), ["kidney"])
        ([1], [14, 5])
    """
    known = {name.casefold(): number for number, name in enumerate(config.class_names, start=1)}
    found: list[int] = []
    for word in words:
        name = " ".join(word.casefold().replace("vertebra ", "vertebrae ").split())
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:3]
            raise ValueError(f"text={word!r}: VISTA3D's weights do not know that name; near it: {', '.join(near)}")
        number = known[name]
        parts = SUBCLASSES.get(number, (number,)) if config.class_names == CLASS_NAMES else (number,)
        found += [part for part in parts if part not in found]
    return found
