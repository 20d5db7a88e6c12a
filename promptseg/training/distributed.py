"""Processes of a run: where each computes, how the model is wrapped, and what they agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Parallelism = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Process:
    """One of the processes that ``torchrun`` started, or the only one.

    Attributes:
        rank: its number, 0 for the one that writes files.
        world_size: how many there are.
        device: where it computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and weights."""
        return self.rank == 0


def start(device: str = "auto") -> Process:
    """Joins the other processes of the run, as the environment that ``torchrun`` sets describes them.

    Args:
        device: ``auto`` for this process's GPU where there is one; or ``cpu``, ``cuda``.

    Raises:
        ValueError: for ``cuda`` without a GPU, or fewer GPUs than processes on this machine.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={device!r}: expected 'auto', 'cpu' or 'cuda'")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        chosen = torch.device("cpu")
    else:
        found = torch.cuda.device_count()
        started = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), local_rank + 1)
        if started > found:  # the same on every process of this machine, of which one says so
            raise ValueError(
                f"{started} process(es) on this machine and {found} GPU(s), and each needs its own: start as "
                "many processes as GPUs (torchrun --nproc-per-node), or choose device='cpu'"
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    return Process(rank, world_size, chosen)


def stop() -> None:
    """Leaves the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(module: nn.Module, process: Process, parallelism: Parallelism) -> nn.Module:
    """Wraps a module so that gradients are averaged over processes; its forward has to be called through the wrapper.

    ``ddp`` keeps a copy of everything on each process. ``fsdp`` keeps a share of parameters, gradients and optimiser
    state on each and gathers the transformer blocks one after the other as they are used.

    Args:
        module: on its device. Every parameter that takes gradients has to take part in every forward.
        process: this one.
        parallelism: which.

    Returns:
        The wrapper; the module itself for a single process and for ``fsdp``, which changes it in place.

    Raises:
        ValueError: for another parallelism.
    """
    if parallelism not in ("ddp", "fsdp"):
        raise ValueError(f"parallel={parallelism!r}: expected 'ddp' or 'fsdp'")
    if process.world_size == 1:
        return module
    if parallelism == "ddp":
        return DistributedDataParallel(
            module, device_ids=[process.device] if process.device.type == "cuda" else None, gradient_as_bucket_view=True
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from ..models.image_encoder import TransformerBlock

    mesh = init_device_mesh(process.device.type, (process.world_size,))
    for part in module.modules():
        if isinstance(part, TransformerBlock):
            fully_shard(part, mesh=mesh)
    # Last, so that what no block owns (stem, prompt encoder, decoder) is gathered once for the whole forward, in which
    # the decoder is used several times and not by its own forward.
    fully_shard(module, mesh=mesh)
    return module


@contextlib.contextmanager
def gradient_sync(wrapped: nn.Module, enabled: bool) -> Iterator[None]:
    """Averages gradients over processes in the backward pass inside the block, or only adds them up locally."""
    if isinstance(wrapped, DistributedDataParallel):
        with contextlib.nullcontext() if enabled else wrapped.no_sync():
            yield
        return
    set_sync = getattr(wrapped, "set_requires_gradient_sync", None)
    if set_sync is not None:
        set_sync(enabled)
    yield


def local_part(tensor: Tensor) -> Tensor:
    """The share of a tensor that this process holds, by reference: all of it but under ``fsdp``."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be spread over processes; all of them have to call it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set on any process; all of them have to call it."""
    if not dist.is_initialized():
        return flags
    shared = torch.tensor([int(f) for f in flags])
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return tuple(bool(v) for v in shared)


def sum_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """The sum over processes of each value, in float64; all of them have to call it, with the same names."""
    if not dist.is_initialized():
        return dict(values)
    shared = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(shared)
    return dict(zip(values, shared.tolist(), strict=True))


def barrier() -> None:
    """Waits for the other processes."""
    if dist.is_initialized():
        any_rank(True)
