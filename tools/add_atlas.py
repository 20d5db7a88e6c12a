"""Puts an atlas of a data set's label maps among a checkpoint's weights, which else stay as they are.

    python tools/add_atlas.py --model checkpoints/promptseg-tiny --data-root DATA --dataset synthseg_label_maps -o OUT

Label maps of the training fold only. An atlas of the same name is replaced.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from torch import nn

from promptseg.data.atlas_building import build_atlas
from promptseg.data.folder_pool import load_pool
from promptseg.models.pretrained import CHECKSUM_KEY, load_pretrained, read_settings, save_pretrained
from promptseg.models.registry import WEIGHTS_NAME
from promptseg.safe_loading import read_tensors


def main() -> None:
    """Builds the atlas, and writes the checkpoint with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--catalogs", default="configs/catalogs")
    parser.add_argument("--spacing", type=float, default=4.0, help="of the atlas, in mm")
    parser.add_argument("-o", "--out", type=Path, required=True, help="checkpoint folder to write")
    arguments = parser.parse_args()

    model, _ = load_pretrained(arguments.model)
    pool = load_pool(
        arguments.data_root, {arguments.dataset: 1.0}, model.config.preprocessing, catalogs=arguments.catalogs
    )
    atlas = build_atlas(pool.groups[arguments.dataset], arguments.dataset, arguments.spacing)
    known = zip(model.atlases, model.config.atlases, strict=True)
    others = [(other, config) for other, config in known if config.name != atlas.config.name]
    model.atlases = nn.ModuleList([*(other for other, _ in others), atlas])
    model.config = dataclasses.replace(model.config, atlases=(*(config for _, config in others), atlas.config))
    kept = {k: v for k, v in read_settings(arguments.model).items() if k not in ("model", CHECKSUM_KEY)}
    stored = read_tensors(arguments.model / WEIGHTS_NAME)
    dtype = next(tensor.dtype for tensor in stored.values() if tensor.is_floating_point())
    save_pretrained(model, arguments.out, extra=kept, dtype=dtype)
    print(json.dumps(dataclasses.asdict(atlas.config), indent=1))


if __name__ == "__main__":
    main()
