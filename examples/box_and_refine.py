"""A box first, then clicks where the mask is wrong: how most objects are done.

    python examples/box_and_refine.py

Every call gets all prompts of the object so far; what was computed of the image is reused, so a correction costs a
fraction of the first answer.
"""

from __future__ import annotations

import argparse

import numpy as np

from promptseg import Predictor, demo
from promptseg.io import read_volume


def main(model: str) -> None:
    """Draws a box around the left kidney, then clicks into what is missing or too much, three times."""
    predictor = Predictor.from_pretrained(model)
    predictor.set_image(demo.IMAGE)
    wanted = read_volume(demo.LABELS).array == 3  # stands in for the person who looks at the mask
    places = np.argwhere(wanted)
    box = (places.min(axis=0), places.max(axis=0) + 1)  # half-open, as slices are

    points: list[np.ndarray] = []
    labels: list[int] = []
    for _ in range(4):
        result = predictor.predict(points=points or None, labels=labels or None, box=box)
        agreement = demo.agreement(result.mask, wanted)
        cost = f"{result.seconds:.2f} s, tiles encoded {result.encoder_calls}"
        print(f"{len(points)} clicks: agreement {agreement:.3f}, {cost}")
        wrong = np.argwhere((result.mask > 0) != wanted)
        if len(wrong) == 0:
            break
        middle = wrong[np.abs(wrong - np.median(wrong, axis=0)).sum(axis=1).argmin()]
        points.append(middle)
        labels.append(int(wanted[tuple(middle)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="promptseg-tiny")
    main(parser.parse_args().model)
