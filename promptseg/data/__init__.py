"""Training data: catalogs of data sets, their check, and the store that crops are read from."""

from .catalog import Case, Catalog, Term
from .catalog_check import check_catalogs
from .catalog_loader import load_catalog
from .check_report import CheckReport, Finding
from .store import PrepareReport, prepare
from .store_case import StoreConfig
from .store_reader import Store, StoreCase

__all__ = [
    "Case",
    "Catalog",
    "CheckReport",
    "Finding",
    "PrepareReport",
    "Store",
    "StoreCase",
    "StoreConfig",
    "Term",
    "check_catalogs",
    "load_catalog",
    "prepare",
]
