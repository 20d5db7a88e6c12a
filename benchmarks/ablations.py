"""What the parts are worth: one small training for each variant, under the same data and steps; one markdown table.

    python benchmarks/ablations.py --config configs/pretrain_tiny.yaml --data-root DATA --steps 2000

Validation Dice at 1, 3 and 5 clicks, each at the deepest point of the error, on fixed crops of the validation fold; and
on crops of the demo volume, a trunk of which no variant sees a label. With several seeds each variant is trained once
from each, and the means are shown with half the spread between them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from peer_model import PeerModel
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from promptseg import demo
from promptseg.data.catalog import Catalog
from promptseg.data.folder_pool import load_pool
from promptseg.data.pool import TrainingPool
from promptseg.data.prompt_simulator import halve
from promptseg.data.sample_stream import SampleStream
from promptseg.data.volumes import load_volume
from promptseg.models import DecoderOutput, ImageEmbedding, PromptableModel, PromptBatch
from promptseg.training.config import PretrainConfig
from promptseg.training.distributed import Process, start
from promptseg.training.masked_autoencoder import MaskedAutoencoder
from promptseg.training.optimisation import (
    WeightAverage,
    clip_gradients,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from promptseg.training.prompted import PromptedTraining
from promptseg.training.validation import ValidationConfig, Validator

logger = logging.getLogger(__name__)
VARIANTS = (
    "ours", "no synthesis", "synthesis throughout", "label maps and supervoxels throughout",
    "no full-resolution refinement", "peer architecture", "masked autoencoder first", "no features at points",
)  # fmt: skip
"""``ours`` draws shapes, paintings and supervoxels in the first half of the steps, and real images with their labels in
the second; ``no synthesis`` these alone from the first step on."""


class WithoutRefinement(PromptableModel):
    """Sees the image at half resolution in the decoder and draws logits at half resolution, interpolated."""

    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask: bool = False) -> DecoderOutput:
        """See :meth:`promptseg.models.PromptableModel.decode`."""
        sides = embedding.grid_shape
        image = F.interpolate(halve(embedding.image), size=sides, mode="trilinear", align_corners=False)
        coarse = dataclasses.replace(embedding, image=image.to(embedding.image.dtype))
        output = super().decode(coarse, prompts, multimask)
        flat = output.mask_logits.flatten(0, 1).float()
        drawn = F.interpolate(halve(flat), size=sides, mode="trilinear", align_corners=False)
        return dataclasses.replace(output, mask_logits=drawn.reshape(output.mask_logits.shape))


def make_model(variant: str, config: PretrainConfig) -> nn.Module:
    """The model of a variant, from the configuration's seed."""
    torch.manual_seed(config.seed)
    if variant == "peer architecture":
        return PeerModel(config.model)
    return (WithoutRefinement if "refinement" in variant else PromptableModel)(config.model)


def train(module: nn.Module, model: nn.Module, config: PretrainConfig, pool: TrainingPool, process: Process) -> Any:
    """Trains for the configuration's steps; returns the average of the weights and the losses."""
    stream = SampleStream(
        pool, config.seed, config.crops_at, config.sampler, config.model.preprocessing,
        images_only=isinstance(module, MaskedAutoencoder),
        real_from=0 if isinstance(module, MaskedAutoencoder) else config.real_from,
    )  # fmt: skip
    loader = DataLoader(stream, batch_size=None, sampler=range(config.max_steps), num_workers=config.num_workers)
    optimizer, average = make_optimizer(model, config), WeightAverage(model, config.ema_decay)
    losses = []
    module.train()
    for step, batch in enumerate(loader):
        set_learning_rate(optimizer, learning_rate(config, step))
        optimizer.zero_grad(set_to_none=True)
        batch = {k: v.to(process.device) for k, v in batch.items()}
        with torch.autocast(process.device.type, torch.bfloat16, enabled=process.device.type == "cuda"):
            loss, _ = module(batch, step)
        loss.backward()
        clip_gradients(model, config.clip_norm)
        optimizer.step()
        average.update(step)
        losses.append(float(loss.detach()))
    return average, losses


def unseen_pool(config: PretrainConfig) -> TrainingPool:
    """The demo volume with another model's labels: no label of a trunk is trained on."""
    catalog = Catalog(
        name="demo", licence="see NOTICE", citation="see NOTICE", modality="CT", instances=True,
        root=demo.FOLDER, images=demo.IMAGE.name, labels=demo.LABELS.name,
    )  # fmt: skip
    volume = load_volume(catalog, catalog.cases()[0], config.model.preprocessing)
    return TrainingPool({catalog.name: [volume]}, {catalog.name: 1.0})


def run_variant(
    variant: str, config: PretrainConfig, pool: TrainingPool, validator: Validator, unseen: Validator
) -> dict[str, Any]:
    """Trains and measures a variant."""
    process = validator.process
    started = time.monotonic()
    if variant == "no synthesis":
        pool = pool.labelled_images()
        without = dataclasses.replace(config.sampler, synthetic_share=0.0, painted_share=0.0, supervoxel_share=0.0)
        config = dataclasses.replace(config, sampler=without, real_from=0)
    elif variant.endswith("throughout"):
        config = dataclasses.replace(config, real_from=0)
        if variant != "synthesis throughout":
            without = dataclasses.replace(config.sampler, synthetic_share=0.0, painted_share=0.0)
            config = dataclasses.replace(config, sampler=without)
    elif variant == "no features at points":
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, point_features=False))
    model = make_model(variant, config).to(process.device)
    if variant == "masked autoencoder first":
        autoencoder = MaskedAutoencoder(model.get_submodule("image_encoder"), config.model, config.mae, config.seed)  # type: ignore[arg-type]
        autoencoder = autoencoder.to(process.device)
        train(autoencoder, autoencoder, config, pool, process)
    module = PromptedTraining(model, config)  # type: ignore[arg-type]
    average, losses = train(module, model, config, pool, process)
    average.swap()
    measured = validator.measure(module)
    elsewhere = unseen.measure(module)
    first, last = (
        sum(part) / len(part) for part in (losses[: max(1, len(losses) // 10)], losses[-len(losses) // 10 :])
    )
    return {
        "variant": variant,
        "seed": config.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "first_loss": first,
        "last_loss": last,
        "seconds": time.monotonic() - started,
        **measured,
        **{f"unseen_{name}": value for name, value in elsewhere.items() if "/" not in name},
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Means over the seeds of each variant, with half the spread between the seeds."""
    measures = [f"{where}val_dice{k}" for where in ("", "unseen_") for k in (1, 3, 5)]
    heads = [f"{k} click{'s' * (k > 1)}{where}" for where in ("", ", trunk") for k in (1, 3, 5)]
    print(f"| variant | M parameters | loss, first tenth | loss, last tenth | {' | '.join(heads)} |")
    print("|---" * (4 + len(heads)) + "|")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        numbers = {name: [row[name] for row in own] for name in ("first_loss", "last_loss", *measures)}
        cells = [f"{sum(v) / len(v):.3f}" + f" ± {(max(v) - min(v)) / 2:.3f}" * (len(v) > 1) for v in numbers.values()]
        print(f"| {variant} | {own[0]['parameters'] / 1e6:.2f} | {' | '.join(cells)} |")


def main() -> None:
    """Runs the variants and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs" / "pretrain_tiny.yaml"))
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--crops", type=int, default=8, help="validation crops of each data set")
    parser.add_argument("--only", nargs="*", choices=VARIANTS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="of weights and samples, not of the crops")
    parser.add_argument("--groups", nargs="*", help="data sets, instead of the file's")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any other field, as YAML")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    import yaml

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    overrides = {k: yaml.safe_load(v) for k, _, v in (entry.partition("=") for entry in arguments.set)}
    config = PretrainConfig.from_file(arguments.config, data_root=arguments.data_root, **overrides)
    steps = arguments.steps
    groups = dict.fromkeys(arguments.groups, 1.0) if arguments.groups else config.data_weights
    config = dataclasses.replace(
        config,
        max_steps=steps,
        warmup_steps=min(config.warmup_steps, steps // 10),
        decay_start=steps // 2,
        real_from=steps // 2,
        data_weights=groups,
        validation=ValidationConfig(crops_per_group=arguments.crops, clicks=5),
    )
    process = start(config.device)
    pool = load_pool(config.data_root, groups, config.model.preprocessing)
    validator = Validator(config, process)
    more_crops = dataclasses.replace(config.validation, crops_per_group=4 * arguments.crops)
    unseen = Validator(dataclasses.replace(config, validation=more_crops), process, unseen_pool(config))
    rows = []
    for seed in arguments.seeds:
        for variant in arguments.only or VARIANTS:
            rows.append(run_variant(variant, dataclasses.replace(config, seed=seed), pool, validator, unseen))
            logger.info("%s", rows[-1])
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    crops = f"{len(validator.samples)} validation crops, {len(unseen.samples)} of the demo volume"
    print(f"{steps} steps, crops of {config.crops_at(steps - 1)[0]}^3, {crops}\n")
    print_table(rows)


if __name__ == "__main__":
    main()
