"""The predictor: set an image once, then ask with prompts as often as you like."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .cache import DEFAULT_DISK_BYTES, DEFAULT_MEMORY_BYTES, DiskCache, EmbeddingCache
from .engine import TileEngine
from .interaction import Interaction, InteractionConfig
from .models import PromptableModel
from .models.pretrained import foreign_predictor, load_pretrained
from .models.registry import resolve
from .object_state import (
    ObjectState,
    changed_box,
    correct_object,
    covering_box,
    is_continuation,
    newest_round,
    open_object,
    opening_prompts,
    rounds_after,
)
from .prediction import LowresLogits, Prediction, native_box
from .preprocessing import IntensityMapping
from .prompts import PromptSet
from .tiles import TileLattice
from .volume import Volume

if TYPE_CHECKING:
    from .adapters import AdapterStack
    from .adapters.automatic import LabelPrediction

logger = logging.getLogger(__name__)

PREPROCESSING_VERSION = 1
"""Raised when preprocessing or tiling changes in code, so that cached embeddings of earlier releases are not used."""


class Predictor:
    """Segments objects of one image at a time from prompts.

    Args:
        model: a promptable model.
        device: where to compute; None for a GPU if there is one.
        dtype: of weights and activations; None for bfloat16 where the processor computes in it, else float32.
        cache_bytes: memory for image embeddings.
        cache_dir: folder for embeddings that outlive this process; None for none.
        cache_dir_bytes: bound of that folder.
        revision: digest of the weights, part of the cache key; None to compute it from them.
        interaction: how tiles and levels are chosen.

    Example:
        >>> from promptseg import Predictor
        >>> predictor = Predictor.from_pretrained("promptseg-tiny")  # doctest: +SKIP
        >>> predictor.set_image("ct.nii.gz")  # doctest: +SKIP
        >>> predictor.predict(points=[(120, 88, 45)], labels=[1]).save("liver.nii.gz")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: PromptableModel,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        cache_bytes: int = DEFAULT_MEMORY_BYTES,
        cache_dir: str | Path | None = None,
        cache_dir_bytes: int = DEFAULT_DISK_BYTES,
        revision: str | None = None,
        interaction: InteractionConfig | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or preferred_dtype(self.device)
        self.model = model.eval().to(device=self.device, dtype=self.dtype, memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
        self.cache = EmbeddingCache(cache_bytes, DiskCache(cache_dir, cache_dir_bytes) if cache_dir else None)
        self.revision = revision or _digest_weights(model)
        self.interaction_config = interaction or InteractionConfig()
        self._engine: TileEngine | None = None
        self._interaction: Interaction | None = None
        self._state: ObjectState | None = None
        self._adapters: AdapterStack | None = None
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        adapter: Any = None,
        revision: str | None = None,
        weights_cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> Predictor:
        """Loads weights and wraps them.

        Args:
            name: a checkpoint that ships (see ``promptseg doctor``), a folder, or a Hub id ``owner/name``; folders that
                ``promptseg convert`` made too.
            adapter: folder or Hub id of an adapter to put on, or several; see :meth:`load_adapter`.
            revision: branch, tag or commit of a Hub id.
            weights_cache_dir: the Hub's cache; None for the client's own. (``cache_dir`` is that of embeddings.)
            token: of the Hub.
            local_files_only: do not ask the Hub.
            options: of the constructor.

        Raises:
            ValueError: for weights that cannot be had, an incomplete folder or another architecture.
        """
        hub: dict[str, Any] = {"cache_dir": weights_cache_dir, "token": token, "local_files_only": local_files_only}
        folder = resolve(name, revision=revision, **hub)
        foreign = foreign_predictor(folder)
        if foreign is not None:
            if adapter is not None:
                raise ValueError(f"adapter={adapter!r}: the converted weights in {folder} take none; leave it out")
            return foreign.from_pretrained(folder, **options)
        model, digest = load_pretrained(folder)
        predictor = cls(model, revision=digest, **options)
        sources = [] if adapter is None else [adapter] if isinstance(adapter, (str, Path)) else list(adapter)
        predictor.set_adapter([predictor.load_adapter(source, **hub) for source in sources])
        return predictor

    @property
    def adapters(self) -> AdapterStack:
        """Adapters that are loaded, and which of them are on; change them with :meth:`set_adapter`."""
        if self._adapters is None:
            from .adapters import AdapterStack

            if not isinstance(self.model, PromptableModel):
                raise ValueError(f"weights {self.model.config.name!r} take no adapters; load promptseg's own")
            self._adapters = AdapterStack(self.model, self.model.weights_digest)
        return self._adapters

    def load_adapter(self, source: str | Path, name: str | None = None, **hub: Any) -> str:
        """Loads an adapter without putting it on, and returns its name; see :meth:`~.adapters.AdapterStack.load`."""
        with self._lock:
            return self.adapters.load(source, name, **hub)

    def set_adapter(self, chosen: str | Sequence[str] | Mapping[str, float] | None, merge: bool = False) -> Predictor:
        """Puts loaded adapters on, and takes all others off; the image stays, the object is begun anew.

        Embeddings of an adapter are kept apart from those of the base, so switching back costs nothing.

        Args:
            chosen: name, names, or name -> strength; None or empty for the base alone.
            merge: write the changes into the weights: as fast as the base, slower to switch.

        Returns:
            This predictor.

        Raises:
            ValueError: for a name that is not loaded.
        """
        with self._lock:
            if not chosen and self._adapters is None:
                return self
            self.adapters.activate(chosen or None, merge=merge)
            self._state = None
            if self._engine is not None:
                self._engine = replace(self._engine, signature=self._signature(self._engine.volume))
                self._interaction = Interaction(self._engine, self.interaction_config)
        return self

    def predict_labels(self, names: Sequence[str] | None = None) -> LabelPrediction:
        """Segments the structures that the adapters which are on were tuned for, without a prompt.

        Args:
            names: which of them; None for all.

        Returns:
            A label map on the image's grid.

        Raises:
            ValueError: if no adapter with an automatic mode is on, or it does not know a name.
        """
        from .adapters.automatic import predict_labels

        with self._lock:
            return predict_labels(self._require_engine(), self.adapters.labels, names)

    @property
    def volume(self) -> Volume:
        """The image that is set."""
        return self._require_engine().volume

    @property
    def lattice(self) -> TileLattice:
        """Tiles and zoom levels of the image that is set."""
        return self._require_engine().lattice

    @property
    def encoder_calls(self) -> int:
        """Tiles encoded since the image was set, those found in a cache not counted."""
        return self._require_engine().num_encoded

    def _require_engine(self) -> TileEngine:
        if self._engine is None:
            raise ValueError("no image is set: call set_image(...) first")
        return self._engine

    def set_image(self, image: Any, affine: Any = None, spacing: Any = None) -> Predictor:
        """Chooses the image that prompts refer to. Nothing is encoded until it is needed.

        Args:
            image: path, (I, J, K) numpy array or torch tensor, nibabel image, SimpleITK image, or Volume.
            affine: (4, 4) voxel to RAS mm; only for arrays and tensors.
            spacing: (3,) voxel size in mm; only for arrays and tensors without an affine.

        Returns:
            This predictor.

        Raises:
            ValueError: for an image that cannot be read or used; the message says what to do.
        """
        volume = Volume.from_image(image, affine=affine, spacing=spacing)
        config = self.model.config
        mapping = IntensityMapping.from_array(volume.canonical_array, config.preprocessing)
        shape, spacing_mm = volume.canonical_shape, volume.canonical_spacing_mm
        lattice = TileLattice(
            (int(shape[0]), int(shape[1]), int(shape[2])),
            (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
            config.tile_size,
        )
        with self._lock:
            signature = self._signature(volume)
            self._engine = TileEngine(self.model, volume, lattice, mapping, self.cache, signature)
            self._interaction = Interaction(self._engine, self.interaction_config)
            self._state = None
        return self

    def _signature(self, volume: Volume) -> str:
        """Names image, model, adapter, numeric type and preprocessing: what an embedding depends on."""
        config = self.model.config
        content = [volume.content_hash, self.revision, str(self.dtype), PREPROCESSING_VERSION]
        if self._adapters is not None and self._adapters.encoder_signature:
            content.append(self._adapters.encoder_signature)
        settings = json.dumps([*content, config.tile_size, asdict(config.preprocessing)], sort_keys=True)
        return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()

    def clear(self) -> None:
        """Forgets the image, the object and the embeddings in memory; entries on disk stay."""
        with self._lock:
            self._engine = self._interaction = self._state = None
            self.cache.clear()

    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        scribbles: Any = None,
        lassos: Any = None,
        mask: Any = None,
        text: Any = None,
        space: str = "voxel",
    ) -> Prediction:
        """Segments the object that the prompts point at.

        Give all prompts of the object at each call, in the order they were made: a call that repeats the last one's
        prompts and adds points or strokes goes on from its mask and costs one decoder pass for each. Any other call
        plays all of them: boxes, mask and text first, then scribbles and lassos, then points. Prompts that are made
        in that order give the same answer one by one as all at once.

        Args:
            points: (N, 3) coordinates in ``space``.
            labels: (N,) 1 to include, 0 to exclude; None for all 1.
            box: ``(low, high)`` half-open, six numbers, a Box, or several.
            scribbles: Scribble or several.
            lassos: Lasso or several.
            mask: a mask on the image's grid (binary, or ``Mask(..., is_logits=True)``), a Prediction or its
                ``logits_lowres``, to go on from; then the last point, else stroke or box, is what is new.
            text: a term; needs weights trained with text.
            space: ``voxel`` (indices of the array as given), ``ras`` or ``lps`` (millimetres).

        Returns:
            The prediction; its mask holds every included point and no excluded one.

        Raises:
            ValueError: for a prompt that does not fit the image; the message names it and the cure.
        """
        started = time.perf_counter()
        with self._lock:
            engine = self._require_engine()
            if text is not None:
                raise ValueError(
                    f"text={text!r}: weights {self.model.config.name!r} were not trained with text; "
                    "give a point, a box, a scribble, a lasso or a mask"
                )
            encoded_before = engine.num_encoded
            handed_over = mask.logits_lowres if isinstance(mask, Prediction) else mask
            if isinstance(handed_over, LowresLogits):
                _check_handed_over(handed_over, engine.signature, (points, box, scribbles, lassos))
                mask = None
            else:
                handed_over = None
            prompts = PromptSet.from_arguments(
                engine.volume,
                points=points,
                labels=labels,
                box=box,
                scribbles=scribbles,
                lassos=lassos,
                mask=mask,
                space=space,
            )
            state = self._advance(prompts, handed_over)
            return self._prediction(state, started, engine.num_encoded - encoded_before)

    def _advance(self, prompts: PromptSet, handed_over: LowresLogits | None) -> ObjectState:
        """Plays the prompts that the object has not seen yet, or all of them."""
        assert self._interaction is not None
        last = self._state
        if handed_over is not None:
            last = handed_over.state
            drawing = replace(last.drawing, is_from_prompts=is_continuation(last.prompts, prompts))
            state, rounds = replace(last, drawing=drawing), [newest_round(prompts)]
        elif last is not None and is_continuation(last.prompts, prompts):
            state, rounds = last, rounds_after(last.prompts, prompts)
        else:
            state = open_object(self._interaction, opening_prompts(prompts))
            rounds = rounds_after(state.prompts, prompts)
        goes_on = last is not None and state.mask is last.mask
        for new in rounds:
            state = correct_object(self._interaction, state, new)
        if not goes_on:
            changed = covering_box(last, state)
        elif len(rounds) == 1:
            changed = state.changed
        else:
            assert last is not None
            changed = changed_box(last, state)
        self._state = replace(state, changed=changed)
        return self._state

    def _prediction(self, state: ObjectState, started: float, encoder_calls: int) -> Prediction:
        engine = self._require_engine()
        drawing = state.drawing
        if state.mask.is_empty:
            logger.warning(
                "the mask is empty: the model found nothing at these prompts; add a point on the object or a box"
            )
        return Prediction(
            volume=engine.volume,
            score=drawing.score,
            presence=drawing.presence,
            scores=tuple(s for s, _ in drawing.candidates) or (drawing.score,),
            changed_box=native_box(engine.volume, *state.changed),
            seconds=time.perf_counter() - started,
            encoder_calls=encoder_calls,
            level_spacing_mm=engine.lattice.level_spacing_mm(drawing.canvas.level),
            logits_lowres=LowresLogits(state, engine.signature),
            _alternatives=tuple(c for _, c in drawing.candidates) or (drawing.canvas,),
        )

    def precompute(
        self,
        levels: list[int] | None = None,
        max_tiles: int | None = None,
        progress: bool = True,
        background: bool = False,
    ) -> int | Future[int]:
        """Encodes tiles before they are asked for, coarsest level first, so that each click costs only the decoder.

        Args:
            levels: which zoom levels, 0 the finest; None for all that fit the memory cache (all, with a disk cache).
            max_tiles: stop after so many.
            progress: show a bar on a terminal.
            background: return at once with a future; clicks go on meanwhile.

        Returns:
            Number of these tiles that are in the cache now, or a future of it.

        Raises:
            ValueError: for a level that the image does not have.
        """
        engine = self._require_engine()
        chosen = range(engine.lattice.num_levels) if levels is None else levels
        bad = [level for level in chosen if not 0 <= level < engine.lattice.num_levels]
        if bad:
            raise ValueError(f"levels={bad}: this image has levels 0 to {engine.lattice.num_levels - 1}")
        tiles = [tile for level in sorted(chosen, reverse=True) for tile in engine.lattice.all_tiles(level)]
        if levels is None and self.cache.disk is None:
            tiles = tiles[: max(1, self.cache.max_bytes // embedding_bytes(self.model))]
        tiles = tiles[:max_tiles]

        def work() -> int:
            from tqdm import tqdm

            shown = progress and sys.stderr.isatty()
            for tile in tqdm(tiles, desc="encoding tiles", unit="tile", disable=not shown, file=sys.stderr):
                with self._lock:
                    if self._engine is not engine:
                        break
                    engine.embed([tile])
            return sum(self.cache.has(engine.signature, tile) for tile in tiles)

        if not background:
            return work()
        executor = ThreadPoolExecutor(1, thread_name_prefix="promptseg-precompute")
        future = executor.submit(work)
        executor.shutdown(wait=False)
        return future


def _check_handed_over(logits: LowresLogits, signature: str, prompts: tuple[Any, ...]) -> None:
    """Refuses logits that do not belong to the image, or that come alone.

    Raises:
        ValueError: with the cure.
    """
    if logits.signature != signature:
        raise ValueError("mask: these logits belong to another image or model; pass a mask on this image's grid")
    if all(p is None for p in prompts):
        raise ValueError("mask: low-resolution logits alone change nothing; add a point, box, scribble or lasso")


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it fast, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def embedding_bytes(model: PromptableModel) -> int:
    """Memory of one tile's embedding, estimated from the model's sizes."""
    config = model.config
    channels = (*config.stem_channels, config.embed_dim)
    values = sum(c * (config.tile_size // s) ** 3 for c, s in zip(channels, (2, 4, 8, 16), strict=True))
    return (values + config.tile_size**3) * torch.finfo(model.dtype).bits // 8


def _digest_weights(model: PromptableModel) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
