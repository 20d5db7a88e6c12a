"""Configuration of a fine-tuning: one frozen object for the command line, the YAML file and the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEARNING_RATES = {"lora": 3e-3, "dora": 3e-3, "salt": 1e-3, "decoder": 3e-4, "full": 2e-3}
"""Peak learning rate of each method, where none is given."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Tunes a model to your own images and label maps, and writes an adapter of a few MB.

    Needs a folder of images and a folder of label maps with the same file names. Some cases are held out, to stop in
    time and to report what was gained, for a click and for automatic mode, beside what became of unrelated organs.
    """

    model: str = "promptseg-tiny"
    """weights to start from: a name that promptseg doctor lists, a folder, or a Hub id owner/name"""
    images: str = ""
    """folder of images: .nii, .nii.gz, or (with the extra promptseg[itk]) .nrrd, .mha, .mhd"""
    labels: str = ""
    """folder of label maps on the images' grids, of the same names (a trailing _0000 of the images' is ignored)"""
    output: str = ""
    """folder of the adapter to write"""
    names: str | None = None
    """what label values mean, such as 1=liver,2=tumour; else from a dataset.json beside or above the labels"""
    method: Literal["lora", "dora", "salt", "decoder", "full"] = "lora"
    """what is tuned: low-rank changes of the transformers (lora, dora, salt), the whole decoder, or everything"""
    scope: Literal["all", "encoder", "decoder"] = "all"
    """where low-rank changes go; with decoder the images are encoded only once"""
    convolutions: bool = True
    """with lora, dora and salt: also tune the convolutions, whole; they draw the border, and are small"""
    rank: int = 8
    """rank of low-rank changes: the adapter's size grows with it"""
    minutes: float = 10.0
    """time for training; loading and the report come on top"""
    max_steps: int = 4000
    """most training steps"""
    batch_size: int = 2
    """crops per step"""
    objects_per_crop: int = 1
    """structures asked for in each crop"""
    learning_rate: float | None = None
    """peak learning rate; by default the method's own"""
    automatic: bool = True
    """learn to find the labels without a prompt, too"""
    automatic_share: float = 0.75
    """share of the steps that practise that"""
    validation_share: float = 0.2
    """share of the cases held out, one at least; all of a patient's, where names begin with sub-PATIENT_ (BIDS)"""
    patience: int = 8
    """stop after so many validations without a gain"""
    validate_every: int = 100
    """steps between validations"""
    augmentation: float = 0.7
    """strength of intensity augmentation, 0 to 1"""
    mirror: bool = False
    """mirror crops at random; only where left and right do not matter"""
    report_cases: int = 5
    """held-out cases with labels that the report segments whole, before and after; 0 for no report"""
    probe: bool = True
    """also report what became of organs of the volume that ships, which have nothing to do with the training"""
    seed: int = 0
    """of weights, split, crops and prompts"""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; a GPU is used if there is one"""
    cache_megabytes: int = 1024
    """memory for image embeddings, where the encoder is frozen"""
    overwrite: bool = False
    """replace an adapter that is in the output folder"""

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.max_steps < 1:
            raise ValueError(f"minutes={self.minutes} and max_steps={self.max_steps}: expected more than 0 of each")
        if self.method not in LEARNING_RATES:
            raise ValueError(f"method={self.method!r}: expected one of {', '.join(LEARNING_RATES)}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate}: expected more than 0, or none for the method's own")
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: expected 1 or more")
        for name in ("report_cases", "seed", "cache_megabytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if self.batch_size < 1 or self.objects_per_crop < 1 or self.validate_every < 1 or self.patience < 1:
            raise ValueError(
                f"batch_size={self.batch_size}, objects_per_crop={self.objects_per_crop}, "
                f"validate_every={self.validate_every}, patience={self.patience}: expected 1 or more of each"
            )
        for name in ("automatic_share", "validation_share", "augmentation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 to 1")
        if self.validation_share == 1:
            raise ValueError("validation_share=1.0 leaves nothing to train on; expected less than 1")
        if self.scope != "all" and self.method in ("decoder", "full"):
            raise ValueError(
                f"scope={self.scope!r} and method={self.method!r}: the scope is for lora, dora and salt; leave it out"
            )

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate after the warm-up."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate
