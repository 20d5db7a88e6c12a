"""Configuration of a training run: one frozen object for the YAML file and the checkpoint."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ..data.prompt_simulator import PromptSimulatorConfig
from ..data.sampler import SamplerConfig
from ..field_values import build, converted, read_fields
from ..models.config import ModelConfig
from .masked_autoencoder import MaskedAutoencoderConfig
from .validation import ValidationConfig

_RANGES: dict[str, tuple[float, float]] = {
    "accumulation": (1, math.inf),
    "batch_size": (1, math.inf),
    "ema_decay": (0, 1),
    "keep_checkpoints": (1, math.inf),
    "layer_decay": (0, 1),
    "log_every": (1, math.inf),
    "max_nonfinite_steps": (0, math.inf),
    "max_steps": (1, math.inf),
    "minutes": (0, math.inf),
    "num_workers": (0, math.inf),
    "real_from": (0, math.inf),
    "save_every_steps": (0, math.inf),
    "scored_rounds": (0, math.inf),
    "seed": (0, 2**63 - 1),
    "warmup_steps": (0, math.inf),
    "weight_decay": (0, math.inf),
}
"""Smallest and largest value of fields; others are checked in words."""


@dataclass(frozen=True)
class CropStage:
    """Size of crops and batches from a step on: small crops first teach edges and clicks at a fraction of the cost."""

    first_step: int
    """Step from which it holds."""
    crop_size: int
    """Side of a crop in voxels, a multiple of 16."""
    batch_size: int
    """Crops per step and process."""


@dataclass(frozen=True)
class PretrainConfig:
    """A prompted training run.

    Raises:
        ValueError: if a field is not what its type says or out of range, or two contradict each other; they are named.
    """

    stage: Literal["prompted", "mae", "words"] = "prompted"
    """``prompted`` trains the whole model; ``mae`` only the image encoder, on images without labels; ``words`` only the
    word head on features that stay as they are, which costs a fifth and leaves clicks and boxes bit-equal."""
    train_encoder: bool = True
    """False, in the stage ``prompted``: the image encoder stays as it is, and with it all embeddings, bit-equal."""
    train_words: bool = True
    """False, in the stage ``prompted``: the word head and all that it reads of a name stay as they are, so that with an
    encoder that stays too a name is looked for as before; what is drawn at it is still learnt."""
    init_from: str = ""
    """Weights to start from: empty for none; ``timm:NAME`` for a 2D ViT that is inflated, ``sam2d:FILE.pth`` for
    Segment Anything's image encoder; else a checkpoint folder or name, or the ``weights`` folder of a
    masked-autoencoder run, whose encoder is taken."""
    out_dir: str = "runs/pretrain"
    """Folder for checkpoints, log and weights."""
    data_root: str = "data"
    """Folder of data sets, each with a ``catalog.yaml`` or a ``dataset.json``, read into memory."""
    catalogs: str = ""
    """Folder of catalogs ``NAME.yaml`` that describe the data sets better than what lies beside them."""
    store: str = ""
    """Store of ``promptseg data prepare`` to read crops from, instead of ``data_root``: for data larger than memory; or
    what ``promptseg data export`` made of one, a Zarr folder or the URL of an object store such as ``s3://bucket/zarr``."""
    data_weights: dict[str, float] = field(default_factory=dict)
    """Data set (``name`` or ``name:modality``) -> sampling weight."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Sizes and preprocessing of the model."""
    untrained_layers: tuple[Literal["follow_edges", "walk_from_clicks"], ...] = ("follow_edges", "walk_from_clicks")
    """Layers of the model with nothing to learn that the weights of the stages ``prompted`` and ``words`` are written
    with, though the run, its validation too, is spared their cost; they help on anatomy that was not trained on."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How crops are drawn."""
    prompts: PromptSimulatorConfig = field(default_factory=PromptSimulatorConfig)
    """How prompts are simulated."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Whether and how the validation fold is measured on the way."""
    mae: MaskedAutoencoderConfig = field(default_factory=MaskedAutoencoderConfig)
    """Of the stage ``mae``."""
    seed: int = 0
    """Of weights, samples and prompts."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; ``auto`` takes a GPU where there is one."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """On several processes: a copy of the weights on each, or a share of them."""
    batch_size: int = 4
    """Crops per micro-step and process."""
    accumulation: int = 1
    """Micro-steps whose gradients are averaged in one step."""
    stages: tuple[CropStage, ...] = ()
    """Earlier stages with other crops, ascending; after the last ``first_step`` given here its sizes hold. Empty: crops
    of ``sampler.crop_size`` in batches of ``batch_size`` throughout."""
    max_steps: int = 4000
    """Steps of the whole run."""
    minutes: float = 0.0
    """Minutes of the whole run, for a machine that is lent by the hour: the schedule, stated in steps, is gone through
    in them, in fewer steps. 0: as long as the steps take, and then a run is a function of its steps alone."""
    warmup_steps: int = 150
    """Steps over which the learning rate rises from zero."""
    decay_start: int = 3000
    """Step from which the learning rate falls to zero at ``max_steps``, along half a cosine."""
    real_from: int = 0
    """Step of the prompted stage from which on only images with labels of their own are drawn: no shapes, no paintings,
    no supervoxels. 0: never. It counts steps in a run of ``minutes``, too. Synthesis teaches a first click, real images
    the corrections: see the ablations."""
    learning_rate: float = 6e-4
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: matrices and kernels by Muon, whose updates are as long as AdamW's; the rest by AdamW. Not sharded."""
    weight_decay: float = 0.02
    """Decoupled weight decay, not applied to biases, norms and embeddings."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block of the encoder's transformer to the one below it; 1 for none."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are the ones exported."""
    round_probabilities: tuple[float, ...] = (0.25, 0.25, 0.25, 0.15, 0.1)
    """Probability of an episode of 1, 2, ... rounds of prompts."""
    scored_rounds: int = 0
    """Rounds of an episode that are learnt from, its last ones; those before are played for what leads there, at a
    third of the cost. 0 for all."""
    bf16: bool = True
    """Compute in bfloat16 under autocast, where the device is fast at it."""
    compile: bool = False
    """Compile norms and losses, where a GPU waits for its memory, with torch.compile; on a GPU only."""
    num_workers: int = 1
    """Processes that make samples, for each process that trains."""
    synthesis_on: Literal["loader", "device"] = "loader"
    """Where label maps are painted and images augmented: in the loader's processes, or on the training device."""
    save_every_minutes: float = 5.0
    """Minutes between checkpoints."""
    save_every_steps: int = 0
    """Steps between checkpoints, besides those by time; 0 for none."""
    keep_checkpoints: int = 2
    """Checkpoints kept, the newest ones."""
    tensorboard: bool = False
    """Also write TensorBoard events, if the package is there."""
    log_every: int = 20
    """Steps between lines of ``metrics.jsonl``."""
    max_nonfinite_steps: int = 20
    """Steps with a non-finite loss or gradient are skipped and counted; after more than so many, of ten times as many
    steps, the run stops."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in (f.name for f in dataclasses.fields(self)):
            object.__setattr__(self, name, converted(getattr(self, name), hints[name], name))
        self._check_ranges()
        stages = self.stages
        starts = [s.first_step for s in stages]
        if stages and (starts[0] != 0 or starts != sorted(set(starts))):
            raise ValueError(f"stages start at steps {starts}: expected 0 first, then ascending")
        if bad := [s.crop_size for s in stages if s.crop_size % 16 or s.crop_size < 16]:
            raise ValueError(f"stages with crop_size={bad[0]}: expected a positive multiple of 16")
        if not self.warmup_steps <= self.decay_start <= self.max_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps}, decay_start={self.decay_start} and max_steps={self.max_steps}: "
                "expected them in this order"
            )
        if self.sampler.crop_size != self.model.tile_size:
            raise ValueError(
                f"sampler.crop_size={self.sampler.crop_size} and model.tile_size={self.model.tile_size}: expected equal"
            )
        if self.stage != "prompted" and self.validation.every:
            raise ValueError(
                f"stage={self.stage!r} and validation.every={self.validation.every}: clicks are validated only in the "
                "prompted stage; set validation.every to 0"
            )
        if self.stage == "words" and not (self.model.word_hints and self.sampler.names_per_crop):
            raise ValueError(
                f"stage='words' with model.word_hints={self.model.word_hints} and sampler.names_per_crop="
                f"{self.sampler.names_per_crop}: expected true and at least 1"
            )
        if not self.train_encoder and not (self.stage == "prompted" and self.init_from):
            raise ValueError(
                f"train_encoder=False with stage={self.stage!r} and init_from={self.init_from!r}: expected the stage "
                "prompted, and weights whose encoder is to be kept"
            )
        if not self.train_words and self.stage != "prompted":
            raise ValueError(f"train_words=False with stage={self.stage!r}: expected the stage prompted")
        if self.optimizer == "muon" and (self.parallel != "ddp" or self.weight_decay <= 0):
            raise ValueError(
                f"optimizer='muon' with parallel={self.parallel!r} and weight_decay={self.weight_decay}: expected "
                "'ddp', as it needs whole matrices, and more than 0, as it takes those that decay"
            )

    def _check_ranges(self) -> None:
        """Each field by itself."""
        for name, (smallest, largest) in _RANGES.items():
            if not smallest <= getattr(self, name) <= largest:
                span = f"{smallest} or more" if largest == math.inf else f"{smallest} to {largest}"
                raise ValueError(f"{name}={getattr(self, name)}: expected {span}")
        for name in ("learning_rate", "layer_decay", "clip_norm", "save_every_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")
        for name in ("learning_rate", "weight_decay", "minutes"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: expected a finite number")
        weights = self.data_weights.values()
        if self.data_weights and not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise ValueError(
                f"data_weights={self.data_weights}: expected numbers of 0 or more, at least one of them more than 0"
            )
        if min(self.round_probabilities, default=-1) < 0 or abs(sum(self.round_probabilities) - 1) > 1e-6:
            raise ValueError(
                f"round_probabilities={self.round_probabilities}: expected numbers of 0 or more with a sum of 1"
            )
        for stage in self.stages:
            if stage.batch_size < 1:
                raise ValueError(f"stages with batch_size={stage.batch_size}: expected 1 or more")

    def crops_at(self, step: int) -> tuple[int, int]:
        """Crop size and batch size at a step."""
        current = (self.sampler.crop_size, self.batch_size)
        for stage in self.stages:
            if step >= stage.first_step:
                current = (stage.crop_size, stage.batch_size)
        return current

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> PretrainConfig:
        """Reads a YAML file.

        Args:
            path: of the file.
            overrides: fields to replace, those of a group by their dotted names (``sampler.text_share``); None for
                none.

        Raises:
            ValueError: for a file that cannot be read, an unknown field, a value that is not what its field expects, or
                a contradiction.
        """
        values = read_fields(path)
        for name, value in overrides.items():
            if value is None:
                continue
            *groups, field_name = name.split(".")
            place = values
            for number, group in enumerate(groups, start=1):
                place[group] = place.get(group) or {}
                place = place[group]
                if not isinstance(place, dict):
                    raise ValueError(
                        f"{path}: {name}={value}: {'.'.join(groups[:number])} is one value, not a group of fields"
                    )
            place[field_name] = value
        return build(cls, values, str(path))
