"""Prepares the store that training reads: ``python train/prepare_data.py CATALOG... -o STORE --workers N``.

The same as ``promptseg data prepare``, for a batch job that starts scripts: a run that is killed at its time limit goes
on where it ended, see ``promptseg data --help``.
"""

from __future__ import annotations

import sys

from promptseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "prepare", *sys.argv[1:]]))
