"""Ten cases and ten minutes: LoRA against the base, full fine-tuning, and a U-Net from scratch, on hippocampi.

    python benchmarks/finetune_hippocampus.py --data-root DATA --model WEIGHTS -o runs/hippocampus

DATA has the folder msd_hippocampus; WEIGHTS must come from a pretraining that left it out. All methods see the same
training cases for the same time on the same processor, and are measured on the same validation cases: Dice after one
click, and without a prompt. nnU-Net's published 0.89 to 0.90, with all 260 cases, is the line to reach.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptseg import Predictor
from promptseg.data.crops import TrainingVolume
from promptseg.models.pretrained import read_config
from promptseg.models.registry import resolve
from promptseg.training.finetune import finetune, read_report
from promptseg.training.finetune_config import FinetuneConfig
from promptseg.training.finetune_data import CasePaths, draw_view, find_cases, load_case
from promptseg.training.finetune_report import dice_of, measure_cases

DATASET = "msd_hippocampus"
UNET_SIZE = 64
SHOWN = {"click": "Dice after 1 click", "automatic": "Dice without a prompt"}


def choose_cases(root: Path, fold: str, count: int | None) -> tuple[list[CasePaths], dict[int, str]]:
    """The first cases of a fold, evenly spaced, and the names of the labels."""
    dataset = json.loads((root / DATASET / "dataset.json").read_text(encoding="utf-8"))
    rows = [case for case in dataset["cases"] if case["fold"] == fold]
    chosen = rows if count is None else [rows[int(n)] for n in np.linspace(0, len(rows) - 1, count).round()]
    cases = [CasePaths(r["case"], root / r["image"], root / r["label"]) for r in chosen]
    return cases, {int(v): n for v, n in dataset["labels"].items()}


def copy_cases(cases: list[CasePaths], folder: Path) -> None:
    """Copies cases into the two folders that fine-tuning takes."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for case in cases:
        shutil.copy(case.image, folder / "images" / f"{case.name}.nii.gz")
        shutil.copy(case.label, folder / "labels" / f"{case.name}.nii.gz")


def train_unet(
    volumes: list[TrainingVolume], num_classes: int, minutes: float, max_steps: int, seed: int = 0
) -> torch.nn.Module:
    """A U-Net from random weights, on the crops and augmentations that the fine-tuning has."""
    from monai.losses.dice import DiceCELoss
    from monai.networks.nets.unet import UNet

    from promptseg.preprocessing import PreprocessingConfig

    torch.manual_seed(seed)
    net = UNet(3, 1, num_classes, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2, norm="instance")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    rng, preprocessing = np.random.default_rng(seed), PreprocessingConfig()
    started, step = time.monotonic(), 0
    while (spent := max(step / max_steps, (time.monotonic() - started) / (60 * minutes))) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - spent) ** 0.9
        views = []
        for _ in range(2):
            volume = volumes[int(rng.integers(len(volumes)))]
            value = list(volume.objects)[int(rng.integers(len(volume.objects)))]
            views.append(draw_view(volume, rng, UNET_SIZE, preprocessing, 0.7, value=value))
        logits = net(torch.stack([v.image for v in views]))
        loss = loss_function(logits, torch.stack([v.labels for v in views])[:, None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    print(f"U-Net: {step} steps")
    return net.eval()


@torch.no_grad()
def measure_unet(net: torch.nn.Module, cases: list[CasePaths], names: dict[int, str], weights: Path) -> float:
    """Mean Dice on whole volumes, which one tile of 1 mm holds."""
    preprocessing = read_config(weights).preprocessing
    scores = []
    for case in cases:
        volume = load_case(case, preprocessing)
        assert volume.labels is not None
        image = torch.from_numpy(volume.levels[0].image.astype(np.float32))
        padding = [p for n in reversed(image.shape) for p in (0, max(0, UNET_SIZE - n) + (-max(n, UNET_SIZE)) % 8)]
        padded: Tensor = torch.nn.functional.pad(image, padding, value=-1.0)
        found = net(padded[None, None])[0].argmax(dim=0)[tuple(slice(0, n) for n in image.shape)].numpy()
        scores += [dice_of(found == v, volume.labels == v) for v in names if (volume.labels == v).any()]
    return float(np.mean(scores))


def run_method(method: str, arguments: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Tunes with one method; returns what to print, with the adapter's folder."""
    output = Path(arguments.output) / method
    config = FinetuneConfig(
        model=arguments.model,
        images=str(data / "images"),
        labels=str(data / "labels"),
        output=str(output),
        names=arguments.names,
        method=method,  # type: ignore[arg-type]
        minutes=arguments.minutes,
        max_steps=arguments.max_steps,
        validation_share=arguments.held_out,
        report_cases=0,
        probe=arguments.probe,
        seed=arguments.seed,
        device="cpu",
    )
    finetune(config)
    report = read_report(output)
    size = (output / "adapter.safetensors").stat().st_size / 1e6
    probe = next((r for r in report["measured"] if r["what"] == "unrelated organs"), None)
    return {"folder": output, "steps": report["steps"], "megabytes": size, "probe": probe}


def main() -> None:
    """Runs everything and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--model", default="promptseg-tiny", help="weights that never saw hippocampi")
    parser.add_argument("-o", "--output", default="runs/hippocampus")
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--validation-cases", type=int, default=None, help="all 45 by default")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--max-steps", type=int, default=100_000)
    parser.add_argument(
        "--held-out", type=float, default=0.0, help="share of the cases for early stopping; none, as U-Net"
    )
    parser.add_argument("--methods", nargs="*", default=["lora", "full"], help="of promptseg finetune")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-probe", dest="probe", action="store_false")
    arguments = parser.parse_args()

    root, output = Path(arguments.data_root), Path(arguments.output)
    training, names = choose_cases(root, "train", arguments.cases)
    validation, _ = choose_cases(root, "validation", arguments.validation_cases)
    arguments.names = ",".join(f"{value}={name}" for value, name in names.items())
    copy_cases(training, output / "data")
    weights = resolve(arguments.model)

    results: dict[str, dict[str, Any]] = {}
    predictor = Predictor.from_pretrained(weights, device="cpu")
    results["base"] = measure_cases(predictor, validation, names, is_adapted=False)
    for method in arguments.methods:
        done = run_method(method, arguments, output / "data")
        predictor = Predictor.from_pretrained(weights, adapter=done.pop("folder"), device="cpu")
        results[method] = {**measure_cases(predictor, validation, names, is_adapted=True), **done}
    preprocessing = read_config(weights).preprocessing
    volumes = [load_case(c, preprocessing) for c in find_cases(output / "data" / "images", output / "data" / "labels")]
    net = train_unet(volumes, 1 + max(names), arguments.minutes, arguments.max_steps, arguments.seed)
    results["U-Net from scratch"] = {SHOWN["automatic"]: measure_unet(net, validation, names, weights)}

    print(f"\n{len(training)} cases, {arguments.minutes:g} minutes; {len(validation)} validation cases")
    print("| | 1 click | no prompt | MB | steps | unrelated organs |\n|---|---|---|---|---|---|")
    for name, row in results.items():
        dice = [f"{row[key]:.3f}" if key in row else "-" for key in SHOWN.values()]
        probe = f"{row['probe']['base']} -> {row['probe']['adapter']}" if row.get("probe") else "-"
        size = f"{row['megabytes']:.1f}" if "megabytes" in row else "-"
        print(f"| {name} | {' | '.join(dice)} | {size} | {row.get('steps', '-')} | {probe} |")
    print("| nnU-Net, published, 260 cases | - | 0.89-0.90 | - | - | - |")
    text = json.dumps({"arguments": vars(arguments), "results": results}, indent=1, default=str)
    (output / "results.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
