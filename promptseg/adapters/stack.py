"""Adapters in use: several loaded, switched, stacked with weights, merged and taken off again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models import PromptableModel
from .adapter import Adapter
from .config import AdapterLabel
from .deltas import DELTAS, AdaptedLinear, LoraDelta
from .targets import linear_targets

Strengths = str | Sequence[str] | Mapping[str, float] | None
"""Which adapters are on: one, several at full strength, or several with a strength each; None for none."""


class AdapterStack:
    """The adapters of one model.

    With all of them off, the model is the base, bit by bit. Changes add up: a stack is the base plus the sum of
    strength times each adapter's change. Unmerged, changes are computed beside their layers, and switching moves no
    large weights; merged, they are written into the weights, and the model is as fast as the base. Both give the same
    result up to rounding.

    Args:
        model: in whose layers the changes are put.
        weights_digest: sha256 of its weights, compared with what an adapter was made for; None to compare shapes only.
        lock: held while the model changes, so that nothing is computed with half of an adapter; None for an own one.
        on_change: called under the lock after each :meth:`activate`, also one that failed and left the base.

    Example:
        >>> stack = AdapterStack(model)  # doctest: +SKIP
        >>> stack.load("liver-adapter", "liver"), stack.load("tumour-adapter", "tumour")  # doctest: +SKIP
        >>> stack.activate({"liver": 1.0, "tumour": 0.5})  # doctest: +SKIP
        >>> stack.activate(None)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: PromptableModel,
        weights_digest: str | None = None,
        lock: AbstractContextManager[Any] | None = None,
        on_change: Callable[[], object] | None = None,
    ) -> None:
        self.model = model
        self.weights_digest = weights_digest
        self._lock = lock or threading.RLock()
        self._on_change = on_change
        self.adapters: dict[str, Adapter] = {}
        self.strengths: dict[str, float] = {}
        self.is_merged = False
        self._kept: dict[str, Tensor] = {}
        """Base values of the parameters that are changed now."""
        self._wrapped: dict[str, nn.Linear] = {}
        """Layers that have changes beside them now."""

    def load(self, source: str | Path, name: str | None = None, **hub: Any) -> str:
        """Loads an adapter, without putting it on.

        Args:
            source: folder or Hub id.
            name: to call it by; None for the last part of the source.
            hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``, for Hub ids.

        Returns:
            Its name.

        Raises:
            ValueError: if it cannot be had, was made for other weights, or the name is taken by another adapter.
        """
        return self.add(Adapter.from_pretrained(source, **hub), name)

    def add(self, adapter: Adapter, name: str | None = None) -> str:
        """Adds an adapter that is in memory; see :meth:`load`."""
        name = name or adapter.name
        with self._lock:
            if name in self.adapters and self.adapters[name].digest != adapter.digest:
                raise ValueError(
                    f"name={name!r} is taken by another adapter; give another name, or remove({name!r}) first"
                )
            self._restore()  # so that names and shapes are the base's
            try:
                tensors = adapter.check_fits(self.model, self.weights_digest)
            finally:
                self._apply()
            self.adapters[name] = Adapter(adapter.config, tensors, name)
        return name

    def remove(self, name: str) -> None:
        """Forgets an adapter, and takes it off if it is on."""
        with self._lock:
            self._known(name)
            if name in self.strengths:
                self.activate({n: s for n, s in self.strengths.items() if n != name}, merge=self.is_merged)
            del self.adapters[name]

    def _known(self, name: str) -> Adapter:
        if name not in self.adapters:
            raise ValueError(f"no adapter {name!r}; loaded are {', '.join(self.adapters) or 'none'}")
        return self.adapters[name]

    def activate(self, chosen: Strengths, merge: bool = False) -> None:
        """Puts adapters on, and takes all others off.

        Args:
            chosen: name, names, or name -> strength; None for the base alone.
            merge: write the changes into the weights.

        Raises:
            ValueError: for a name that is not loaded, or two adapters that give one label value two names.
        """
        strengths = _as_strengths(chosen)
        with self._lock:
            collect_labels([self._known(name) for name in strengths])
            self._restore()
            self.strengths, self.is_merged = strengths, merge
            try:
                self._apply()
            except BaseException:  # out of memory, or interrupted: the base, and not a part of them
                self._restore()
                self.strengths, self.is_merged = {}, False
                raise
            finally:
                if self._on_change is not None:
                    self._on_change()

    def _apply(self) -> None:
        self._apply_values()
        self._apply_changes()

    @torch.no_grad()
    def _restore(self) -> None:
        for name, linear in self._wrapped.items():
            replace_module(self.model, name, linear)
        self._wrapped.clear()
        parameters = dict(self.model.named_parameters())
        for name, value in self._kept.items():
            parameters[name].copy_(value)
        self._kept.clear()

    @torch.no_grad()
    def _apply_values(self) -> None:
        """Adds the weighted differences of the parameters that are changed as a whole."""
        parameters = dict(self.model.named_parameters())
        sums: dict[str, Tensor] = {}
        for adapter, strength in self._active():
            for key, value in adapter.tensors.items():
                kind, _, name = key.partition(".")
                if kind not in ("change", "value") or strength == 0:
                    continue
                base = parameters[name].detach().float()
                given = value.to(base.device).float()
                change = strength * (given if kind == "change" else given - base)
                sums[name] = sums[name] + change if name in sums else change
        for name, change in sums.items():
            parameter = parameters[name]
            self._keep(name, parameter)
            parameter.copy_(parameter.float() + change)

    @torch.no_grad()
    def _apply_changes(self) -> None:
        """Adds low-rank changes: into the weights, or beside the layers."""
        layers: dict[str, nn.Linear] = {}
        changes: dict[str, list[tuple[float, LoraDelta]]] = {}
        for adapter, strength in self._active():
            if strength == 0:
                continue
            for name, linear in linear_targets(self.model, adapter.config).items():
                layers[name] = linear
                changes.setdefault(name, []).append((strength, make_delta(adapter, name)))
        for name, linear in layers.items():
            weight = linear.weight
            reference = self._kept.get(f"{name}.weight")  # what the changes were made for, where "full" changed it
            if self.is_merged:
                base = (weight if reference is None else reference).detach().float()
                total = sum(s * delta.to(base.device).change(base) for s, delta in changes[name])
                self._keep(f"{name}.weight", weight)
                weight.copy_(weight.float() + total)
            else:
                for _, delta in changes[name]:
                    delta.to(device=weight.device, dtype=weight.dtype).requires_grad_(False)
                replace_module(self.model, name, AdaptedLinear(linear, changes[name], reference))
                self._wrapped[name] = linear

    def _keep(self, name: str, parameter: Tensor) -> None:
        self._kept.setdefault(name, parameter.detach().clone())

    def _active(self) -> list[tuple[Adapter, float]]:
        return [(self.adapters[n], s) for n, s in self.strengths.items()]

    @property
    def labels(self) -> dict[AdapterLabel, Tensor]:
        """Labels of the adapters that are on, each with its learned tokens (T, C), empty where there are none."""
        return collect_labels([adapter for adapter, strength in self._active() if strength])

    @property
    def signature(self) -> str:
        """Names what is on; empty for the base."""
        return self._signature("digest")

    @property
    def encoder_signature(self) -> str:
        """Names what changes image embeddings; empty where they are the base's."""
        return self._signature("encoder_digest")

    def _signature(self, kind: str) -> str:
        parts = [(getattr(a, kind), s) for a, s in self._active() if s and getattr(a, kind)]
        if not parts:
            return ""
        text = json.dumps([sorted(parts), self.is_merged])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def make_delta(adapter: Adapter, layer: str) -> LoraDelta:
    """An adapter's change of one layer, with tensors of its own."""
    prefix = f"delta.{layer}."
    tensors = {k.removeprefix(prefix): v.clone() for k, v in adapter.tensors.items() if k.startswith(prefix)}
    return DELTAS[adapter.config.method](tensors, adapter.config.alpha / adapter.config.rank)


def collect_labels(adapters: Sequence[Adapter]) -> dict[AdapterLabel, Tensor]:
    """Labels of adapters with their tokens; the first adapter that has a label gives it.

    Raises:
        ValueError: if two adapters give one value to structures of different names.
    """
    found: dict[AdapterLabel, Tensor] = {}
    names: dict[int, str] = {}
    for adapter in adapters:
        tokens = adapter.tensors.get("label_tokens")
        for number, label in enumerate(adapter.config.labels):
            if names.setdefault(label.value, label.name) != label.name:
                raise ValueError(
                    f"label value {label.value} is {names[label.value]!r} in one adapter and {label.name!r} in "
                    "another; use them one after the other"
                )
            if not any(known.value == label.value for known in found):
                found[label] = torch.empty(0, 0) if tokens is None else tokens[number]
    return found


def _as_strengths(chosen: Strengths) -> dict[str, float]:
    if chosen is None:
        return {}
    if isinstance(chosen, str):
        return {chosen: 1.0}
    if isinstance(chosen, Mapping):
        return {str(n): float(s) for n, s in chosen.items()}
    return {str(n): 1.0 for n in chosen}


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts a module in the place of the one that has a name in a model."""
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    if child.isdigit():
        owner[int(child)] = module  # type: ignore[index]
    else:
        setattr(owner, child, module)
