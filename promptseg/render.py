"""Pictures of a segmentation: three orthogonal slices with mask, contours, clicks and boxes, in true proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from .volume import Volume

COLOURS = (
    (255, 99, 71),
    (64, 200, 255),
    (255, 210, 64),
    (120, 220, 110),
    (220, 130, 255),
    (255, 150, 200),
    (140, 150, 255),
    (60, 220, 190),
    (230, 170, 110),
)
"""Red, green and blue of label 1, 2, ...; they repeat beyond."""
INCLUDED, EXCLUDED = (80, 255, 120), (255, 60, 60)
BACKGROUND, LETTERS = (0, 0, 0), (255, 224, 130)
ROW = 24
"""Pixels between two rows of the legend."""


@dataclass(frozen=True)
class RenderConfig:
    """How a picture is drawn.

    Raises:
        ValueError: for a size or a share out of range.
    """

    convention: Literal["radiological", "neurological"] = "radiological"
    """``radiological``: the patient's right is on the left, as from the feet; ``neurological``: on the right."""
    width: int = 1500
    """Largest width in pixels."""
    height: int = 640
    """Largest height in pixels; a legend that would take half of it adds to it."""
    tint: float = 0.28
    """Share of the mask's colour inside it, 0 to 1; contours are always drawn in full."""
    near_mm: float = 6.0
    """Clicks up to this far from a slice are drawn on it as rings; those on the slice are filled."""

    def __post_init__(self) -> None:
        if self.convention not in ("radiological", "neurological"):
            raise ValueError(f"convention={self.convention!r}: expected 'radiological' or 'neurological'")
        if min(self.width, self.height) < 64:
            raise ValueError(f"width={self.width}, height={self.height}: expected 64 pixels or more")
        if not 0 <= self.tint <= 1:
            raise ValueError(f"tint={self.tint}: expected 0 to 1")


@dataclass(frozen=True)
class _View:
    """A slice plane: its canonical axes, whether the one across runs to the left, and the letters at its ends."""

    name: str
    axis: int
    across: int
    up: int
    is_mirrored: bool
    letters: tuple[str, str, str, str]
    """Left, right, top, bottom."""


@dataclass(frozen=True)
class _Plane:
    """A slice as drawn: its view, (width, height) in pixels, the volume's canonical shape, and which voxel it cuts."""

    view: _View
    size: tuple[int, int]
    shape: tuple[int, ...]
    position: int

    def place(self, voxel: np.ndarray) -> tuple[float, float]:
        """Pixels from the left and from the top of a canonical voxel's centre."""
        x, y = (
            (voxel[axis] + 0.5) / self.shape[axis] * pixels
            for axis, pixels in zip((self.view.across, self.view.up), self.size, strict=True)
        )
        return self.size[0] - x if self.view.is_mirrored else x, self.size[1] - y


def _views(convention: str) -> tuple[_View, ...]:
    mirrored = convention == "radiological"
    left, right = ("R", "L") if mirrored else ("L", "R")
    return (
        _View("axial", 2, 0, 1, mirrored, (left, right, "A", "P")),
        _View("coronal", 1, 0, 2, mirrored, (left, right, "S", "I")),
        _View("sagittal", 0, 1, 2, True, ("A", "P", "S", "I")),
    )


def render_overlay(
    volume: Volume,
    mask: np.ndarray | None = None,
    points: Any = None,
    labels: Any = None,
    centre: Any = None,
    legend: Sequence[str] = (),
    config: RenderConfig | None = None,
    boxes: Any = None,
) -> Image:
    """Draws an axial, a coronal and a sagittal slice side by side.

    Args:
        volume: the image.
        mask: (I, J, K) on the image's grid; 0 is background, each other value gets a colour of its own.
        points: (N, 3) clicks, voxel coordinates of the image.
        labels: (N,) 1 or 0; None for all 1.
        centre: (3,) voxel the slices pass through; None for the first included click, else the middle of the mask,
            else that of the image.
        legend: names of the mask's values 1, 2, ..., drawn below in as many rows as they need.
        config: size and convention.
        boxes: (N, 2, 3) boxes that were given, from a voxel to the one after the last; drawn on slices through them.

    Returns:
        An RGB picture. All slices have one scale, in millimetres.

    Raises:
        ValueError: for a mask of another shape, or a centre outside the image.
    """
    from PIL import Image, ImageDraw

    config = config or RenderConfig()
    if mask is not None and mask.shape != tuple(volume.shape):
        raise ValueError(
            f"mask: shape {mask.shape} is not the image's {tuple(volume.shape)}; give it on the image's grid"
        )
    clicks = np.asarray(points, dtype=float).reshape(-1, 3) if points is not None else np.zeros((0, 3))
    signs = np.asarray(labels, dtype=int) if labels is not None else np.ones(len(clicks), dtype=int)
    image = volume.canonical_array
    drawn_mask = None if mask is None else volume.to_canonical_array(mask)
    clicks_vox = volume.to_canonical_points(clicks) if len(clicks) else clicks
    ends = np.zeros((0, 2, 3)) if boxes is None else np.asarray(boxes, dtype=float).reshape(-1, 2, 3)
    boxes_vox = [volume.to_canonical_box(low, high) for low, high in ends]
    at = _centre(volume, drawn_mask, clicks_vox, signs, centre)
    spacing_mm = np.asarray(volume.canonical_spacing_mm, dtype=float)
    size_mm = np.array(image.shape) * spacing_mm

    views = _views(config.convention)
    gap = 12
    names = _placed_names(legend, gap, config.width)
    footer = 10 + ROW * (1 + names[-1].row) if names else 0
    across_mm, up_mm = sum(size_mm[v.across] for v in views), max(size_mm[v.up] for v in views)
    room = config.width - gap * (len(views) + 1)
    rise = max(config.height - 2 * gap - footer, config.height // 2)
    pixels_per_mm = min(room / across_mm, rise / up_mm)
    panels = []
    black, white = intensity_window(image)
    for view in views:
        grey = _slice(image, view, at)
        grey = np.clip((grey.astype(np.float64) - black) / (white - black), 0, 1)
        values = None if drawn_mask is None else _slice(drawn_mask, view, at)
        shape = [max(1, round(size_mm[a] * pixels_per_mm)) for a in (view.across, view.up)]
        panel = _panel(grey, values, (shape[0], shape[1]), config.tint)
        plane = _Plane(view, panel.size, image.shape, int(at[view.axis]))
        draw = ImageDraw.Draw(panel)
        for low, high in boxes_vox:
            if low[view.axis] <= plane.position < high[view.axis]:
                corners = np.sort([plane.place(low - 0.5), plane.place(high - 0.5)], axis=0)
                draw.rectangle([*corners[0], *corners[1]], outline=INCLUDED, width=2)
        for click, sign in zip(clicks_vox, signs, strict=True):
            _draw_click(draw, plane, click, bool(sign), config.near_mm / spacing_mm[view.axis])
        panels.append(panel)

    width = max([sum(p.width for p in panels) + gap * (len(panels) + 1), *(name.right for name in names)])
    height = max(p.height for p in panels) + 2 * gap
    picture = Image.new("RGB", (width, height + footer), BACKGROUND)
    left = gap
    for view, panel in zip(views, panels, strict=True):
        top = (height - panel.height) // 2
        picture.paste(panel, (left, top))
        _draw_letters(ImageDraw.Draw(picture), view, (left, top, left + panel.width, top + panel.height))
        left += panel.width + gap
    _draw_legend(ImageDraw.Draw(picture), names, height)
    return picture


def save_picture(picture: Image, path: str | Path) -> Path:
    """Writes a picture; the file appears only when it is complete.

    Raises:
        ValueError: for a name without a known picture suffix, or a folder that is missing or not writable.
        OSError: if it cannot be written; nothing half-written is left behind.
    """
    from .io import atomic_path

    check_picture_path(path)
    with atomic_path(path) as partial:
        picture.save(partial)
    return Path(path)


def check_picture_path(path: str | Path) -> None:
    """Refuses a picture's name before any work is done for it.

    Raises:
        ValueError: for an unknown suffix, a folder that is not there, or a name that is a folder's.
    """
    from .io.atomic import check_target

    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"picture {str(path)!r}: expected a name that ends in .png or .jpg")
    check_target(path)


def intensity_window(array: np.ndarray) -> tuple[float, float]:
    """Intensities to draw black and white: soft tissue for what looks like CT, else nearly the whole range."""
    from .modality import guess_modality
    from .preprocessing import subsample

    if guess_modality(array).name == "CT":
        return -180.0, 300.0
    low, high = (float(v) for v in np.percentile(subsample(array, 500_000), [0.5, 99.5]))
    return (low, high) if high > low else (low, low + 1.0)


def _centre(
    volume: Volume, mask: np.ndarray | None, clicks_vox: np.ndarray, signs: np.ndarray, centre: Any
) -> np.ndarray:
    """(3,) int canonical voxel that the slices pass through."""
    shape = np.array(volume.canonical_shape)
    if centre is not None:
        native = np.asarray(centre, dtype=float).reshape(1, 3)
        if (native < -0.5).any() or (native > np.array(volume.shape) - 0.5).any():
            raise ValueError(f"centre={native[0].tolist()}: outside the image of shape {tuple(volume.shape)}")
        chosen = volume.to_canonical_points(native)[0]
    elif (signs == 1).any():
        chosen = clicks_vox[signs == 1][0]
    elif mask is not None and mask.any():
        chosen = np.array([np.median(np.flatnonzero(mask.any(axis=others))) for others in ((1, 2), (0, 2), (0, 1))])
    else:
        chosen = (shape - 1) / 2
    return np.clip(np.rint(chosen), 0, shape - 1).astype(int)


def _slice(array: np.ndarray, view: _View, at: np.ndarray) -> np.ndarray:
    """A slice as the picture shows it: (rows from the top, columns from the left)."""
    plane = np.take(array, int(at[view.axis]), axis=view.axis)  # (across, up): the axes left are in rising order
    rows = plane.T[::-1]
    return rows[:, ::-1] if view.is_mirrored else rows


def _panel(grey: np.ndarray, values: np.ndarray | None, size: tuple[int, int], tint: float) -> Image:
    """A slice with tinted, outlined mask, resized to ``size`` (width, height)."""
    from PIL import Image

    scaled = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    colours = np.repeat(np.asarray(scaled, dtype=np.float32)[..., None], 3, axis=2)
    if values is not None:
        rows = np.minimum((np.arange(size[1]) + 0.5) * values.shape[0] / size[1], values.shape[0] - 1).astype(int)
        columns = np.minimum((np.arange(size[0]) + 0.5) * values.shape[1] / size[0], values.shape[1] - 1).astype(int)
        values = values[rows][:, columns]
        for value in np.unique(values[values != 0]):
            inside = values == value
            colour = np.array(COLOURS[(int(value) - 1) % len(COLOURS)], dtype=np.float32)
            colours[inside] = (1 - tint) * colours[inside] + tint * colour
            colours[_outline(inside)] = colour
    return Image.fromarray(colours.astype(np.uint8))


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels of a region within two pixels of what is outside it; the picture's border does not count."""
    core = np.pad(inside, 2, mode="edge")
    for axis in (0, 1, 0, 1):
        core = core & np.roll(core, 1, axis) & np.roll(core, -1, axis)
    return inside & ~core[2:-2, 2:-2]


def _draw_click(draw: ImageDraw, plane: _Plane, click: np.ndarray, is_included: bool, near_vox: float) -> None:
    """A filled circle for a click on the slice, a ring for one near it."""
    distance_vox = abs(click[plane.view.axis] - plane.position)
    is_here = distance_vox <= 0.5
    if not is_here and distance_vox > near_vox:
        return
    x, y = plane.place(click)
    colour, radius = INCLUDED if is_included else EXCLUDED, 5
    circle = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(circle, fill=colour if is_here else None, outline=colour, width=2)
    draw.line((x - 2, y, x + 2, y), fill=BACKGROUND if is_here else colour)
    if is_included:
        draw.line((x, y - 2, x, y + 2), fill=BACKGROUND if is_here else colour)


def _draw_letters(draw: ImageDraw, view: _View, box: tuple[int, int, int, int]) -> None:
    from PIL import ImageFont

    left, top, right, bottom = box
    font, inset = ImageFont.load_default(size=18), 4
    middle, centre = (top + bottom) // 2, (left + right) // 2
    places = (
        (left + inset, middle, "lm"),
        (right - inset, middle, "rm"),
        (centre, top + inset, "mt"),
        (centre, bottom - inset, "mb"),
    )
    for letter, (x, y, anchor) in zip(view.letters, places, strict=True):
        draw.text((x, y), letter, fill=LETTERS, font=font, anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND)


@dataclass(frozen=True)
class _PlacedName:
    """A name of the legend: the number of its colour, its row, and the pixels between which it lies."""

    number: int
    name: str
    row: int
    left: int
    right: int


def _placed_names(legend: Sequence[str], gap: int, width: int) -> list[_PlacedName]:
    """The names in rows that are no wider than the picture may be."""
    from PIL import ImageFont

    font = ImageFont.load_default(size=18)
    placed: list[_PlacedName] = []
    row, left = 0, gap
    for number, name in enumerate(legend):
        right = left + 22 + int(font.getlength(name)) + gap
        if right > width and left > gap:
            row, left, right = row + 1, gap, right - left + gap
        placed.append(_PlacedName(number, name, row, left, min(right, width)))
        left = right + gap
    return placed


def _draw_legend(draw: ImageDraw, names: Sequence[_PlacedName], top: int) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=18)
    for placed in names:
        left, y = placed.left, top + ROW * placed.row
        draw.rectangle((left, y + 4, left + 16, y + 20), fill=COLOURS[placed.number % len(COLOURS)])
        draw.text((left + 22, y + 12), placed.name, fill=(235, 235, 235), font=font, anchor="lm")
