"""An adapter as data: a folder of a configuration, a small safetensors file and a card."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cards import CARD_NAME, CardFacts, render_card
from ..models import PromptableModel
from ..models.pretrained import CHECKSUM_KEY, check_weights, read_settings, write_folder
from ..safe_loading import KeyMigration, list_differences, migrate_keys, read_tensors
from .config import AdapterConfig
from .targets import ENCODER, expected_tensors

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter.safetensors"
ADAPTER_MIGRATIONS: tuple[KeyMigration, ...] = ()
"""Keys that releases renamed, oldest first."""


@dataclass(frozen=True)
class Adapter:
    """A set of changes to a model's weights, tuned for some labels.

    Attributes:
        config: what it is and which weights it belongs to.
        tensors: ``delta.LAYER.PART``, ``change.PARAMETER`` (of earlier adapters ``value.PARAMETER``) and
            ``label_tokens``, floating point on the CPU.
        name: what it is called.

    Example:
        >>> adapter = Adapter.from_pretrained("hippocampus-adapter")  # doctest: +SKIP
        >>> adapter.config.names  # doctest: +SKIP
        {1: 'Anterior', 2: 'Posterior'}
    """

    config: AdapterConfig
    tensors: dict[str, Tensor]
    name: str = "adapter"

    @classmethod
    def from_pretrained(cls, name: str | Path, **hub: Any) -> Adapter:
        """Loads an adapter.

        Args:
            name: a folder that ``promptseg finetune`` wrote, or a Hub id.
            hub: ``revision``, ``cache_dir``, ``token`` and ``local_files_only``, for Hub ids.

        Raises:
            ValueError: if it cannot be had, is incomplete or damaged.
        """
        folder = find_adapter(name, **hub)
        check_weights(folder, CONFIG_NAME, TENSORS_NAME)
        values = {k: v for k, v in read_settings(folder, CONFIG_NAME).items() if k != CHECKSUM_KEY}
        config = AdapterConfig.from_dict(values, str(folder / CONFIG_NAME))
        label = Path(name).name or folder.resolve().name  # of "." there is no last part
        return cls(config, read_tensors(folder / TENSORS_NAME), label)

    def save_pretrained(self, folder: str | Path, card: CardFacts | None = None) -> Path:
        """Writes ``adapter_config.json``, ``adapter.safetensors`` and a card.

        Args:
            folder: made if missing.
            card: facts for the card; None keeps a card that is there, or says that nothing was stated.

        Returns:
            The folder.

        Raises:
            OSError: if it cannot be written; nothing half-written is left behind.
        """
        folder = Path(folder)

        def render(facts: CardFacts) -> str:
            return self._card(facts, folder.resolve().name)

        return write_folder(folder, self.tensors, self.config.to_dict(), card, render, CONFIG_NAME, TENSORS_NAME)

    def _card(self, facts: CardFacts, name: str) -> str:
        config = self.config
        return render_card(
            "adapter",
            facts,
            name=name,
            base=config.base,
            base_revision=config.base_revision or f"sha256 {config.base_digest[:12]}",
            method=config.method,
            megabytes=self.num_bytes / 1e6,
            labels=", ".join(f"{label.value} {label.name}" for label in config.labels) or "none",
        )

    def push_to_hub(self, repo_id: str, *, card: CardFacts | None = None, **options: Any) -> str:
        """Uploads the adapter as one commit, and returns it.

        Args:
            repo_id: ``owner/name``; made if it is not there.
            card: facts for the card.
            options: of :func:`promptseg.hub.push`.

        Raises:
            ValueError: if the upload is refused.
        """
        from ..hub import push

        with tempfile.TemporaryDirectory(prefix="promptseg-") as parent:
            folder = self.save_pretrained(Path(parent) / repo_id.split("/")[-1], card)
            return push(folder, repo_id, (CONFIG_NAME, TENSORS_NAME, CARD_NAME), **options)

    @property
    def num_bytes(self) -> int:
        """Size of its tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @cached_property
    def digest(self) -> str:
        """Of all of its tensors."""
        return self._digest("")

    @cached_property
    def encoder_digest(self) -> str:
        """Of what changes image embeddings; empty where it changes none of them, so that the base's can be used."""
        inside = tuple(f"{kind}.{ENCODER}." for kind in ("delta", "change", "value"))
        return self._digest(inside) if any(key.startswith(inside) for key in self.tensors) else ""

    def _digest(self, prefixes: str | tuple[str, ...]) -> str:
        digest = hashlib.blake2b(
            f"{self.config.method} {self.config.alpha / self.config.rank}".encode(), digest_size=12
        )
        for key in sorted(self.tensors):
            if key.startswith(prefixes):
                digest.update(key.encode())
                digest.update(self.tensors[key].float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check_fits(self, model: PromptableModel, weights_digest: str | None = None) -> dict[str, Tensor]:
        """Compares the adapter with the model it is to change.

        Args:
            model: without any adapter in it.
            weights_digest: sha256 of the model's weights; None where it is not known, and then not compared.

        Returns:
            The tensors under today's keys, float32.

        Raises:
            ValueError: if it was made for other weights, sizes or preprocessing; differences are listed by key.
        """
        config = self.config
        tensors = self.tensors
        expected = expected_tensors(model, config)
        if ADAPTER_MIGRATIONS and set(tensors) != set(expected):
            tensors = migrate_keys(tensors, ADAPTER_MIGRATIONS)
        differences = list_differences(expected, tensors)
        if differences:
            raise ValueError(
                f"adapter {self.name!r} does not fit weights {model.config.name!r}:\n  "
                + "\n  ".join(differences)
                + f"\nIt was made for {config.base!r}; load those."
            )
        if config.preprocessing != model.config.preprocessing or config.tile_size != model.config.tile_size:
            raise ValueError(
                f"adapter {self.name!r} was tuned with {config.preprocessing} and tiles of {config.tile_size}; weights "
                f"{model.config.name!r} have {model.config.preprocessing} and {model.config.tile_size}; "
                f"load {config.base!r}, which it was made for"
            )
        if weights_digest and config.base_digest and weights_digest != config.base_digest:
            raise ValueError(
                f"adapter {self.name!r} was made for weights {config.base!r} with sha256 {config.base_digest[:12]}...; "
                f"these ({model.config.name!r}) have {weights_digest[:12]}...; load those, or tune an adapter for these"
            )
        return {key: tensor.float() for key, tensor in tensors.items()}


def find_adapter(name: str | Path, **hub: Any) -> Path:
    """Folder of an adapter: a folder, or a Hub id, which is fetched.

    Raises:
        ValueError: if there is none, or it is incomplete.
    """
    from ..hub import locate

    found = locate(name, Path(name), (CONFIG_NAME, TENSORS_NAME), "adapter", "`promptseg finetune` writes", **hub)
    if found is not None:
        return found
    raise ValueError(f"no adapter {str(name)!r}: not a folder, and no Hub id (owner/name)")
