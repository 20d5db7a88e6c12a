"""Pretrains a promptable model.

One process:       python train/pretrain.py --config configs/pretrain_tiny.yaml --data-root DATA
Eight GPUs:        torchrun --nproc-per-node 8 train/pretrain.py --config configs/pretrain_small.yaml --data-root DATA
Several machines:  see train/README.md and train/pretrain.slurm
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

import yaml

from promptseg.training.config import PretrainConfig
from promptseg.training.distributed import stop
from promptseg.training.loop import pretrain
from promptseg.training.run_folder import RunError


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file of PretrainConfig fields")
    parser.add_argument("--data-root", help="folder of data sets; overrides the file")
    parser.add_argument("--out-dir", help="folder of the run; overrides the file")
    parser.add_argument("--stage", choices=("prompted", "mae", "words"), help="overrides the file")
    parser.add_argument("--init-from", help="weights to start from; overrides the file")
    parser.add_argument("--max-steps", type=int, help="overrides the file")
    parser.add_argument("--decay-start", type=int, help="overrides the file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field, as YAML, such as num_workers=8 or sampler.text_share=0",
    )
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help="auto goes on where a run stopped")
    arguments = parser.parse_args()
    is_main = os.environ.get("RANK", "0") == "0"  # the other processes know nothing more but what goes wrong on them
    logging.basicConfig(level=logging.INFO if is_main else logging.WARNING, format="%(asctime)s %(message)s")
    names = ("data_root", "out_dir", "stage", "init_from", "max_steps", "decay_start")
    overrides: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    for entry in arguments.set:
        field, separator, value = entry.partition("=")
        if not separator:
            parser.error(f"--set {entry}: expected FIELD=VALUE, such as --set num_workers=8")
        try:
            overrides[field] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            parser.error(f"--set {entry}: not YAML ({' '.join(str(error).split())}); quote it for the shell")
    try:
        config = PretrainConfig.from_file(arguments.config, **overrides)
        pretrain(config, arguments.resume)
    except (ValueError, RunError) as error:
        is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # else of the same, or it is logged
        parser.exit(2, f"{error}\n" if is_first else None)
    finally:
        stop()


if __name__ == "__main__":
    main()
