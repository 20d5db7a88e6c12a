"""nnInteractive in the same table, from its package on PyPI and weights that the user has.

    pip install nnInteractive
    promptseg evaluate --model nninteractive:FOLDER ...

The package is Apache-2.0. Its published weights have a licence of their own and are not fetched here: FOLDER is the
trained model folder (the one with ``fold_0`` or ``fold_all``). Written for nnInteractive 2.6.

Source: ``nnInteractiveInferenceSession`` of github.com/MIC-DKFZ/nnInteractive.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from .prompts import ObjectPrompts
from .segmenters import SegmenterAnswer, SegmenterImage

CHECKPOINT = "checkpoint_final.pth"


class NnInteractiveSegmenter:
    """nnInteractive's session behind the benchmark's interface.

    A 3D box is given as such if the checkpoint knows them, else as a box on its middle slice (the third axis), the only
    kind that the published weights were trained with. Prompts that the session has seen are not sent again.

    Args:
        folder: of the trained model.
        device: ``cuda``, ``cuda:N`` or ``cpu``; None for a GPU if there is one.

    Raises:
        ValueError: if the package or the weights are missing.
    """

    accepts = frozenset({"points", "box", "scribbles", "mask"})

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        checkpoint = find_checkpoint(folder)
        try:
            from nnInteractive.inference.inference_session import (  # pyright: ignore[reportMissingImports]
                nnInteractiveInferenceSession,
            )
        except ImportError as error:
            raise ValueError(
                f"--model nninteractive:{folder}: its package is missing ({error}); pip install nnInteractive"
            ) from error
        import torch

        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with contextlib.redirect_stdout(None):
            self.session: Any = nnInteractiveInferenceSession(
                device=chosen, torch_n_threads=torch.get_num_threads(), do_autozoom=True, enable_undo=False
            )
            self.session.initialize_from_trained_model_folder(
                str(folder), use_fold=checkpoint.parent.name.removeprefix("fold_"), checkpoint_name=checkpoint.name
            )
        self._seen = ObjectPrompts()

    def set_image(self, image: SegmenterImage) -> None:
        """Hands over the array; the session works in voxels and takes no affine."""
        self.session.set_image(np.ascontiguousarray(image.array, dtype=np.float32)[None])
        self._target = np.zeros(image.array.shape, dtype=np.uint8)
        self.session.set_target_buffer(self._target)
        self.start_object()

    def start_object(self) -> None:
        """Clears the session's interactions."""
        self.session.reset_interactions()
        self._target[:] = 0
        self._seen = ObjectPrompts()

    def predict(self, prompts: ObjectPrompts) -> SegmenterAnswer:
        """Sends what is new; the network runs once, after the last prompt."""
        seen = self._seen
        calls: list[tuple[Any, tuple[Any, ...]]] = []
        if prompts.mask is not None and seen.mask is None:
            self.session.add_initial_seg_interaction(prompts.mask.astype(np.uint8), run_prediction=False)
        if prompts.box is not None and seen.box is None:
            calls.append((self.session.add_bbox_interaction, (self._box(prompts), True)))
        for stroke in prompts.strokes[len(seen.strokes) :]:
            drawn = np.zeros(self._target.shape, dtype=np.uint8)
            drawn[tuple(stroke.voxels.T)] = 1
            calls.append((self.session.add_scribble_interaction, (drawn, bool(stroke.label))))
        for point, label in list(zip(prompts.points, prompts.labels, strict=True))[len(seen.points) :]:
            calls.append((self.session.add_point_interaction, (tuple(int(v) for v in point), bool(label))))
        for place, (call, arguments) in enumerate(calls):
            call(*arguments, run_prediction=place == len(calls) - 1)
        self._seen = prompts
        return SegmenterAnswer(self._target.astype(bool))

    def _box(self, prompts: ObjectPrompts) -> list[list[int]]:
        assert prompts.box is not None
        low, high = (end.tolist() for end in prompts.box)
        if not self.session._is_interaction_supported("bbox3d"):
            low[2] = (low[2] + high[2] - 1) // 2
            high[2] = low[2] + 1
        return [[a, b] for a, b in zip(low, high, strict=True)]


def find_checkpoint(folder: str | Path) -> Path:
    """The checkpoint in a trained model folder.

    Raises:
        ValueError: if there is none.
    """
    found = sorted(Path(folder).glob(f"fold_*/{CHECKPOINT}"))
    if not found:
        raise ValueError(f"nninteractive:{folder}: no fold_*/{CHECKPOINT} in it; give the trained model folder")
    return found[0]


def folder_revision(folder: str | Path) -> str:
    """Digest of the checkpoint.

    Raises:
        ValueError: if there is none.
    """
    digest = hashlib.blake2b(digest_size=12)
    with find_checkpoint(folder).open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
