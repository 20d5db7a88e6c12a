"""Run SAM-Med3D's public weights on a volume of any orientation and spacing, with points and no ground truth.

    python examples/run_sam_med3d.py --checkpoint sam_med3d_turbo.pth --image ct.nii.gz --point 86,47,100

Get the checkpoint from github.com/uni-medical/SAM-Med3D; it is read as data, nothing in it is executed. Without one, a
small network of random weights shows the steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from promptseg import Predictor, demo
from promptseg.models.convert import convert_sam_med3d
from promptseg.models.sam_med3d import SamMed3DConfig, SamMed3DModel
from promptseg.safe_loading import save_tensors

SMALL = SamMed3DConfig(
    tile_size=64, embed_dim=24, depth=2, num_heads=2, global_blocks=(1,), prompt_dim=48, decoder_heads=2,
    decoder_mlp_dim=32, iou_hidden_dim=16,
)  # fmt: skip


def main(checkpoint: str | None, image: str, point: tuple[float, ...]) -> None:
    """Converts once, then predicts with one click and with two."""
    with tempfile.TemporaryDirectory() as scratch:
        config = None
        if checkpoint is None:
            print("no --checkpoint: random weights, so the masks mean nothing")
            config = SMALL
            checkpoint = str(save_tensors(SamMed3DModel(SMALL).state_dict(), Path(scratch) / "random.safetensors"))
        folder = convert_sam_med3d(checkpoint, Path(scratch) / "sam-med3d", config=config)
        predictor = Predictor.from_pretrained(folder)  # the same calls as with promptseg's own weights
    predictor.set_image(image)
    for points in ([point], [point, tuple(p + 3 for p in point)]):
        result = predictor.predict(points=points)
        print(f"{len(points)} clicks: {result.volume_ml:.1f} ml, {result.encoder_calls} tiles encoded")
    print("wrote", result.save("sam_med3d.nii.gz"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--image", default=str(demo.IMAGE))
    parser.add_argument("--point", default="86,47,100", help="voxel I,J,K on the object")
    chosen = parser.parse_args()
    main(chosen.checkpoint, chosen.image, tuple(float(v) for v in chosen.point.split(",")))
