"""The command line ``promptseg``: one module for each subcommand, listed in :mod:`promptseg.cli.commands`.

A subcommand's module holds a frozen dataclass of its options and ``COMMAND``, a :class:`~promptseg.cli.command.Command`
made of that dataclass, a function ``run(config) -> int`` and an example. It imports torch and all that does only inside
``run``, so that every ``--help`` answers at once.
"""

from .main import main

__all__ = ["main"]
