"""Times promptseg beside networks of its peers' shapes, in one run, each entry in a process of its own.

    python benchmarks/latency.py                          # every entry, about six minutes on two CPU cores
    python benchmarks/latency.py --only encode clicks     # entries whose names contain a word
    python benchmarks/latency.py --device cuda --json latency.json

Each process prints its own timings and peak memory; this one collects them into a markdown table, ratios first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORT_REPEATS = 5
TILE_SIZE = 128


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        name: what ``--entry`` and ``--only`` select by.
        label: what the table says.
        reference: name of the entry whose median this one's is divided by.
    """

    name: str
    label: str
    reference: str


@dataclass(frozen=True)
class Measurement:
    """Timings of an entry.

    Attributes:
        seconds: of each repeat.
        peak_gb: peak resident memory of its process (of the device, on a GPU), in 10^9 bytes.
        note: what else there is to know.
        more: further medians, in seconds, by name.
    """

    seconds: list[float]
    peak_gb: float
    note: str = ""
    more: dict[str, float] = field(default_factory=dict)


ENTRIES = (
    Entry("encode-tiny-bf16", "promptseg-tiny encodes 128^3, bf16", "encode-tiny-bf16"),
    Entry("encode-tiny-fp32", "promptseg-tiny encodes 128^3, fp32", "encode-tiny-bf16"),
    Entry("encode-small-bf16", "promptseg-small encodes 128^3, bf16", "encode-tiny-bf16"),
    Entry("encode-small-fp32", "promptseg-small encodes 128^3, fp32", "encode-tiny-bf16"),
    Entry("encode-vit-b-fp32", "SAM-Med3D's ViT-B encodes 128^3, as published, fp32", "encode-tiny-bf16"),
    Entry("encode-vit-b-folded-fp32", "the same weights as promptseg runs them, fp32", "encode-tiny-bf16"),
    Entry("encode-vit-b-folded-bf16", "the same weights as promptseg runs them, bf16", "encode-tiny-bf16"),
    Entry("clicks", "promptseg-tiny, a further click, 512 x 512 x 300", "clicks"),
    Entry("unet-fp32", "early-fusion U-Net, one forward per click, 192^3, fp32", "clicks"),
    Entry("unet-bf16", "early-fusion U-Net, one forward per click, 192^3, bf16", "clicks"),
    Entry("import-torch", "import torch", "import-torch"),
    Entry("import-promptseg", "import promptseg", "import-torch"),
)


def measure(
    call: Callable[[], object], device: str, budget_s: float, min_repeats: int = 3, max_repeats: int = 20
) -> list[float]:
    """Seconds of repeated calls after one that warms up, until the budget is used."""
    import torch

    def timed() -> float:
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    spent = timed()
    seconds: list[float] = []
    while len(seconds) < min_repeats or (spent < budget_s and len(seconds) < max_repeats):
        seconds.append(timed())
        spent += seconds[-1]
    return seconds


def run_encoder(name: str, device: str, budget_s: float) -> Measurement:
    """Times an image encoder on one tile."""
    import torch

    from promptseg.models import ModelConfig, PromptableModel

    torch.manual_seed(0)
    half = name.endswith("bf16")
    image = torch.randn(1, 1, TILE_SIZE, TILE_SIZE, TILE_SIZE, device=device)
    if "vit-b" in name:
        import peers

        encoder = (peers.folded_vit_b() if "folded" in name else peers.published_vit_b()).to(device)
        arguments = (image.to(torch.bfloat16) if half else image,)
    else:
        config = ModelConfig.from_file(ROOT / "configs" / f"promptseg-{name.split('-')[1]}.yaml")
        encoder = PromptableModel(config).image_encoder.eval().to(device)
        arguments = (image, torch.ones(1, 3, device=device))
    if half:
        encoder = encoder.to(torch.bfloat16)
    if half or "vit-b" not in name:  # as the predictor holds its weights; the peer's stay as published
        encoder = encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    with torch.no_grad():
        seconds = measure(lambda: encoder(*arguments), device, budget_s)
    return Measurement(seconds, peak_gb(device), f"{parameters:.1f} M parameters")


def run_unet(name: str, device: str, budget_s: float) -> Measurement:
    """Times a forward of the early-fusion peer's shape, which every click costs there."""
    import peers
    import torch

    torch.manual_seed(0)
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    network = peers.ResidualEncoderUNet().eval().to(device, dtype)
    image = torch.randn(1, peers.UNET_INPUT_CHANNELS, *[peers.UNET_PATCH] * 3, device=device, dtype=dtype)
    if dtype == torch.bfloat16:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        image = image.to(memory_format=torch.channels_last_3d)
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    with torch.no_grad():
        seconds = measure(lambda: network(image), device, budget_s, min_repeats=1, max_repeats=3)
    return Measurement(seconds, peak_gb(device), f"{parameters:.1f} M parameters, random weights")


def run_clicks(model: str, device: str, num_clicks: int) -> Measurement:
    """Times an interactive session on a CT-sized volume: load, first click, further clicks on several objects."""
    import numpy as np
    from synthetic_ct import SPACING_MM, click_sequence, make_ct

    import promptseg

    volume, organs = make_ct()
    predictor = promptseg.Predictor.from_pretrained(model, device=device)
    first, further, set_image = [], [], []
    for organ in organs:
        start = time.perf_counter()
        predictor.set_image(volume, spacing=SPACING_MM)
        set_image.append(time.perf_counter() - start)
        predictor.clear()
        points, labels = click_sequence(organ, 1 + num_clicks)
        for count in range(1, len(points) + 1):
            start = time.perf_counter()
            mask = predictor.predict(points=points[:count], labels=labels[:count]).mask
            assert mask.shape == volume.shape
            (first if count == 1 else further).append(time.perf_counter() - start)
    more = {
        "set_image": float(np.median(set_image)),
        "first_click": float(np.median(first)),
        "first_click_max": float(np.max(first)),
    }
    note = (
        f"set_image {more['set_image']:.2f} s, first click {more['first_click']:.2f} s "
        f"(worst {more['first_click_max']:.2f} s)"
    )
    return Measurement(further, peak_gb(device), note, more)


def run_import(name: str) -> Measurement:
    """Times an import in fresh interpreters, after one that fills the file cache."""
    module = name.removeprefix("import-")
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    seconds = [float(subprocess.check_output(command, env=environment())) for _ in range(1 + IMPORT_REPEATS)]
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Measurement(seconds[1:], children * 1024 / 1e9)


def peak_gb(device: str) -> float:
    """Peak memory of this process, or of the device where that is a GPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def environment() -> dict[str, str]:
    """Environment of a child process that finds this checkout and this folder first."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def run_entry(options: argparse.Namespace) -> Measurement:
    """Measures one entry in this process."""
    if options.entry.startswith("import-"):
        return run_import(options.entry)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.entry.startswith("encode-"):
        return run_encoder(options.entry, options.device, options.budget)
    if options.entry.startswith("unet-"):
        return run_unet(options.entry, options.device, options.budget)
    return run_clicks(options.model, options.device, options.clicks)


def quantile(values: list[float], share: float) -> float:
    """A quantile, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def markdown_table(results: dict[str, Measurement]) -> str:
    """The measured entries with their ratios to their reference entries."""
    lines = [
        "| times the reference | entry | median s | p95 s | peak GB | runs | notes |",
        "|---:|---|---:|---:|---:|---:|---|",
    ]
    for entry in ENTRIES:
        if entry.name not in results:
            continue
        found = results[entry.name]
        median = quantile(found.seconds, 0.5)
        ratio = f"{median / quantile(results[entry.reference].seconds, 0.5):.2f}" if entry.reference in results else "-"
        ratio = "1 (reference)" if entry.reference == entry.name else ratio
        columns = (
            ratio,
            entry.label,
            f"{median:.3f}",
            f"{quantile(found.seconds, 0.95):.3f}",
            f"{found.peak_gb:.2f}",
            str(len(found.seconds)),
            found.note,
        )
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def describe_machine(options: argparse.Namespace) -> str:
    """One line on what the numbers were measured with."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    has_bf16 = "no"
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
        has_bf16 = "yes" if "avx512_bf16" in text or "amx_bf16" in text else "no"
    device = torch.cuda.get_device_name() if options.device != "cpu" else f"{processor}, bf16 instructions: {has_bf16}"
    threads = options.threads or torch.get_num_threads()
    return f"{device}; {threads} threads; torch {torch.__version__}; Python {platform.python_version()}"


def main() -> None:
    """Runs the chosen entries and prints the table, or one entry and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="entries whose names contain a word")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0 leaves its choice")
    parser.add_argument("--model", default="promptseg-tiny", help="checkpoint that clicks are timed with")
    parser.add_argument("--clicks", type=int, default=8, help="further clicks on each object")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of repeats for a network's entry")
    parser.add_argument("--json", type=Path, help="write all timings to a file")
    parser.add_argument("--entry", choices=[e.name for e in ENTRIES], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.entry:
        print(json.dumps(asdict(run_entry(options))))
        return
    results: dict[str, Measurement] = {}
    for entry in ENTRIES:
        if not any(word in entry.name for word in options.only):
            continue
        print(f"measuring {entry.name}", file=sys.stderr)
        arguments = [sys.executable, __file__, "--entry", entry.name, "--device", options.device]
        arguments += ["--threads", str(options.threads), "--model", options.model]
        arguments += ["--clicks", str(options.clicks), "--budget", str(options.budget)]
        done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{entry.name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
            continue
        results[entry.name] = Measurement(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{describe_machine(options)}\n\n{markdown_table(results)}")
    if options.json:
        options.json.write_text(json.dumps({name: asdict(found) for name, found in results.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
