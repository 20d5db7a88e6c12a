"""``promptseg demo``: a few organs of the volume that ships, segmented, measured and drawn."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from .command import Command, option
from .loading import DEFAULT_MODEL, load_predictor, progress_bar
from .paths import check_folder


@dataclass(frozen=True)
class DemoConfig:
    """Segments a few organs of a CT that ships with the package, from clicks and a box at fixed places.

    Writes organs.nii.gz (one value for each organ), overlay.png, and ct.nii.gz, the CT, to go on with. Prints, for each
    organ and after each prompt, the overlap with the labels that ship beside the CT, and the seconds the prompts took.
    Those labels are another model's output, so the overlap (Dice, 0 to 1) is agreement with that model, not accuracy.
    """

    output: str = option("promptseg-demo", short="-o", metavar="FOLDER")
    """where to write; made if missing"""
    model: str = option(DEFAULT_MODEL, metavar="NAME")
    """weights: a name that promptseg doctor lists, or a folder"""
    device: str | None = option(None, metavar="DEVICE")
    """cpu, cuda, cuda:N or mps; a GPU is used if there is one"""


def run(config: DemoConfig) -> int:
    """Segments, prints the table, writes both files."""
    import numpy as np

    from .. import demo
    from ..io import atomic_path, read_volume, write_volume
    from ..render import render_overlay, save_picture

    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder, config.output)
    predictor = load_predictor(config.model, config.device)
    predictor.set_image(demo.IMAGE)
    reference = read_volume(demo.LABELS).array
    organs = np.zeros(predictor.volume.shape, dtype=np.uint8)
    first_seconds, later_seconds, rows = [], [], []
    total = sum(len(thing.rounds()) for thing in demo.OBJECTS)
    with progress_bar("segmenting", total=total, unit="prompt") as bar:
        for number, thing in enumerate(demo.OBJECTS, start=1):
            overlaps = []
            for prompts in thing.rounds():
                result = predictor.predict(**prompts)
                (later_seconds if overlaps else first_seconds).append(result.seconds)
                overlaps.append(demo.agreement(result.mask, reference == thing.label_value))
                bar.update()
            organs[result.mask > 0] = number
            rows.append((f"{thing.name} (box)" if thing.box else thing.name, overlaps, result.volume_ml))

    print(f"{config.model} on {demo.IMAGE.name}, {' x '.join(map(str, organs.shape))} voxels, {predictor.device.type}")
    print("agreement (Dice) with another model's labels after each prompt:")
    for name, overlaps, millilitres in rows:
        print(f"  {name:<20}{'  '.join(f'{v:.2f}' for v in overlaps):<36}{millilitres:7.0f} ml")
    print(f"mean after the first prompt {_mean(rows, 0):.2f}, after the last {_mean(rows, -1):.2f}")
    first, later = statistics.median(first_seconds), statistics.median(later_seconds)
    very_first = first_seconds[0]
    print(f"seconds: first prompt of an organ {first:.2f} (the very first {very_first:.2f}), later {later:.2f} each")
    mask_path, picture_path = folder / "organs.nii.gz", folder / "overlay.png"
    write_volume(mask_path, organs, predictor.volume.affine, reference=predictor.volume)
    points = [p for thing in demo.OBJECTS for p in thing.points]
    labels = [label for thing in demo.OBJECTS for label in thing.labels]
    names = [thing.name for thing in demo.OBJECTS]
    picture = render_overlay(predictor.volume, organs, points, labels, centre=demo.OVERVIEW, legend=names)
    save_picture(picture, picture_path)
    image_path = folder / "ct.nii.gz"
    with atomic_path(image_path) as staging:
        shutil.copyfile(demo.IMAGE, staging)
    print(f"wrote {mask_path}, {picture_path} and {image_path}")
    return 0


def _mean(rows: list[tuple[str, list[float], float]], click: int) -> float:
    return statistics.mean(overlaps[click] for _, overlaps, _ in rows)


COMMAND = Command(DemoConfig, run, example="  promptseg demo\n  promptseg demo -o /tmp/demo --device cpu")
