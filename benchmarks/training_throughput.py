"""How fast training goes, and what it waits for; one markdown table.

    python benchmarks/training_throughput.py --config configs/pretrain_tiny.yaml --data-root DATA

Without ``--data-root`` crops come from volumes drawn in memory, so no data are needed. One thread each, unless
``--threads`` says otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader

from promptseg.data.batch_synthesis import finish_batch
from promptseg.data.crops import TrainingVolume, build_pyramid, index_objects
from promptseg.data.folder_pool import load_pool
from promptseg.data.pool import TrainingPool
from promptseg.data.prompt_simulator import PromptSimulatorConfig
from promptseg.data.randomness import Randomness
from promptseg.data.sample_stream import SampleStream
from promptseg.data.synthesis import paint, shape_labels
from promptseg.models import PromptableModel
from promptseg.training.config import PretrainConfig
from promptseg.training.distributed import Process, barrier, start, stop, wrap
from promptseg.training.episode import correct_episode, open_episode, round_loss
from promptseg.training.optimisation import make_optimizer
from promptseg.training.prompted import PromptedTraining

Row = tuple[str, str, str]


def synchronise(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(action: Callable[[int], Any], device: torch.device, repeats: int, warmup: int = 1) -> float:
    """Median seconds of an action, which is given the number of its repeat."""
    times = []
    for number in range(warmup + repeats):
        synchronise(device)
        started = time.perf_counter()
        action(number)
        synchronise(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[warmup:])


def drawn_pool(config: PretrainConfig, size: int = 96) -> TrainingPool:
    """Two volumes drawn from nothing."""
    volumes = []
    for number in range(2):
        randomness = Randomness((number,))
        labels = shape_labels(randomness, 1, size)
        image = paint(labels, randomness)[0].numpy()
        array, spacing = labels[0].numpy().astype(np.uint8), np.ones(3)
        objects, boxes = index_objects(array, spacing, randomness.host)
        levels = build_pyramid(image, spacing, config.model.preprocessing)
        volumes.append(TrainingVolume(str(number), "drawn", "none", levels, array, spacing, objects, boxes))
    return TrainingPool({"drawn": volumes}, {"drawn": 1.0})


def make_stream(config: PretrainConfig, pool: TrainingPool, is_finished: bool) -> SampleStream:
    """The stream of the configuration's last stage."""
    sizes = config.crops_at(config.max_steps)
    preprocessing = config.model.preprocessing
    return SampleStream(pool, 0, lambda step: sizes, config.sampler, preprocessing, is_finished=is_finished)


class Step:
    """A training step on a batch that is already there."""

    def __init__(self, config: PretrainConfig, process: Process) -> None:
        torch.manual_seed(0)
        model = PromptableModel(config.model).to(process.device)
        self.process, self.model = process, model
        self.wrapped = wrap(PromptedTraining(model, config), process, "ddp")
        self.optimizer = make_optimizer(model, config)
        self.uses_bf16 = process.device.type == "cuda"

    def __call__(self, batch: dict[str, torch.Tensor], step: int) -> None:
        """Forward, backward and update."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=self.uses_bf16):
            loss, _ = self.wrapped(batch, step, self.process.rank)
        loss.backward()
        self.optimizer.step()


def measure_data(config: PretrainConfig, pool: TrainingPool, device: torch.device, repeats: int) -> list[Row]:
    """Samples a second of one loader process, and of synthesis and augmentation on the device."""
    size, batch_size = config.crops_at(config.max_steps)
    rows = []
    for is_finished, name in ((True, "loader process: read, paint, augment"), (False, "loader process: read only")):
        stream = make_stream(config, pool, is_finished)
        seconds = seconds_of(lambda n, s=stream: s[n], torch.device("cpu"), repeats)
        rows.append((f"{name}, {size}^3", f"{batch_size / seconds:.1f}", "samples/s"))
    raw = make_stream(config, pool, False)[0]
    raw = {k: v if k == "kind" else v.to(device) for k, v in raw.items()}

    def finish(number: int) -> None:
        finish_batch(raw, Randomness((number,), device), config.sampler, config.model.preprocessing)

    seconds = seconds_of(finish, device, repeats)
    rows.append((f"{device.type}: paint and augment, {size}^3", f"{batch_size / seconds:.1f}", "samples/s"))
    return rows


def measure_step(config: PretrainConfig, pool: TrainingPool, process: Process, repeats: int) -> tuple[list[Row], float]:
    """Samples a second of the training step alone; and its seconds."""
    size, batch_size = config.crops_at(config.max_steps)
    step = Step(config, process)
    batch = {k: v.to(process.device) for k, v in make_stream(config, pool, True)[0].items()}
    seconds = seconds_of(lambda n: step(batch, n), process.device, repeats)
    return [(f"training step, {config.model.name}, {size}^3", f"{batch_size / seconds:.2f}", "samples/s")], seconds


def measure_overlap(config: PretrainConfig, pool: TrainingPool, process: Process, repeats: int, workers: int) -> Row:
    """Share of the time that a training loop with loader processes waits for them."""
    step = Step(config, process)
    on_device = config.synthesis_on == "device"
    stream = make_stream(config, pool, not on_device)
    loader = DataLoader(stream, batch_size=None, sampler=range(repeats + 2), num_workers=workers)
    waited, batches = 0.0, iter(loader)
    started = time.perf_counter()
    for number in range(repeats + 2):
        if number == 2:  # the loader has filled its queue
            waited, started = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        batch = {k: v if k == "kind" else v.to(process.device) for k, v in batch.items()}
        if on_device:
            randomness = Randomness((number,), process.device)
            batch = finish_batch(batch, randomness, config.sampler, config.model.preprocessing)
        step(batch, number)
        synchronise(process.device)
    share = waited / (time.perf_counter() - started)
    return f"waiting for data, {workers} loader process(es)", f"{100 * share:.1f}", "% of the time"


def measure_simulator(config: PretrainConfig, device: torch.device, repeats: int) -> list[Row]:
    """Milliseconds of a simulated round at 64^3 with 4 objects, against the network's forward and backward."""
    torch.manual_seed(0)
    model = PromptableModel(config.model).to(device)
    image = torch.rand(1, 1, 64, 64, 64, device=device) * 2 - 1
    target = shape_labels(Randomness((3,), device), 4, 64)
    target = target == target.flatten(1).amax(dim=1)[:, None, None, None]
    wrong = torch.where(target.roll(5, dims=1), 1.0, -1.0)
    prompts = PromptSimulatorConfig()

    def network(number: int) -> None:
        embedding = model.encode_image(image, torch.ones(1, 3, device=device))
        output = model.decode(embedding, open_episode(target, None, prompts).batch(1), multimask=True)
        round_loss(output, target, True)[0].backward()

    def correct(number: int) -> None:
        state = open_episode(target, None, prompts)
        correct_episode(state, wrong, Randomness((number,), device), prompts)

    def opening(number: int) -> None:
        open_episode(target, Randomness((number,), device), prompts)

    free = seconds_of(lambda _: open_episode(target, None, prompts), device, 10 * repeats)
    round_seconds = seconds_of(correct, device, 10 * repeats) - free
    first_seconds = seconds_of(opening, device, 10 * repeats)
    network_seconds = seconds_of(network, device, repeats) - free
    return [
        ("simulator: first prompts, 64^3, 4 objects", f"{1e3 * first_seconds:.1f}", "ms"),
        ("simulator: a correction, 64^3, 4 objects", f"{1e3 * round_seconds:.1f}", "ms"),
        (f"network: forward and backward, {config.model.name}", f"{1e3 * network_seconds:.1f}", "ms"),
        ("simulator / network", f"{100 * round_seconds / network_seconds:.1f}", "%"),
    ]


def _scaled(rank: int, world_size: int, config: PretrainConfig, repeats: int, threads: int, results: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    torch.set_num_threads(threads)
    process = start(config.device)
    step = Step(config, process)
    batch = {k: v.to(process.device) for k, v in make_stream(config, drawn_pool(config), True)[0].items()}

    def run(number: int) -> None:
        step(batch, number)
        barrier()

    seconds = seconds_of(run, process.device, repeats)
    if rank == 0:
        results.put(seconds)
    stop()


def measure_scaling(config: PretrainConfig, repeats: int, threads: int) -> list[Row]:
    """Samples a second on one process and on two, all of them computing, and the share kept."""
    context = multiprocessing.get_context("spawn")
    rates = []
    for world_size in (1, 2):
        results = context.SimpleQueue()
        arguments = (world_size, config, repeats, threads, results)
        spawn(_scaled, arguments, nprocs=world_size)
        rates.append(world_size * config.crops_at(config.max_steps)[1] / results.get())
    efficiency = rates[1] / (2 * rates[0])
    return [
        ("training step on 1 process", f"{rates[0]:.2f}", "samples/s"),
        ("training step on 2 processes", f"{rates[1]:.2f}", "samples/s"),
        ("kept per process", f"{100 * efficiency:.0f}", "%"),
    ]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs" / "pretrain_tiny.yaml"))
    parser.add_argument("--data-root", help="folder of data sets; without it volumes are drawn")
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=("data", "step", "overlap", "simulator", "scaling"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = PretrainConfig.from_file(arguments.config, data_root=arguments.data_root)
    config = dataclasses.replace(config, device=arguments.device)
    process = start(arguments.device)
    if arguments.data_root:
        pool = load_pool(config.data_root, config.data_weights, config.model.preprocessing)
    else:
        pool = drawn_pool(config)
    chosen = arguments.only or ("data", "step", "overlap", "simulator", "scaling")
    rows: list[Row] = []
    if "data" in chosen:
        rows += measure_data(config, pool, process.device, arguments.repeats)
    if "step" in chosen:
        rows += measure_step(config, pool, process, arguments.repeats)[0]
    if "overlap" in chosen:
        rows.append(measure_overlap(config, pool, process, arguments.repeats, arguments.workers))
    if "simulator" in chosen:
        rows += measure_simulator(config, process.device, arguments.repeats)
    if "scaling" in chosen:
        rows += measure_scaling(config, arguments.repeats, arguments.threads)
    card = torch.cuda.get_device_name() if process.device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"| on {card} | | |\n|---|---|---|")
    for name, value, unit in rows:
        print(f"| {name} | {value} | {unit} |")


if __name__ == "__main__":
    main()
