"""Names of the folders of a store: one for each case, on any file system, whatever the case is called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from .catalog import Case


def case_folder(store: Path, case: Case) -> Path:
    """Where a case lies in a store.

    Characters that file systems dislike become ``_``, and a hash of the name keeps what they told apart.

    Example:
        >>> case = Case("blobs", "p 1", "p 1", "train", "CT", None)
        >>> case_folder(Path("store"), case).as_posix()
        'store/cases/blobs/p_1-055fbc37'
    """
    plain = plain_folder(store, case)
    if plain.name == case.name:
        return plain
    digest = hashlib.blake2b(case.name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return plain.with_name(f"{plain.name}-{digest}")


def plain_folder(store: Path, case: Case) -> Path:
    """Where a case lies in a store that was made before folders had a hash; today's for a name that needs none."""
    return store / "cases" / case.dataset / re.sub(r"[^A-Za-z0-9_.\-]|^\.", "_", case.name)


def shared_folders(cases: Sequence[Case]) -> dict[str, str]:
    """Cases whose folder an earlier one has, where a file system takes upper and lower case for the same.

    Args:
        cases: of all data sets; of those that share a folder, the first keeps it.

    Returns:
        Key of a case -> why it cannot be stored.
    """
    seen: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for case in cases:
        first = seen.setdefault(case_folder(Path(), case).as_posix().lower(), case.key)
        if first != case.key:
            reasons[case.key] = f"its folder is that of {first} where a file system ignores case: rename one"
    return reasons


def claimed_folders(store: Path, cases: Sequence[Case]) -> list[tuple[Case, Path, Path]]:
    """Cases that may lie in a folder without a hash which is another case's now: (case, that folder, its own)."""
    own = {case_folder(store, case) for case in cases}
    folders = [(case, plain_folder(store, case), case_folder(store, case)) for case in cases]
    return [(case, plain, folder) for case, plain, folder in folders if plain != folder and plain in own]
