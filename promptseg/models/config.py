"""Configuration of a promptable model: one frozen object for YAML, command line and ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..field_values import build
from ..preprocessing import PreprocessingConfig
from .atlas import AtlasConfig

ARCHITECTURE = "promptseg-1"
"""Name of the architecture written into each ``config.json``; another name is refused on load."""
NUM_SCORE_FEATURES = (7, 8)
"""How many numbers a score calibration may have."""


@dataclass(frozen=True)
class TextTerm:
    """A structure that weights were trained to find by its name."""

    name: str
    """Vocabulary term with its side and level, such as ``left hippocampus``."""
    extent_mm: float
    """Median of its largest side in the training cases, in millimetres: the scale at which it is drawn."""
    cases: int = 0
    """Training cases that showed it."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a :class:`~promptseg.models.PromptableModel`.

    Raises:
        ValueError: if two fields contradict each other; both are named.
    """

    name: str = "promptseg-tiny"
    """Name the weights are known by."""
    tile_size: int = 64
    """Side, in voxels, of the cubic tile that inference encodes; a multiple of 16."""
    stem_channels: tuple[int, int, int] = (32, 64, 128)
    """Channels of the convolutional pyramid at strides 2, 4 and 8."""
    stem_depths: tuple[int, int, int] = (1, 2, 2)
    """Residual blocks of the pyramid at strides 2, 4 and 8."""
    embed_dim: int = 256
    """Width of the vision transformer at stride 16."""
    depth: int = 8
    """Blocks of the vision transformer."""
    num_heads: int = 8
    """Attention heads of the vision transformer and of the mask decoder."""
    mlp_ratio: float = 4.0
    """Hidden width of each transformer's MLP, in multiples of ``embed_dim``."""
    decoder_depth: int = 2
    """Two-way blocks in the mask decoder."""
    decoder_channels: tuple[int, int, int] = (24, 48, 96)
    """Channels of the decoder's feature pyramid at strides 2, 4 and 8."""
    mask_channels: int = 8
    """Full-resolution feature channels that a mask token's weights combine into logits."""
    num_candidates: int = 3
    """Alternative masks offered for an ambiguous first prompt."""
    click_radius: float = 1.5
    """Standard deviation of a click's ball, in units of the tile's mean spacing (so isotropic in mm)."""
    intensity_evidence: bool = False
    """Hand the decoder where the intensities under a prompt occur and what they connect to."""
    point_features: bool = False
    """Hand the decoder what the encoder sees where the points lie, and where else it sees the like: see
    :mod:`.point_features`."""
    follow_edges: bool = False
    """Smooth the logits of each mask as far as the tile's intensities have no edge: see :mod:`.edges`."""
    walk_from_clicks: bool = False
    """From the second click on, add to the logits what a random walker makes of all clicks: see :mod:`.walker`."""
    prompt_context: bool = False
    """Hand the mean of an object's prompt tokens to every image and output token, besides what these attend to: names
    and learned tokens, which lie nowhere, are otherwise hardly looked at."""
    word_hints: bool = False
    """Compare names with the image's features first, and hand the decoder a coarse mask of where they lie."""
    word_sides: bool = False
    """Compare the side of a name with a map of left and right that all names share; needs ``word_hints``."""
    text_dim: int = 384
    """Width of the text embeddings that prompts bring."""
    num_lateralities: int = 4
    """Entries of the laterality table: none, left, right, both."""
    num_levels: int = 64
    """Entries of the level table (vertebrae, ribs); 0 means none."""
    text_terms: tuple[TextTerm, ...] = ()
    """Structures that the weights were trained to find by name; empty: the weights do not understand text."""
    text_encoder: str = ""
    """Digest of the sentence encoder whose embeddings text prompts were trained with; empty where there are none."""
    atlases: tuple[AtlasConfig, ...] = ()
    """Atlases among the weights: they tell where what is named lies in an image that shows all of one."""
    score_calibration: tuple[float, ...] = ()
    """Coefficients of :func:`promptseg.quality.calibrated_score`; empty for the decoder's estimate as it is."""
    named_score_calibration: tuple[float, ...] = ()
    """The same for objects that were named; empty: as for others."""
    activation_checkpointing: bool = False
    """Recompute transformer blocks in the backward pass, to save memory in training."""
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    """Intensity preprocessing, the same in training, evaluation and inference."""
    architecture: str = ARCHITECTURE
    """Architecture these sizes are for."""

    def __post_init__(self) -> None:
        for name in ("stem_channels", "stem_depths", "decoder_channels"):
            value = tuple(int(v) for v in getattr(self, name))
            if len(value) != 3 or min(value) < (name != "stem_depths"):
                raise ValueError(f"{name}={value}: expected three positive integers, for strides 2, 4 and 8")
            object.__setattr__(self, name, value)
        for name in ("score_calibration", "named_score_calibration"):
            coefficients = tuple(float(c) for c in getattr(self, name))
            object.__setattr__(self, name, coefficients)
            if len(coefficients) not in (0, *NUM_SCORE_FEATURES):
                raise ValueError(f"{name} of {len(coefficients)} numbers: expected 7, 8 or none")
        terms = tuple(TextTerm(**t) if isinstance(t, dict) else t for t in self.text_terms)
        object.__setattr__(self, "text_terms", terms)
        atlases = tuple(AtlasConfig(**a) if isinstance(a, dict) else a for a in self.atlases)
        object.__setattr__(self, "atlases", atlases)
        if isinstance(self.preprocessing, dict):
            object.__setattr__(self, "preprocessing", PreprocessingConfig(**self.preprocessing))
        if self.word_sides and not self.word_hints:
            raise ValueError("word_sides=True with word_hints=False: the sides are a part of the word head")
        for name in ("embed_dim", "num_heads", "mask_channels", "text_dim", "num_lateralities", "num_levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.tile_size < 16 or self.tile_size % 16:
            raise ValueError(f"tile_size={self.tile_size}: expected a positive multiple of 16")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}")
        if self.architecture != ARCHITECTURE:
            raise ValueError(
                f"architecture={self.architecture!r}: this version of promptseg reads {ARCHITECTURE!r}; "
                "install the release that wrote the checkpoint, or convert it with `promptseg convert`"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> ModelConfig:
        """Builds a configuration from plain values.

        Args:
            values: field name to value, as read from YAML or JSON.
            source: where they came from, for error messages.

        Raises:
            ValueError: for an unknown field, a value of another type or a contradiction.
        """
        return build(cls, values, source)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Reads a configuration from a ``.yaml`` or ``.json`` file."""
        path = Path(path)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
        return cls.from_dict(values.get("model", values), source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
