"""The predictor: set an image once, then ask with prompts as often as you like."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .adapter_methods import AdapterMethods
from .cache import DEFAULT_DISK_BYTES, DEFAULT_MEMORY_BYTES, DiskCache, EmbeddingCache
from .drawing import InteractionConfig
from .engine import TileEngine
from .interaction import Interaction
from .models import PromptableModel
from .models.numerics import digest_weights, preferred_dtype
from .models.pretrained import foreign_predictor, load_pretrained
from .models.registry import resolve
from .object_state import History, ObjectState, advance
from .precompute import choose_tiles, encode_ahead, in_background
from .prediction import LowresLogits, Prediction, check_handed_over, explain_empty, prediction_of
from .preprocessing import IntensityMapping
from .prompts import PromptSet
from .quality import calibration_for
from .structures import understand_all, understand_one, understands_text
from .text_search import named, segment_structures
from .tiles import TileLattice
from .volume import Volume

if TYPE_CHECKING:
    from .adapters import AdapterStack
    from .label_prediction import LabelPrediction

logger = logging.getLogger(__name__)

PREPROCESSING_VERSION = 1
"""Raised when preprocessing or tiling changes in code, so that cached embeddings of earlier releases are not used."""


class Predictor(AdapterMethods):
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
        disk = DiskCache(cache_dir, cache_dir_bytes) if cache_dir else None
        self.cache = EmbeddingCache(cache_bytes, disk, self.device)
        self.revision = revision or digest_weights(model)
        self.interaction_config = interaction or InteractionConfig()
        self._engine: TileEngine | None = None
        self._interaction: Interaction | None = None
        self._state: ObjectState | None = None
        self._history = History()
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
            adapter: folder or Hub id of an adapter to put on, or several, called by all of their paths where the last
                parts are the same; see :meth:`load_adapter`.
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
        last_parts = [Path(source).name for source in sources]
        names = [None if last_parts.count(last) == 1 else str(s) for s, last in zip(sources, last_parts, strict=True)]
        predictor.set_adapter(
            [predictor.load_adapter(source, name, **hub) for source, name in zip(sources, names, strict=True)]
        )
        return predictor

    @property
    def understands_text(self) -> bool:
        """Whether the weights were trained to find structures by their names."""
        return understands_text(self.model.config)

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
            image: path of a file or of a DICOM series' folder, (I, J, K) numpy array or torch tensor, nibabel image,
                SimpleITK image, or Volume.
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
            weights = "" if self._adapters is None else self._adapters.signature
            self._engine = TileEngine(self.model, volume, lattice, mapping, self.cache, signature, weights=weights)
            self._interaction = Interaction(self._engine, self.interaction_config)
            self._state = None
            self._history.clear()
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
            self._history.clear()
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
        plays all of them: boxes and mask first, then scribbles and lassos, then points. Prompts that are made in that
        order give the same answer one by one as all at once. Only a name differs: given alone it is looked for in the
        whole image, and clicks then correct what was found; given with the first click it says what to segment there.

        Args:
            points: (N, 3) coordinates in ``space``.
            labels: (N,) 1 to include, 0 to exclude; None for all 1.
            box: ``(low, high)`` half-open, six numbers, a Box, or several.
            scribbles: Scribble or several.
            lassos: Lasso or several.
            mask: a mask on the image's grid (binary, or ``Mask(..., is_logits=True)``) to correct: it stays as it is,
                but for what points and strokes change near them. Or a Prediction or its ``logits_lowres``, to go on
                from with the prompts that made it and those given here.
            text: what the object is called, such as ``left kidney``; needs weights trained with text (see
                :attr:`understands_text`). Alone it is looked for in the whole image; with a click, a box or another
                prompt on the object only where that is. It stays with the object while it is corrected.
            space: ``voxel`` (indices of the array as given), ``ras`` or ``lps`` (millimetres).

        Returns:
            The prediction; its mask holds every included point and no excluded one. The mask of a structure that was
            named and is estimated to be absent is empty, with a warning; ``presence`` says how likely it is there.

        Raises:
            ValueError: for a prompt that does not fit the image, or text that the weights do not understand; the
                message names it and the cure.
        """
        started = time.perf_counter()
        with self._lock:
            engine = self._require_engine()
            before = None if self._state is None else self._state.prompts.structure
            structure = understand_one(self.model.config, text, before, engine.volume)
            encoded_before = engine.num_encoded
            handed_over = mask.logits_lowres if isinstance(mask, Prediction) else mask
            if isinstance(handed_over, LowresLogits):
                check_handed_over(handed_over, engine.signature, (points, box, scribbles, lassos))
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
                text=text,
                space=space,
            )
            if structure is None and handed_over is not None:
                structure = handed_over.state.prompts.structure
            prompts = prompts if structure is None else named(prompts, structure)
            assert self._interaction is not None
            handed = handed_over and handed_over.state
            self._state = advance(self._interaction, self._state, prompts, handed, self._history)
            if self._state.mask.is_empty:
                logger.warning("%s", explain_empty(self._state))
            calls = engine.num_encoded - encoded_before
            seconds = time.perf_counter() - started
            calibration = calibration_for(self.model.config, prompts.structure is not None)
            return prediction_of(engine.volume, engine.signature, self._state, seconds, calls, calibration)

    def segment_all(self, terms: Sequence[str] | str | None = None) -> LabelPrediction:
        """Looks for structures by their names in the whole image, without a click, and draws those that are there.

        They share the image's embeddings and the decoder's passes. Where they overlap, a part has the voxel before its
        whole, and of others the surest one; ``result.object(name)`` is each of them whole, to be corrected:
        ``predict(mask=result.object("liver"), points=[...], labels=[...])``.

        Args:
            terms: names, which are drawn with more care; None for all that the weights were trained on
                (``model.config.text_terms``).

        Returns:
            A label map on the image's grid with names, presence, scores and volumes; label values count from 1.

        Raises:
            ValueError: for weights that do not understand text, and for text that names nothing known.
        """
        with self._lock:
            engine = self._require_engine()
            structures = understand_all(self.model.config, terms, engine.volume)
            return segment_structures(engine, structures, terms is not None, self.interaction_config)

    def precompute(
        self,
        levels: list[int] | None = None,
        max_tiles: int | None = None,
        progress: bool = True,
        background: bool = False,
    ) -> int | Future[int]:
        """Encodes tiles before they are asked for, coarsest level first, so that each click costs only the decoder.

        Args:
            levels: which zoom levels, 0 the finest; None for as many tiles as the cache keeps, in memory or on disk.
            max_tiles: stop after so many.
            progress: show a bar on a terminal.
            background: return at once with a future; clicks go on meanwhile.

        Returns:
            Number of these tiles that are in the cache now, or a future of it.

        Raises:
            ValueError: for a level that the image does not have.
        """
        engine = self._require_engine()
        tiles = choose_tiles(engine, levels, max_tiles)

        def work() -> int:
            return encode_ahead(engine, tiles, self._lock, lambda: self._engine is engine, progress)

        return in_background(work) if background else work()
