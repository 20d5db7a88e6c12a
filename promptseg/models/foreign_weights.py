"""What converted weights of other projects' architectures have in common: their configuration and their folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from ..field_values import build
from ..safe_loading import load_into, read_tensors, save_tensors

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"


class ForeignConfig:
    """Base of a frozen dataclass of sizes that is written into a converted folder."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config") -> Any:
        """Builds a configuration from plain values.

        Raises:
            ValueError: for an unknown field, a value of another type or a contradiction.
        """
        return build(cls, values, source)

    @classmethod
    def from_file(cls, path: str | Path) -> Any:
        """Reads the ``config.json`` of a converted checkpoint.

        Raises:
            ValueError: if it is not one.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not valid JSON ({error}); convert the checkpoint again") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected an object with the weights' fields; convert the checkpoint again")
        return cls.from_dict(values, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads back."""
        return json.loads(json.dumps(dataclasses.asdict(cast(Any, self))))


class ForeignModel(nn.Module):
    """Base of a model that ``promptseg convert`` makes a folder of."""

    config_class: ClassVar[Any]
    """Its :class:`ForeignConfig`."""
    conversion: ClassVar[str]
    """Arguments of ``promptseg convert`` that make such a folder, for messages."""
    config: Any

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Any:
        """Loads a folder that ``promptseg convert`` wrote, in evaluation mode.

        Raises:
            ValueError: if a file is missing, damaged, or of another architecture.
        """
        folder = Path(folder)
        if not (folder / CONFIG_NAME).is_file():
            raise ValueError(f"{folder}: no {CONFIG_NAME}; make one with `promptseg convert {cls.conversion}`")
        model = cls(cls.config_class.from_file(folder / CONFIG_NAME))
        load_into(model, read_tensors(folder / WEIGHTS_NAME), str(folder))
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes weights and ``config.json`` into a folder, which is made if need be."""
        from .pretrained import write_text

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = dict(self.state_dict())
        save_tensors(tensors, folder / WEIGHTS_NAME)
        write_text(folder / CONFIG_NAME, json.dumps(self.config.to_dict(), indent=2) + "\n")
        return folder
