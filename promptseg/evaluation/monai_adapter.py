"""A MONAI network (or any torch module) in the same table: image and click maps in, logits out, by sliding window.

# my_networks.py
def deepedit():
    network = monai.networks.nets.DynUNet(...)
    network.load_state_dict(...)
    return NetworkSegmenter(network, channels=("image", "positive", "negative"), roi_size=(128, 128, 128))

promptseg evaluate --model my_networks:deepedit ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from .prompts import ObjectPrompts
from .segmenters import SegmenterAnswer, SegmenterImage

if TYPE_CHECKING:
    import torch

Channel = Literal["image", "positive", "negative", "box", "mask"]


class NetworkSegmenter:
    """A network that sees the image and maps of the prompts, as MONAI Label's DeepEdit and DeepGrow do.

    Args:
        network: maps (B, C, D, H, W) to (B, K, D, H, W) logits.
        channels: what the C input channels are; ``mask`` is its own previous answer, or the mask that was given.
        roi_size: of the sliding window, in voxels of ``spacing_mm``.
        spacing_mm: voxel sides to resample to; None for the image's own.
        normalise: maps intensities (D, H, W) to what the network was trained with; None for zero mean, unit variance.
        foreground: channel of the output that is the object; with K = 1, the sign of the logits decides, else the
            largest channel.
        click_sigma_mm: of the Gaussian around each click and along each scribble, which has its maximum 1 there.
        device: where to compute.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        channels: Sequence[Channel] = ("image", "positive", "negative"),
        roi_size: Sequence[int] = (96, 96, 96),
        spacing_mm: Sequence[float] | None = None,
        normalise: Callable[[np.ndarray], np.ndarray] | None = None,
        foreground: int = 1,
        click_sigma_mm: float = 2.0,
        device: str | None = None,
    ) -> None:
        import torch

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = network.eval().to(self.device)
        self.channels, self.roi_size = tuple(channels), tuple(roi_size)
        self.spacing_mm = None if spacing_mm is None else np.asarray(spacing_mm, dtype=np.float64)
        self.normalise = normalise or _zero_mean
        self.foreground, self.click_sigma_mm = foreground, click_sigma_mm
        accepted = {"positive": {"points", "scribbles"}, "box": {"box"}, "mask": {"mask"}}
        self.accepts = frozenset(kind for channel in self.channels for kind in accepted.get(channel, ()))

    def set_image(self, image: SegmenterImage) -> None:
        """Normalises and resamples the image."""
        import torch
        from torch.nn.functional import interpolate

        self._shape = image.array.shape
        values = np.ascontiguousarray(self.normalise(image.array.astype(np.float32)), dtype=np.float32)
        grid_spacing = image.spacing_mm if self.spacing_mm is None else self.spacing_mm
        self._grid = tuple(
            max(1, round(n * s / g)) for n, s, g in zip(self._shape, image.spacing_mm, grid_spacing, strict=True)
        )
        tensor = torch.from_numpy(values)[None, None]
        self._image = interpolate(tensor, size=self._grid, mode="trilinear", align_corners=False)[0, 0]
        self._scale = np.array(self._grid) / np.array(self._shape)
        self._grid_spacing = image.spacing_mm / self._scale
        self.start_object()

    def start_object(self) -> None:
        """Forgets the previous answer."""
        self._answer: np.ndarray | None = None

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """Runs the network over the whole image."""
        import torch
        from monai.inferers.utils import sliding_window_inference
        from torch.nn.functional import interpolate

        inputs = torch.stack([self._map(channel, prompts) for channel in self.channels])[None].to(self.device)
        with torch.no_grad():
            logits = sliding_window_inference(inputs, self.roi_size, 1, self.network, overlap=0.25, mode="gaussian")
        assert isinstance(logits, torch.Tensor)
        full = interpolate(logits.float(), size=self._shape, mode="trilinear", align_corners=False)[0]
        inside = full[0] > 0 if full.shape[0] == 1 else full.argmax(dim=0) == self.foreground
        self._answer = inside.cpu().numpy()
        return SegmenterAnswer(self._answer)

    def _map(self, channel: Channel, prompts: ObjectPrompts) -> torch.Tensor:
        """One input channel on the network's grid."""
        import torch
        from torch.nn.functional import interpolate

        if channel == "image":
            return self._image
        if channel == "mask":
            mask = prompts.mask if self._answer is None else self._answer
            if mask is None:
                return torch.zeros(self._grid)
            tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
            return interpolate(tensor, size=self._grid, mode="trilinear", align_corners=False)[0, 0]
        if channel == "box":
            filled = torch.zeros(self._grid)
            if prompts.box is not None:
                low = np.floor(prompts.box[0] * self._scale).astype(int)
                high = np.maximum(np.ceil(prompts.box[1] * self._scale).astype(int), low + 1)
                filled[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 1
            return filled
        voxels, labels = prompts.marked_voxels()
        return torch.from_numpy(self._clicks(voxels[labels == (1 if channel == "positive" else 0)]))

    def _clicks(self, voxels: np.ndarray) -> np.ndarray:
        """Gaussians around voxels of the image, on the network's grid: (D, H, W) float32, at most 1."""
        drawn = np.zeros(self._grid, dtype=np.float32)
        sigma = self.click_sigma_mm
        reach = np.ceil(3 * sigma / self._grid_spacing).astype(int)
        for centre in (voxels + 0.5) * self._scale - 0.5:
            nearest = np.rint(centre).astype(int)
            low = np.clip(nearest - reach, 0, np.array(self._grid) - 1)
            high = np.clip(nearest + reach + 1, low + 1, self._grid)
            axes = [
                np.exp(-0.5 * ((np.arange(a, b) - c) * s / sigma) ** 2)
                for a, b, c, s in zip(low, high, centre, self._grid_spacing, strict=True)
            ]
            part = drawn[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            np.maximum(part, axes[0][:, None, None] * axes[1][None, :, None] * axes[2], out=part)
        return drawn


def _zero_mean(image: np.ndarray) -> np.ndarray:
    return (image - image.mean()) / max(float(image.std()), 1e-6)
