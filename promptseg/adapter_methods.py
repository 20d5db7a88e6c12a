"""The methods of a predictor that are about adapters."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .drawing import InteractionConfig
from .engine import TileEngine
from .interaction import Interaction
from .models import PromptableModel
from .object_state import History, ObjectState
from .volume import Volume

if TYPE_CHECKING:
    from typing_extensions import Self

    from .adapters import AdapterStack
    from .label_prediction import LabelPrediction


class AdapterMethods(ABC):
    """Loads adapters, puts them on, and asks them for their labels; part of :class:`promptseg.Predictor`."""

    model: PromptableModel
    interaction_config: InteractionConfig
    _engine: TileEngine | None
    _interaction: Interaction | None
    _state: ObjectState | None
    _history: History
    _adapters: AdapterStack | None
    _lock: threading.RLock

    @property
    def adapters(self) -> AdapterStack:
        """Adapters that are loaded, and which of them are on."""
        if self._adapters is None:
            from .adapters import AdapterStack

            if not isinstance(self.model, PromptableModel):
                raise ValueError(f"weights {self.model.config.name!r} take no adapters; load promptseg's own")
            begin_anew = weakref.WeakMethod(self._begin_anew)  # a cycle would keep all embeddings for the collector

            def on_change() -> None:
                if (method := begin_anew()) is not None:
                    method()

            with self._lock:
                if self._adapters is None:
                    self._adapters = AdapterStack(self.model, self.model.weights_digest, self._lock, on_change)
        return self._adapters

    def _begin_anew(self) -> None:
        """Forgets the object, and what the image's engine found with other adapters; embeddings go by their names."""
        self._state = None
        self._history.clear()
        if self._engine is not None:
            weights = self.adapters.signature
            self._engine = replace(self._engine, signature=self._signature(self._engine.volume), weights=weights)
            self._interaction = Interaction(self._engine, self.interaction_config)

    def load_adapter(self, source: str | Path, name: str | None = None, **hub: Any) -> str:
        """Loads an adapter without putting it on, and returns its name; see :meth:`~.adapters.AdapterStack.load`."""
        return self.adapters.load(source, name, **hub)

    def set_adapter(self, chosen: str | Sequence[str] | Mapping[str, float] | None, merge: bool = False) -> Self:
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
        if chosen or self._adapters is not None:
            self.adapters.activate(chosen or None, merge=merge)
        return self

    def predict_labels(self, names: Sequence[str] | None = None) -> LabelPrediction:
        """Segments the structures that the adapters which are on were tuned for, without a prompt.

        Args:
            names: which of them; None for all.

        Returns:
            A label map on the image's grid, in which each label is an object that clicks can correct.

        Raises:
            ValueError: if no adapter with an automatic mode is on, or it does not know a name.
        """
        from .adapters.automatic import predict_labels

        with self._lock:
            return predict_labels(self._require_engine(), self.adapters.labels, names)

    @abstractmethod
    def _require_engine(self) -> TileEngine:
        """The image that is set."""

    @abstractmethod
    def _signature(self, volume: Volume) -> str:
        """What an embedding of a volume depends on."""
