"""The list of subcommands."""

from __future__ import annotations

import importlib

from .command import Command

COMMANDS: dict[str, str] = {
    "segment": "segment an object of an image from clicks, boxes, scribbles, a mask or a word",
    "info": "describe an image: orientation, spacing, intensities, modality, zoom levels",
    "finetune": "tune weights to your own images and label maps, and write an adapter of a few MB",
    "convert": "turn published weights of another project into a folder that --model takes",
    "demo": "segment a few organs of the volume that ships, and draw them",
    "doctor": "check the installation: versions, device, weights, a timed self-test",
    "vocabulary": "search, list or show the structures that a word can name",
    "data": "check data sets, prepare the store that training reads, export it",
    "evaluate": "measure models and classical baselines with simulated users, and write a report",
    "compare": "compare two reports of evaluate, object by object, with confidence intervals",
    "cache": "show or clear the image embeddings kept on disk",
}
"""Name -> one line; the module of the same name in this package does the work."""


def load_command(name: str) -> Command:
    """Imports a subcommand.

    Args:
        name: a key of :data:`COMMANDS`.
    """
    return importlib.import_module(f".{name}", __package__).COMMAND
