"""Adapters: small sets of changes that tune a model to named structures, to be loaded, switched and stacked."""

from .adapter import Adapter
from .config import AdapterConfig, AdapterLabel
from .stack import AdapterStack

__all__ = ["Adapter", "AdapterConfig", "AdapterLabel", "AdapterStack"]
