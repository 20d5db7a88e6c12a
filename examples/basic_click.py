"""One click on an organ, a second on a neighbour: the shortest way from an image to a mask.

    python examples/basic_click.py --output-dir /tmp

Uses the CT that ships with the package; give your own with ``--image FILE --point I,J,K``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from promptseg import Predictor, demo
from promptseg.render import render_overlay, save_picture


def main(image: str, point: tuple[float, ...], model: str, output_dir: str) -> None:
    """Segments what a point lies on, and writes mask and picture."""
    predictor = Predictor.from_pretrained(model)
    predictor.set_image(image)
    result = predictor.predict(points=[point], labels=[1])
    print(f"{result.volume_ml:.0f} ml, estimated IoU {result.score:.2f}, in {result.seconds:.2f} s")

    mask_path = result.save(Path(output_dir) / "basic_click.nii.gz")
    picture = render_overlay(predictor.volume, result.mask, points=[point])
    print("wrote", mask_path, "and", save_picture(picture, Path(output_dir) / "basic_click.png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(demo.IMAGE))
    parser.add_argument("--point", default="86,47,100", help="voxel I,J,K on the object")
    parser.add_argument("--model", default="promptseg-tiny")
    parser.add_argument("--output-dir", default=".")
    chosen = parser.parse_args()
    main(chosen.image, tuple(float(v) for v in chosen.point.split(",")), chosen.model, chosen.output_dir)
