"""What differs between stages of training: the module, its data, and the weights it starts from."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.batch_synthesis import finish_batch
from ..data.randomness import Randomness
from ..data.sample_stream import SampleStream
from ..models import ModelConfig, PromptableModel
from ..models.layers import NormRelu
from ..models.mask_decoder import MaskDecoder
from .config import PretrainConfig
from .distributed import Process
from .initialisation import Inheritance, inherit, initialise
from .masked_autoencoder import MaskedAutoencoder
from .prompted import PromptedTraining, WordTraining
from .reading import read_pool, with_terms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A stage, ready to be wrapped and trained.

    Attributes:
        module: whose forward(batch, step, index) gives a loss and what else was measured.
        model: the part of it that is trained, averaged, saved and exported.
        stream: micro-batches by number.
        prepare: (batch, step, index) -> the batch on the device, complete.
        described: the model's configuration as it is exported, with the terms that the data teach.
        handed_on: tensors that are exported beside the trained ones, as the first weights had them.
    """

    module: nn.Module
    model: nn.Module
    stream: Dataset[dict[str, Tensor]]
    prepare: Callable[[dict[str, Tensor], int, int], dict[str, Tensor]]
    described: ModelConfig
    handed_on: dict[str, Tensor]


def make_stage(config: PretrainConfig, process: Process, is_new: bool = True) -> Stage:
    """Builds the stage that a configuration names.

    Args:
        config: of the run.
        process: this one.
        is_new: give the model its first weights, which fails before minutes of reading and not after them; else a
            checkpoint will, and what the run started from need not be there any more.

    Raises:
        ValueError: if its data are missing, or the weights to start from do not fit.
    """
    promptable = PromptableModel(config.model).to(process.device)
    if process.world_size == 1 or config.parallel == "ddp":  # fully_shard takes contiguous weights only
        promptable = promptable.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    if config.stage == "mae":
        model: nn.Module = MaskedAutoencoder(promptable.image_encoder, config.model, config.mae, config.seed)
        model = model.to(process.device)
        module = model
    else:
        model = promptable
        module = WordTraining(promptable) if config.stage == "words" else PromptedTraining(promptable, config)
    if config.compile and process.device.type == "cuda":
        compile_passes(module)
    if is_new:
        initialise(model, config.init_from, config.stage)
    pool = read_pool(config)
    stream = SampleStream(
        pool,
        config.seed,
        config.crops_at,
        config.sampler,
        config.model.preprocessing,
        process.rank,
        process.world_size,
        config.accumulation,
        images_only=config.stage == "mae",
        is_finished=config.synthesis_on == "loader",
        real_from=config.real_from if config.stage == "prompted" else 0,
    )

    def prepare(batch: dict[str, Tensor], step: int, index: int) -> dict[str, Tensor]:
        moved = {k: v if k == "kind" else v.to(process.device, non_blocking=True) for k, v in batch.items()}
        if config.synthesis_on == "loader":
            return moved
        randomness = Randomness((config.seed, step, index, 3), process.device)
        return finish_batch(moved, randomness, config.sampler, config.model.preprocessing)

    described, inherited = config.model, Inheritance()
    if config.stage != "mae":
        described = dataclasses.replace(described, **dict.fromkeys(config.untrained_layers, True))
        if config.sampler.text_share or config.stage == "words":
            inherited = inherit(config.init_from, None if is_new else Path(config.out_dir) / "weights")
            described = with_terms(described, pool, inherited.terms)
            described = dataclasses.replace(described, atlases=inherited.atlases)
    return Stage(module, model, stream, prepare, described, inherited.tensors)


def compile_passes(module: nn.Module, backend: str = "inductor") -> None:
    """Compiles what a GPU spends in passes over memory: norms, maps and losses. Products are as fast without.

    Args:
        module: of a stage.
        backend: of ``torch.compile``.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)  # a graph for each size
    for part in module.modules():
        if isinstance(part, NormRelu):
            part.compile(dynamic=False, backend=backend)
        elif isinstance(part, MaskDecoder):
            part.passes = {k: torch.compile(f, dynamic=False, backend=backend) for k, f in part.passes.items()}
        elif isinstance(part, PromptedTraining):
            part.score = torch.compile(part.score, dynamic=False, backend=backend)
