"""Random numbers by counter: the same key gives the same numbers, on whichever process, in whichever order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch


class Randomness:
    """Two sources of random numbers from one key.

    Decisions (which effect, how strong) are drawn on the host, where code can branch on them without waiting for a
    GPU; fields of voxels are drawn where they are used.

    Args:
        key: non-negative integers, such as (seed, step, index).
        device: of the fields.

    Attributes:
        host: for decisions.
        device: for tensors on ``device``.

    Example:
        >>> a, b = Randomness((0, 7, 1)), Randomness((0, 7, 1))
        >>> a.host.random() == b.host.random()
        True
    """

    def __init__(self, key: Sequence[int], device: torch.device | str = "cpu") -> None:
        sequence = np.random.SeedSequence([int(k) for k in key])
        self.host = np.random.default_rng(sequence)
        seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        self.device = torch.Generator(device).manual_seed(seed)
        self.place = torch.device(device)

    @classmethod
    def of(cls, source: Randomness | np.random.Generator | torch.Generator, device: torch.device | str) -> Randomness:
        """The source itself, or one that draws its key from a generator, which moves on."""
        if isinstance(source, Randomness):
            return source
        if isinstance(source, np.random.Generator):
            return cls([int(source.integers(2**62))], device)
        return cls([int(torch.randint(2**62, (1,), generator=source, device=source.device))], device)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 on the device."""
        return torch.randn(shape, generator=self.device, device=self.place)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Uniform float32 on the device."""
        return torch.rand(shape, generator=self.device, device=self.place) * (high - low) + low


def hand_over(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """What was decided on the host, on the device; without waiting for what a GPU has been given to do before."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.to(device, non_blocking=True)


RandomSource: TypeAlias = Randomness | np.random.Generator | torch.Generator
"""What functions that draw take; see :meth:`Randomness.of`."""
