"""Pretrains a promptable model: ``python train/pretrain.py --config configs/pretrain_tiny.yaml --data-root DATA``."""

from __future__ import annotations

import argparse
import logging

from promptseg.training.config import PretrainConfig
from promptseg.training.loop import pretrain


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file of PretrainConfig fields")
    parser.add_argument("--data-root", help="folder of data sets; overrides the file")
    parser.add_argument("--out-dir", help="folder of the run; overrides the file")
    parser.add_argument("--max-steps", type=int, help="overrides the file")
    parser.add_argument("--decay-start", type=int, help="overrides the file")
    parser.add_argument("--resume", choices=("auto", "never"), default="auto")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = PretrainConfig.from_file(
        arguments.config,
        data_root=arguments.data_root,
        out_dir=arguments.out_dir,
        max_steps=arguments.max_steps,
        decay_start=arguments.decay_start,
    )
    pretrain(config, arguments.resume)


if __name__ == "__main__":
    main()
