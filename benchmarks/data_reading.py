"""What a random crop costs from a store and from the NIfTI file it was made of: one markdown table, ratio first.

    python benchmarks/data_reading.py
    python benchmarks/data_reading.py --shape 512,512,300 --crop 128 --repeats 50 --zarr

A synthetic CT (int16, noise within organs, as compressible as a real one) and its label map are written as
gzipped and as plain NIfTI and prepared as a store, in a temporary folder. Every way reads the same crops, one after the
other in one thread, and has to give the same voxels. The files are in the system's cache: what is measured is
decompression and access, not the disk. Ratios are of CPU time, so that other programs do not matter.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from promptseg.data import Catalog, Store, StoreConfig, prepare
from promptseg.data.catalog import Term

Reader = Callable[[tuple[int, ...]], np.ndarray]


def synthetic_ct(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ellipsoids of organ-like intensity in a body with air around it: (image int16, labels uint8)."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    body = axes[0][:, None, None] ** 2 / 0.8 + axes[1][:, None] ** 2 / 0.5 + 0 * axes[2] < 1
    image = np.where(body, 40, -1000).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    for value in range(1, 31):
        centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.08, 0.3, 3)
        x, y, z = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True))
        inside = x[:, None, None] + y[:, None] + z < 1
        labels[inside] = value
        image[inside] = rng.integers(-200, 300)
    for plane, is_body in zip(image, body, strict=True):
        plane += (rng.standard_normal(plane.shape) * np.where(is_body, 15, 5)).astype(np.int16)
    return image, labels


@dataclass(frozen=True)
class Timing:
    """What a crop took: medians of CPU time and elapsed time, and the elapsed time's 95th percentile, in ms."""

    cpu_ms: float
    elapsed_ms: float
    slow_ms: float


def timed(read: Reader, corners: list[tuple[int, ...]], expected: list[int]) -> Timing:
    """Reads every crop, after one to warm up.

    Raises:
        SystemExit: if a crop is not what the others read.
    """
    read(corners[0])
    cpu, elapsed = [], []
    for corner, checksum in zip(corners, expected, strict=True):
        started, started_cpu = time.perf_counter(), time.process_time()
        crop = read(corner)
        cpu.append((time.process_time() - started_cpu) * 1e3)
        elapsed.append((time.perf_counter() - started) * 1e3)
        if int(crop.sum(dtype=np.int64)) != checksum:
            raise SystemExit(f"the crop at {corner} differs between the ways to read it")
    return Timing(statistics.median(cpu), statistics.median(elapsed), float(np.percentile(elapsed, 95)))


def nifti_reader(path: Path, size: int) -> Reader:
    """Reads as a training script without a store does: opens the file and slices nibabel's proxy."""

    def read(corner: tuple[int, ...]) -> np.ndarray:
        image = nibabel.load(path)  # type: ignore[attr-defined]
        return np.asarray(image.dataobj[tuple(slice(n, n + size) for n in corner)])  # type: ignore[attr-defined]

    return read


def main() -> None:
    """Writes the files, times the readers and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--shape", default="320,320,200", help="voxels of the volume (default: %(default)s)")
    parser.add_argument("--crop", type=int, default=96, help="side of a crop (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="crops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the volume and the crops (default: %(default)s)")
    parser.add_argument("--zarr", action="store_true", help="also from a Zarr copy of the store")
    arguments = parser.parse_args()
    shape = tuple(int(n) for n in arguments.shape.split(","))
    if min(shape) < arguments.crop:
        raise SystemExit(f"--shape {arguments.shape}: expected {arguments.crop} voxels or more along each axis")
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), shape, arguments.crop, arguments.repeats, arguments.seed, arguments.zarr)
    print(f"{arguments.crop}^3 crops of {' x '.join(map(str, shape))} voxels, {arguments.repeats} each, one thread\n")
    print("| times .nii.gz's speed | read from | array | CPU ms | elapsed ms | 95th percentile ms | MB on disk |")
    print("|---|---|---|---|---|---|---|")
    reference = {kind: timing.cpu_ms for name, kind, timing, _ in rows if name == ".nii.gz"}
    for name, kind, timing, megabytes in rows:
        ratio = reference[kind] / timing.cpu_ms
        times = f"{timing.cpu_ms:.1f} | {timing.elapsed_ms:.1f} | {timing.slow_ms:.1f}"
        print(f"| {ratio:.1f} | {name} | {kind} | {times} | {megabytes:.1f} |")


def run(
    folder: Path, shape: tuple[int, ...], size: int, repeats: int, seed: int, has_zarr: bool
) -> list[tuple[str, str, Timing, float]]:
    """Times every reader on every array: (reader, array, timing, megabytes on disk)."""
    arrays = dict(zip(("image", "label"), synthetic_ct(shape, seed), strict=True))
    for kind, array in arrays.items():
        for ending in (".nii.gz", ".nii"):
            path = folder / f"{kind}s" / f"case{ending}"
            path.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)  # type: ignore[attr-defined]
    catalog = Catalog(
        name="synthetic", licence="CC0", citation="none", modality="CT", root=folder, images="images/{case}.nii.gz",
        labels="labels/{case}.nii.gz", terms=tuple(Term(n, f"organ {n}") for n in range(1, 31)),
    )  # fmt: skip
    prepare([catalog], folder / "store", config=StoreConfig())
    stores = {"store (blosc2)": Store(folder / "store")}
    if has_zarr:
        from promptseg.data.store_zarr import export_zarr, open_zarr_store

        export_zarr(stores["store (blosc2)"], folder / "zarr")
        stores["store (zarr)"] = open_zarr_store(folder / "zarr")
    rng = np.random.default_rng(seed)
    corners = [tuple(int(rng.integers(0, n - size + 1)) for n in shape) for _ in range(repeats)]
    rows = []
    for kind, array in arrays.items():
        expected = [int(array[tuple(slice(n, n + size) for n in c)].sum(dtype=np.int64)) for c in corners]
        for ending in (".nii.gz", ".nii"):
            path = folder / f"{kind}s" / f"case{ending}"
            timing = timed(nifti_reader(path, size), corners, expected)
            rows.append((ending, kind, timing, path.stat().st_size / 1e6))
        for name, store in stores.items():
            case = store[0]

            def read(corner: tuple[int, ...], case: Any = case, kind: str = kind) -> np.ndarray:
                return case.read_crop(corner, (size,) * 3, kind)

            megabytes = disk_megabytes(folder, name, case.record["folder"], kind)
            rows.append((name, kind, timed(read, corners, expected), megabytes))
    return rows


def disk_megabytes(folder: Path, name: str, case_folder: str, kind: str) -> float:
    """Bytes of an array in a store."""
    place = folder / ("zarr" if "zarr" in name else "store") / case_folder
    files = (place / kind).rglob("*") if "zarr" in name else [place / f"{kind}.b2nd"]
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


if __name__ == "__main__":
    main()
