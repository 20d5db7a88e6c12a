"""Share an adapter: as a folder, or on the Hugging Face Hub, pinned to a commit; and use two of them on one image.

    python examples/share_adapter.py --adapter my-adapter --repo owner/my-adapter

Without an adapter it makes two that were not trained, to show the steps; without a repository nothing leaves this
machine.
"""

from __future__ import annotations

import argparse

from promptseg import Predictor, demo
from promptseg.adapters import Adapter, AdapterConfig, AdapterLabel
from promptseg.adapters.trainable import TrainableAdapter
from promptseg.cards import CardFacts


def untrained(predictor: Predictor, value: int, name: str) -> Adapter:
    """An adapter that changes nothing yet."""
    model = predictor.model
    config = AdapterConfig(
        method="salt",
        base=model.config.name,
        base_digest=model.weights_digest or "",
        tile_size=model.config.tile_size,
        preprocessing=model.config.preprocessing,
        labels=(AdapterLabel(value, name, 100.0),),
    )
    trainable = TrainableAdapter(model, config)
    adapter = trainable.export(name)
    trainable.remove()
    return adapter


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter")
    parser.add_argument("--repo", help="owner/name on the Hub; needs `hf auth login`")
    parser.add_argument("--model", default="promptseg-tiny")
    chosen = parser.parse_args()
    predictor = Predictor.from_pretrained(chosen.model)
    mine = Adapter.from_pretrained(chosen.adapter) if chosen.adapter else untrained(predictor, 1, "liver")
    folder = mine.save_pretrained("shared-adapter", CardFacts("What it is for.", "CC-BY-4.0"))
    print(f"{folder}: {mine.num_bytes / 1e6:.1f} MB, for {mine.config.base}")
    if chosen.repo:
        commit = mine.push_to_hub(chosen.repo)
        print(f'predictor.load_adapter("{chosen.repo}", revision="{commit}")')

    first, second = predictor.load_adapter(folder), predictor.adapters.add(untrained(predictor, 2, "spleen"))
    predictor.set_image(demo.IMAGE)
    for strengths in ({}, {first: 1.0}, {first: 1.0, second: 0.5}):
        result = predictor.set_adapter(strengths).predict(points=demo.OBJECTS[0].points[:1])
        print(f"{strengths or 'base'}: {result.volume_ml:.0f} ml, {result.encoder_calls} tiles encoded")
