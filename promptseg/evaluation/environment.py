"""Where and how numbers were made: versions, machine, command, git revision; and how much memory was used."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "promptseg",
    "torch",
    "numpy",
    "scipy",
    "scikit-image",
    "SimpleITK",
    "surface-distance",
    "edt",
    "connected-components-3d",
)


def describe_environment() -> dict[str, Any]:
    """Versions, machine, command line and git revision of this run."""
    from .. import __version__

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = __version__ if package == "promptseg" else "not installed"
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": _gpu(),
        "versions": versions,
    }


def command_line() -> str:
    """How this process was called, to be pasted into a shell."""
    program = Path(sys.argv[0]).name
    words = ["promptseg"] if program in ("promptseg", "__main__.py") else ["python", sys.argv[0]]
    return shlex.join([*words, *sys.argv[1:]])


def git_revision() -> str:
    """Commit of the checkout that this package lies in, ``+`` after it if files differ; empty without one."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _gpu() -> str:
    """Name of the GPU if torch is in use and sees one."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "none"


def reset_peak_memory() -> None:
    """Starts measuring the peak anew, where the system can."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # man 5 proc: resets VmHWM


def peak_memory_mb() -> float:
    """Peak since :func:`reset_peak_memory`: of a GPU's tensors if one is in use, else resident memory of this process.

    Where the system cannot reset it (not Linux), the peak is that of the whole process.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return _peak_by_getrusage()


def _peak_by_getrusage() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
