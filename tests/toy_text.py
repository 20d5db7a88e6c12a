"""A tiny model that learns two words in seconds: a bright ball is a kidney, a dark ball is a liver."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from promptseg.models import ModelConfig, PromptableModel, TextTerm
from promptseg.models.tokens import empty_prompts
from promptseg.preprocessing import IntensityMapping
from promptseg.structures import trained_structures, with_names
from promptseg.text import load_bank

TERMS = (TextTerm("kidney", 8.0, 3), TextTerm("liver", 8.0, 5))
SIDE = 16
"""Voxels along each axis of an image, which one tile holds."""
CONFIG = ModelConfig(
    name="toy", tile_size=SIDE, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), text_terms=TERMS, text_encoder=load_bank().encoder.weights_sha256,
)  # fmt: skip
LIVER, AROUND, KIDNEY = 0.0, 100.0, 200.0
"""Intensities."""
Ball = tuple[tuple[float, float, float], float, float]
"""Centre and radius in voxels, and intensity."""


def draw_image(balls: list[Ball], seed: int = 0) -> np.ndarray:
    """Noise with balls, and a dark and a bright edge, so that intensities mean the same in every image: float32."""
    image = np.random.default_rng(seed).normal(AROUND, 6, (SIDE,) * 3)
    for centre, radius, intensity in balls:
        image[inside_ball(centre, radius)] = intensity
    image[0, 0], image[-1, -1] = LIVER, KIDNEY
    return image.astype(np.float32)


def inside_ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """Voxels in a ball: bool."""
    offsets = [(np.arange(SIDE) - c) ** 2 for c in centre]
    return offsets[0][:, None, None] + offsets[1][:, None] + offsets[2] < radius**2


def train_toy(steps: int = 60, batch: int = 8) -> PromptableModel:
    """Trains the model on images in which either ball may be missing."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = PromptableModel(CONFIG).train()
    with torch.no_grad():
        model.prompt_encoder.text_proj.weight.normal_(std=1.5)  # words differ from the first step on
        for attention in (model.mask_decoder.blocks[0].token_to_image, model.mask_decoder.final_attention):
            attention.requires_grad_(False).proj.weight.zero_()  # type: ignore[operator]  # and are not drowned
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    structures = trained_structures(TERMS)
    for _ in range(steps):
        image, target = make_batch(rng, batch)
        embedding = model.encode_image(image, torch.ones(batch, 3))
        output = model.decode(embedding, with_names(empty_prompts(batch, len(TERMS)), structures))
        logits, wanted = output.mask_logits[:, :, 0], target.float()
        probability = logits.sigmoid()
        overlap = (probability * wanted).flatten(2).sum(2)
        dice = (2 * overlap + 1) / (probability.flatten(2).sum(2) + wanted.flatten(2).sum(2) + 1)
        there = wanted.flatten(2).any(dim=2).float()
        loss = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(3.0))
        loss = loss + (1 - dice).mean() + F.binary_cross_entropy_with_logits(output.presence_logits, there)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def make_batch(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Preprocessed images (B, 1, S, S, S), and kidney and liver in them (B, 2, S, S, S)."""
    images, targets = [], []
    for _ in range(count):
        balls: list[Ball] = []
        target = np.zeros((2, SIDE, SIDE, SIDE), dtype=bool)
        for number, intensity in enumerate((KIDNEY, LIVER)):
            if rng.random() < 0.75:
                i, j, k = rng.uniform(4, SIDE - 5, 3)
                balls.append(((i, j, k), rng.uniform(2.5, 4.5), intensity))
                inside = inside_ball(*balls[-1][:2])
                target[:, inside] = False
                target[number] |= inside
        image = draw_image(balls, int(rng.integers(1 << 30)))
        images.append(IntensityMapping.from_array(image, CONFIG.preprocessing).map_array(image))
        targets.append(torch.from_numpy(target))
    return torch.stack(images)[:, None], torch.stack(targets)
