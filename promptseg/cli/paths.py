"""Checks of file names before any work is done for them."""

from __future__ import annotations

import json
import os
from pathlib import Path


def check_image_output(output: str, inputs: tuple[str | None, ...]) -> None:
    """Refuses a mask's file name that cannot be written, or that is one of the inputs.

    Args:
        output: the name given.
        inputs: files that are read, which must not be overwritten, the image first.

    Raises:
        ValueError: naming the file and the cure.
    """
    from ..io import SEGMENTATION_SUFFIX, WRITABLE_SUFFIXES
    from ..io.atomic import check_target

    path, suffixes = Path(output), (*WRITABLE_SUFFIXES, SEGMENTATION_SUFFIX)
    if not path.name.lower().endswith(suffixes):
        raise ValueError(f"output {output!r}: expected a name that ends in one of {', '.join(suffixes)}")
    check_folder(path.parent, output)
    check_target(path)
    for name in inputs:
        if name and path.exists() and os.path.exists(name) and os.path.samefile(path, name):
            raise ValueError(f"output {output!r} is also an input; choose another name, so that it is not overwritten")
    if path.name.lower().endswith(SEGMENTATION_SUFFIX):
        from ..io.dicom_seg import check_segmentation_path

        check_segmentation_path(path, inputs[0] or "")


def table_path(output: str) -> Path:
    """The JSON file beside a label map: ``labels.json`` for ``labels.nii.gz``."""
    from ..io import WRITABLE_SUFFIXES

    path = Path(output)
    suffix = max((s for s in WRITABLE_SUFFIXES if path.name.lower().endswith(s)), key=len, default=path.suffix)
    return path.with_name(path.name[: len(path.name) - len(suffix)] + ".json")


def check_table(output: str) -> None:
    """Refuses a label map's name whose table would replace a JSON file that is no such table, as a scan's sidecar.

    Raises:
        ValueError: naming the file and the cure.
    """
    path = table_path(output)
    if not path.exists():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not {"weights", "labels"} <= content.keys():
        raise ValueError(
            f"output {output!r}: its table would replace {str(path)!r}, which promptseg did not write; choose another "
            "name, or move that file"
        )


def check_folder(folder: Path, output: str) -> None:
    """Refuses a folder that is not there or not writable.

    Raises:
        ValueError: naming the folder and the cure.
    """
    if not folder.is_dir():
        raise ValueError(f"output {output!r}: folder {str(folder)!r} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"output {output!r}: no permission to write in {str(folder)!r}; choose another folder")
