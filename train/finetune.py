"""Tunes weights to two folders: ``python train/finetune.py --images DIR --labels DIR --output DIR``.

The same as ``promptseg finetune``, with its options, for clusters that start scripts;
``--config FILE`` reads a YAML file.
"""

from __future__ import annotations

import sys

from promptseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
