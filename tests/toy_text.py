"""A tiny model that learns two words in seconds: a bright ball is a kidney, a grey ball is a liver."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from promptseg.models import ModelConfig, PromptableModel, TextTerm
from promptseg.models.tokens import empty_prompts
from promptseg.preprocessing import IntensityMapping
from promptseg.resample import sample_tile
from promptseg.structures import trained_structures, with_names
from promptseg.text import load_bank
from promptseg.tiles import TileKey, TileLattice

TERMS = (TextTerm("kidney", 10.0, 3), TextTerm("liver", 10.0, 5))
CONFIG = ModelConfig(
    name="toy", tile_size=16, stem_channels=(8, 8, 8), stem_depths=(1, 1, 1), embed_dim=24, depth=1, num_heads=2,
    decoder_depth=1, decoder_channels=(8, 8, 8), text_terms=TERMS, text_encoder=load_bank().encoder.weights_sha256,
)  # fmt: skip
KIDNEY, LIVER = 200.0, 100.0
"""Intensities; what is around is 0 with noise."""
Ball = tuple[tuple[float, float, float], float, float]
"""Centre and radius in voxels, and intensity."""


def draw_image(shape: tuple[int, int, int], balls: list[Ball], seed: int = 0) -> np.ndarray:
    """Noise with balls: float32."""
    image = np.random.default_rng(seed).normal(0, 6, shape)
    for centre, radius, intensity in balls:
        image[inside_ball(shape, centre, radius)] += intensity
    return image.astype(np.float32)


def inside_ball(shape: tuple[int, ...], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """Voxels in a ball: bool."""
    offsets = [(np.arange(n) - c) ** 2 for n, c in zip(shape, centre, strict=True)]
    return offsets[0][:, None, None] + offsets[1][:, None] + offsets[2] < radius**2


def train_toy(steps: int = 60, batch: int = 8) -> PromptableModel:
    """Trains the model on tiles of volumes in which either ball may be missing."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = PromptableModel(CONFIG).train()
    with torch.no_grad():
        model.prompt_encoder.text_proj.weight.mul_(15)  # words differ from the first step on
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    structures = trained_structures(TERMS)
    for _ in range(steps):
        image, spacing_mm, target = make_batch(rng, batch)
        embedding = model.encode_image(image, spacing_mm)
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


def make_batch(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tiles of one volume (B, 1, T, T, T), their spacings (B, 3), and kidney and liver on them (B, 2, T, T, T)."""
    shape, size = (28, 26, 24), CONFIG.tile_size
    balls = [
        (tuple(rng.uniform(6, n - 6) for n in shape), rng.uniform(3.5, 6), intensity)
        for intensity in (KIDNEY, LIVER)
        if rng.random() < 0.8
    ]
    image = draw_image(shape, balls, int(rng.integers(1 << 30)))
    masks = np.zeros((2, *shape), dtype=np.float32)
    for centre, radius, intensity in balls:
        inside = inside_ball(shape, centre, radius)
        masks[:, inside] = 0
        masks[int(intensity == LIVER), inside] = 1
    image[masks[0] > 0], image[masks[1] > 0] = KIDNEY, LIVER
    mapping = IntensityMapping.from_array(image, CONFIG.preprocessing)
    lattice = TileLattice(shape, (1.0, 1.0, 1.0), size)
    images, targets, spacings = [], [], []
    for _ in range(count):
        level = int(rng.integers(lattice.num_levels))
        place = tuple(int(rng.integers(n)) for n in lattice.counts(level))
        tile = TileKey(level, (place[0], place[1], place[2]))
        start, step = lattice.from_level(lattice.tile_low(tile), level), lattice.step_vox(level)
        images.append(sample_tile(image, start, step, size, mapping.map_array))
        targets.append(torch.stack([sample_tile(m, start, step, size, torch.from_numpy, outside=0.0) for m in masks]))
        spacings.append([lattice.level_spacing_mm(level)] * 3)
    return torch.stack(images)[:, None], torch.tensor(spacings), torch.stack(targets) > 0.5
