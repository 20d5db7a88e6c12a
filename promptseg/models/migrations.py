"""What releases renamed in checkpoints: applied when an earlier release's weights are loaded."""

from __future__ import annotations

from ..safe_loading import KeyMigration

MODEL_MIGRATIONS: tuple[KeyMigration, ...] = ()
"""Oldest first. A release that renames a key of :class:`~promptseg.models.PromptableModel` adds an entry here; the
tests load a frozen checkpoint of every release."""
