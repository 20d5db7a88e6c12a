"""Writes the tiny checkpoint that the tests keep of a release: ``python tools/freeze_checkpoint.py``.

Run once when a release is made. Later releases load it, through the migration table where keys were renamed, and must
give the outputs stored beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

import promptseg
from promptseg.models import ModelConfig, PromptableModel, PromptBatch
from promptseg.models.pretrained import save_pretrained
from promptseg.models.registry import WEIGHTS_NAME
from promptseg.safe_loading import save_tensors

FROZEN = Path(__file__).resolve().parent.parent / "tests" / "hub" / "frozen"
CONFIG = ModelConfig(
    name="frozen", tile_size=32, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), num_levels=4, text_dim=6,
)  # fmt: skip


@torch.no_grad()
def outputs(model: PromptableModel) -> dict[str, list[float]]:
    """Some outputs for an image and prompts that are formulas, so that nothing depends on a random generator."""
    axes = torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")
    image: Tensor = torch.sin(axes[0] / 3) * torch.cos(axes[1] / 5) + axes[2] / 64 - 0.5
    embedding = model.encode_image(image[None, None], torch.tensor([[1.0, 1.5, 2.0]]))
    prompts = PromptBatch(
        torch.tensor([[[[8.0, 9.0, 10.0], [20.0, 21.0, 22.0]]]]),
        torch.tensor([[[1, 0]]]),
        boxes=torch.tensor([[[[4.0, 4.0, 4.0, 16.0, 17.0, 18.0]]]]),
    )
    output = model.decode(embedding, prompts, multimask=True)
    return {
        "mask_logits": output.mask_logits[0, 0, :, ::11, ::11, ::11].flatten().tolist(),
        "iou_scores": output.iou_scores.flatten().tolist(),
        "presence_scores": output.presence_scores.flatten().tolist(),
    }


def main() -> None:
    """Writes ``tests/hub/frozen/VERSION``."""
    torch.manual_seed(0)
    model = PromptableModel(CONFIG).eval()
    halves = {k: v.half() for k, v in model.state_dict().items()}
    model.load_state_dict(halves)  # rounded, so that the small file holds them exactly
    folder = FROZEN / promptseg.__version__
    save_pretrained(model, folder)
    save_tensors(halves, folder / WEIGHTS_NAME)
    (folder / "README.md").unlink()
    (folder / "config.json").write_text(json.dumps({"model": CONFIG.to_dict()}, indent=1) + "\n", encoding="utf-8")
    (folder / "outputs.json").write_text(json.dumps(outputs(model)) + "\n", encoding="utf-8")
    print("wrote", folder)


if __name__ == "__main__":
    main()
