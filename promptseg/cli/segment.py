"""``promptseg segment``: an image and prompts in, a mask on the image's own grid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .command import Command, as_repeated, option
from .coordinates import Coordinates, parse_coordinates, parse_strokes
from .loading import DEFAULT_MODEL, load_predictor, progress_bar
from .mask_file import read_mask
from .paths import check_image_output, check_table, table_path

if TYPE_CHECKING:
    from ..label_prediction import LabelPrediction
    from ..prediction import Prediction
    from ..predictor import Predictor
    from ..volume import Volume

MIN_SHOWN = 0.05
"""Share of a structure that a label map has to show for the structure to be listed as one that it holds."""
MAX_LISTED = 12
"""Names that are listed in a line; of more the number is told."""


@dataclass(frozen=True)
class SegmentConfig:
    """Segments one object of a 3D image from prompts, and writes the mask on the image's own grid.

    All prompts speak of one object and may be mixed. Points are voxel indices i,j,k of the image as nibabel reads it;
    with --space ras or lps they are millimetres. A negative number needs no quoting: --point -12.5,3,4. Several --text,
    or --all, give a label map of several objects, with a table on the terminal and as JSON beside the map.
    """

    image: str = option(metavar="IMAGE", is_positional=True)
    """image to segment: .nii, .nii.gz, or (with the extra promptseg[itk]) .nrrd, .mha, .mhd, a DICOM folder"""
    output: str = option(short="-o", metavar="OUT")
    """where to write the mask: uint8, 1 in the object (of several: label values); the suffix chooses the format, .dcm a
    segmentation that refers to the DICOM series (with the extra promptseg[dicom])"""
    point: tuple[Coordinates, ...] = option((), metavar="I,J,K", is_repeatable=True)
    """a click on the object; may be repeated"""
    negative: tuple[Coordinates, ...] = option((), metavar="I,J,K", is_repeatable=True)
    """a click on what does not belong to the object; may be repeated; these count as made after the --point ones"""
    box: tuple[Coordinates, ...] = option((), metavar="I0,J0,K0,I1,J1,K1", is_repeatable=True)
    """a box around the object: its first voxel and the one after its last; one voxel thick for a box on a slice"""
    scribble: tuple[tuple[Coordinates, ...], ...] = option((), metavar='"I,J,K;..."', is_repeatable=True)
    """a line drawn on the object, point by point; may be repeated"""
    negative_scribble: tuple[tuple[Coordinates, ...], ...] = option((), metavar='"I,J,K;..."', is_repeatable=True)
    """a line drawn beside the object; may be repeated"""
    lasso: tuple[tuple[Coordinates, ...], ...] = option((), metavar='"I,J,K;..."', is_repeatable=True)
    """a closed contour around the object on one slice, point by point; may be repeated"""
    mask: str | None = option(None, metavar="FILE")
    """a mask to start from, on the image's grid, such as an earlier result; all but 0 belongs to the object"""
    mask_value: int | None = option(None, metavar="N")
    """which value of the --mask is the object, where it is a label map or a DICOM segmentation of several"""
    text: tuple[str, ...] = option((), metavar="WORDS", is_repeatable=True)
    """what to segment, in words, such as "left kidney"; repeated, it makes a label map; needs weights that were trained
    with text"""
    space: Literal["voxel", "ras", "lps"] = "voxel"
    """what coordinates mean: voxel indices, or millimetres right-anterior-superior or left-posterior-superior"""
    overlay: str | None = option(None, metavar="FILE.png")
    """draw the result on three slices through the first click"""
    model: str = option(DEFAULT_MODEL, metavar="NAME")
    """weights: a name that promptseg doctor lists, a folder, or a Hub id owner/name"""
    adapter: tuple[str, ...] = option((), metavar="NAME", is_repeatable=True)
    """put an adapter on the weights: a folder that promptseg finetune wrote, or a Hub id; may be repeated"""
    all: bool = False
    """without a prompt: find every structure that the weights know by name, or that the adapter was tuned for"""
    device: str | None = option(None, metavar="DEVICE")
    """cpu, cuda, cuda:N or mps; a GPU is used if there is one"""
    cache: bool = False
    """keep what is computed of the image on disk, so that the next command on the same image is faster"""

    def __post_init__(self) -> None:
        for name in ("point", "negative"):
            parsed = tuple(parse_coordinates(v, 3, f"--{name}", "I,J,K") for v in getattr(self, name))
            object.__setattr__(self, name, parsed)
        boxes = tuple(parse_coordinates(v, 6, "--box", "I0,J0,K0,I1,J1,K1") for v in self.box)
        object.__setattr__(self, "box", boxes)
        for name in ("scribble", "negative_scribble", "lasso"):
            strokes = parse_strokes(getattr(self, name), f"--{name.replace('_', '-')}")
            object.__setattr__(self, name, strokes)
        object.__setattr__(self, "text", as_repeated(self.text, is_text=True))
        given = (self.point, self.negative, self.box, self.scribble, self.negative_scribble, self.lasso)
        is_pointed = any(given) or self.mask is not None
        is_prompted = is_pointed or bool(self.text)
        if self.mask_value is not None and self.mask is None:
            raise ValueError(f"--mask-value {self.mask_value} without --mask: give the label map that it is a value of")
        if self.all and is_prompted:
            raise ValueError("--all takes no prompts; leave the prompts out, or --all")
        if len(self.text) > 1 and is_pointed:
            raise ValueError(
                f"{len(self.text)} times --text with other prompts, which speak of one object: name that one alone, or "
                "leave the other prompts out"
            )
        if not is_prompted and not self.all:
            raise ValueError("no prompt: give at least one --point, --box, --scribble, --lasso, --mask or --text")


def run(config: SegmentConfig) -> int:
    """Segments, writes the mask and the picture, and prints one line about each."""
    check_image_output(config.output, (config.image, config.mask))
    if config.all or len(config.text) > 1:
        check_table(config.output)
    if config.overlay:
        from ..render import check_picture_path

        check_picture_path(config.overlay)

    from ..io import read_volume

    with progress_bar("reading", total=3, unit="step") as bar:
        volume = read_volume(config.image)
        prompts = prompt_arguments(config, volume)
        bar.update()
        bar.set_description("loading")
        predictor = load_predictor(config.model, config.device, config.cache, config.adapter)
        bar.update()
        bar.set_description("segmenting")
        predictor.set_image(volume)
        if config.all or len(config.text) > 1:
            labels = find_labels(config, predictor)
            bar.update()
            bar.close()
            return write_labels(config, labels)
        prediction = predictor.predict(**prompts)
        bar.update()
    prediction.save(config.output)
    print(describe(prediction, config.output))
    if config.overlay:
        draw(config, prediction)
        print(f"{config.overlay}: slices through {'the first click' if config.point else 'the mask'}")
    return 0


def find_labels(config: SegmentConfig, predictor: Predictor) -> LabelPrediction:
    """The structures that are named; with --all those of the adapters that are on, else all that the weights know."""
    if config.all and config.adapter:
        return predictor.predict_labels()
    return predictor.segment_all(config.text or None)


def write_labels(config: SegmentConfig, prediction: LabelPrediction) -> int:
    """Writes a label map, its table as JSON and its picture, and prints the table."""
    prediction.save(config.output)
    path = prediction.save_table(table_path(config.output))
    rows = prediction.table()
    found = sum(row["found"] for row in rows)
    print(f"{config.output}: {found} of {len(rows)} labels found, {prediction.seconds:.2f} s; table in {path}")
    print_table(rows)
    if config.overlay:
        from ..render import render_overlay, save_picture

        save_picture(render_overlay(prediction.volume, prediction.labels), config.overlay)
        print(f"{config.overlay}: slices through the labels")
    return 0


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Prints what a label map holds as a table, and in a line each what others cover and what was not found."""
    found = [row for row in rows if row["found"]]
    shown = [row for row in found if row["shown"] >= MIN_SHOWN]
    if shown:
        width = max(len(row["name"]) for row in shown)
        print(f"  {'value':>5}  {'name':<{width}}  {'ml':>9}  {'est. IoU':>8}  {'presence':>8}")
    for row in shown:
        numbers = f"{row['volume_ml']:>9.4g}  {row['score']:>8.2f}  {row['presence']:>8.2f}"
        print(f"  {row['value']:>5}  {row['name']:<{width}}  {numbers}")
    covered = [row["name"] for row in found if row["shown"] < MIN_SHOWN]
    missing = [f"{row['name']} (presence {row['presence']:.2f})" for row in rows if not row["found"]]
    for what, names in (("covered by others", covered), ("not found", missing)):
        if len(names) > MAX_LISTED:
            print(f"  {what}: {len(names)} names; the JSON table has them")
        elif names:
            print(f"  {what}: {', '.join(names)}")


def prompt_arguments(config: SegmentConfig, volume: Volume) -> dict[str, Any]:
    """Arguments of ``Predictor.predict`` for the prompts of a command line.

    Raises:
        ValueError: for a mask file on another grid or of several objects.
    """
    from ..prompts import Box, Lasso, Scribble

    points = [*config.point, *config.negative]
    scribbles = [Scribble(s, label=1) for s in config.scribble] + [
        Scribble(s, label=0) for s in config.negative_scribble
    ]
    return {
        "points": points or None,
        "labels": [1] * len(config.point) + [0] * len(config.negative) if points else None,
        "box": [Box(b[:3], b[3:]) for b in config.box] or None,
        "scribbles": scribbles or None,
        "lassos": [Lasso(contour) for contour in config.lasso] or None,
        "mask": read_mask(config.mask, volume, config.mask_value) if config.mask else None,
        "text": config.text[0] if config.text else None,
        "space": config.space,
    }


def describe(prediction: Prediction, path: str) -> str:
    """One line about a result."""
    amount = f"{prediction.volume_ml:.3g} ml" if prediction.volume_ml < 100 else f"{prediction.volume_ml:.0f} ml"
    named = "" if prediction.name is None else f"{prediction.name}, "
    presence = "" if prediction.name is None else f", presence {prediction.presence:.2f}"
    return f"{path}: {named}{amount}, estimated IoU {prediction.score:.2f}{presence}, {prediction.seconds:.2f} s"


def draw(config: SegmentConfig, prediction: Prediction) -> None:
    """Writes the picture of a result."""
    import numpy as np

    from ..render import render_overlay, save_picture

    volume = prediction.volume
    clicks = np.array([*config.point, *config.negative], dtype=float).reshape(-1, 3)
    if config.space != "voxel" and len(clicks):
        clicks = volume.world_to_voxel(clicks, space=config.space)
    labels = [1] * len(config.point) + [0] * len(config.negative)
    canonical = [volume.to_canonical_box(b[:3], b[3:], config.space) for b in config.box]
    boxes = [volume.from_canonical_box(low, high) for low, high in canonical]
    assert config.overlay is not None
    save_picture(render_overlay(volume, prediction.mask, clicks, labels, boxes=boxes), config.overlay)


COMMAND = Command(
    SegmentConfig,
    run,
    example="""\
  promptseg segment ct.nii.gz --point 86,47,100 -o liver.nii.gz --overlay liver.png
  promptseg segment ct.nii.gz --point 92,51,100 --negative 64,54,98 -o liver.nii.gz
  promptseg segment mr.nii.gz --box 20,30,10,60,70,40 --mask earlier.nii.gz -o tumour.nii.gz
  promptseg segment dicom-series/ --space lps --point -80.0,-152.3,394.3 -o liver.nii.gz
  promptseg segment dicom-series/ --point 92,51,100 -o liver.dcm
  promptseg segment ct.nii.gz --text liver --text "left kidney" -o labels.nii.gz
  promptseg segment mr.nii.gz --adapter hippocampus --all -o labels.nii.gz""",
)
