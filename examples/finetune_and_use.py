"""Tune the weights to named structures of a few cases, then find them in a new image, with and without a click.

    python examples/finetune_and_use.py --images imagesTr --labels labelsTr --new-image mr.nii.gz --minutes 10

Without folders it draws five small volumes, and takes only a few steps: enough to see how it goes, not to learn much.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np

from promptseg import Predictor
from promptseg.training.finetune import finetune, read_report
from promptseg.training.finetune_config import FinetuneConfig


def draw_cases(folder: Path, count: int = 5) -> None:
    """Volumes with a bright and a very bright block, and their label maps."""
    rng = np.random.default_rng(0)
    for number in range(count):
        labels = np.zeros((40, 44, 36), dtype=np.uint8)
        i, j, k = rng.integers(4, 12, 3)
        labels[i : i + 14, j : j + 12, k : k + 14] = 1
        labels[i + 14 : i + 24, j : j + 16, k : k + 10] = 2
        image = (rng.normal(50, 8, labels.shape) + 60 * labels).astype(np.float32)
        for kind, array in (("images", image), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"case{number}.nii.gz")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images")
    parser.add_argument("--labels")
    parser.add_argument("--new-image")
    parser.add_argument("--model", default="promptseg-tiny")
    parser.add_argument("--minutes", type=float, default=0.2)
    parser.add_argument("--output", default="my-adapter")
    chosen = parser.parse_args()
    drawn = Path("drawn-cases")
    if chosen.images is None:
        draw_cases(drawn)
    images, labels = chosen.images or str(drawn / "images"), chosen.labels or str(drawn / "labels")
    steps = 2000 if chosen.images else 4
    options = FinetuneConfig(
        chosen.model, images, labels, chosen.output, minutes=chosen.minutes, max_steps=steps, probe=bool(chosen.images)
    )
    for row in read_report(finetune(options))["measured"]:
        print(f"{row['what']}: base {row['base']}, tuned {row['adapter']}")

    predictor = Predictor.from_pretrained(chosen.model, adapter=chosen.output)
    predictor.set_image(chosen.new_image or drawn / "images" / "case0.nii.gz")
    found = predictor.predict_labels()  # no prompt
    print({found.names[value]: round(amount, 2) for value, amount in found.volumes_ml().items()}, "ml")
    print("wrote", found.save("found.nii.gz"))
