"""Find structures by their names, without a click, and correct one of them.

    python examples/find_by_name.py --image ct.nii.gz --names vertebra "spinal cord"

Without an image it takes the demo volume. Weights that were trained without words find nothing by name: then it only
shows what the names mean.
"""

from __future__ import annotations

import argparse

from promptseg import Predictor, demo
from promptseg.text import encode_text

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=str(demo.IMAGE))
    parser.add_argument("--model", default="promptseg-tiny")
    parser.add_argument("--names", nargs="+", default=["vertebra", "spinal cord"])
    chosen = parser.parse_args()

    for name in chosen.names:
        query = encode_text(name)
        print(f"{name!r} is {query.name!r}, {query.match_score:.2f} alike")

    predictor = Predictor.from_pretrained(chosen.model)
    predictor.set_image(chosen.image)
    if not predictor.understands_text:
        print(f"{chosen.model} was trained without words; point at the structure instead")
    else:
        found = predictor.segment_all(chosen.names)
        for row in found.table():
            print(f"{row['value']} {row['name']}: {row['volume_ml']:.1f} ml, presence {row['presence']:.2f}")
        print("wrote", found.save("labels.nii.gz"), found.save_table("labels.json"))

        first = found.object(next(iter(found.names.values())))
        if first.mask.any():
            low, high = first.mask_box
            corner = [(low[0], low[1], low[2])]
            corrected = predictor.predict(mask=first, points=corner, labels=[0])  # this corner is not part of it
            print(f"{first.name}: {first.volume_ml:.2f} ml before, {corrected.volume_ml:.2f} ml after a click")
