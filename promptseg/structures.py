"""What words mean to a model: the structure that they name, how large it is, and whether weights have learnt it."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .models import PromptableModel, PromptBatch, TextTerm
from .models.tokens import empty_prompts
from .prompt_arguments import as_texts
from .text import LEVELS, TextQuery, encode_text, load_bank, load_vocabulary
from .text.laterality import BOTH, LEFT, NONE, RIGHT, split_laterality
from .text.normalise import tokenise
from .volume import Volume

logger = logging.getLogger(__name__)

SHOWN_TERMS = 8
"""Trained terms that a message lists."""


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure that a text named.

    Attributes:
        query: the text as understood.
        extent_mm: typical largest side; of structures nearby where the weights were not trained on this one.
        cases: training cases that showed it; None where the weights were not trained on it.
    """

    query: TextQuery
    extent_mm: float
    cases: int | None = None

    @property
    def name(self) -> str:
        """Full name, with side and level."""
        return self.query.name

    @property
    def is_trained(self) -> bool:
        """Whether the weights were trained to find it by its name."""
        return self.cases is not None

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """What two texts share that mean the same."""
        query = self.query
        return query.term_id, query.name if not query.is_known else "", query.laterality, query.level

    def on_tiles(self, prompts: PromptBatch) -> PromptBatch:
        """Prompts of one object on B tiles (P = 1) with its name beside them."""
        return with_names(prompts, [self])


def understands_text(config: Any) -> bool:
    """Whether weights were trained to find structures by their names."""
    return bool(getattr(config, "text_terms", ()))


def understand(config: Any, text: str, before: Structure | None = None) -> Structure:
    """The structure that a text names, as weights know it.

    A structure that the weights were not trained on is warned of; its embedding may still lie near those they know.

    Args:
        config: of the model.
        text: see :func:`promptseg.text.encode_text`.
        before: what was named before; of the same again is not warned.

    Raises:
        ValueError: for weights that do not understand text or understand another encoder's, and for text that names
            nothing known; the message says what to do.
    """
    check_text(config, text)
    query = encode_text(text)
    known = {structure.identity: structure for structure in trained_structures(config.text_terms)}
    asked = Structure(query, 0.0)
    if before is not None and before.identity == asked.identity:
        return before
    if asked.identity in known:
        return replace(known[asked.identity], query=query)
    near = _nearest(query, list(known.values()))
    logger.warning(
        "text %r: weights %r were not trained to find %r, so look at the answer with care; they were trained on %s",
        text,
        config.name,
        query.name,
        list_names([structure.name for structure in near or known.values()]),
    )
    return replace(asked, extent_mm=statistics.median(s.extent_mm for s in near or known.values()))


def check_text(config: Any, text: object) -> None:
    """Refuses text for weights that do not understand it.

    Args:
        config: of the model.
        text: for the message; None where all terms are asked for.

    Raises:
        ValueError: naming the weights and the cure.
    """
    asked = "all terms" if text is None else f"text={text!r}"
    if not understands_text(config):
        raise ValueError(
            f"{asked}: weights {config.name!r} were not trained with text; "
            "give a point, a box, a scribble, a lasso or a mask, or load weights whose card lists terms"
        )
    bank = load_bank()
    ours, theirs = bank.encoder.weights_sha256, config.text_encoder
    fits = bank.width == config.text_dim and len(LEVELS) <= config.num_levels
    if ours != theirs or not fits:
        raise ValueError(
            f"{asked}: weights {config.name!r} were trained with the embeddings of the sentence encoder with "
            f"sha256 {theirs[:12] or 'unknown'}..., and this installation's are those of {ours[:12]}...; install the "
            "release of promptseg that the weights were made with, or point instead of naming"
        )


@lru_cache(maxsize=8)
def trained_structures(terms: tuple[TextTerm, ...]) -> tuple[Structure, ...]:
    """The structures that weights were trained on, in their order.

    Raises:
        ValueError: for a term that this release's vocabulary does not have.
    """
    found = []
    for term in terms:
        try:
            query = encode_text(term.name)
        except ValueError as error:
            raise ValueError(
                f"the weights' term {term.name!r} is not in this release's vocabulary; update promptseg ({error})"
            ) from error
        found.append(Structure(query, float(term.extent_mm), int(term.cases)))
    return tuple(found)


def understand_one(
    config: Any, text: Any, before: Structure | None = None, volume: Volume | None = None
) -> Structure | None:
    """The structure of the one text that an object may have; None for no text.

    Args:
        config: of the model.
        text: words, Text, or a list of one.
        before: see :func:`understand`.
        volume: the image; of a side in one of unknown orientation is warned.

    Raises:
        ValueError: see :func:`understand`; for several texts.
    """
    if text is None:
        return None
    check_text(config, text)
    words = [t.text.strip() for t in as_texts(text)]
    if len(words) != 1:
        raise ValueError(
            f"text={text!r}: an object has one name; ask for several objects with segment_all({words or ['liver']!r})"
        )
    structure = understand(config, words[0], before)
    if structure is not before:
        warn_of_guessed_sides(volume, [structure.name])
    return structure


def understand_all(config: Any, texts: Sequence[str] | str | None, volume: Volume | None = None) -> list[Structure]:
    """Several structures, each once; for None all that the weights were trained on, ``both kidney`` as ``kidney``.

    Args:
        config: of the model.
        texts: names.
        volume: the image; of sides in one of unknown orientation is warned.

    Raises:
        ValueError: see :func:`understand`; for no text.
    """
    several = [texts] if isinstance(texts, str) else texts
    if several is None:
        check_text(config, None)
        found = _without_repeats(trained_structures(config.text_terms))
    elif not several:
        raise ValueError("terms is empty: give names such as 'liver', or leave it out for all that the weights know")
    else:
        found = list({s.identity: s for s in (understand(config, text) for text in several)}.values())
    warn_of_guessed_sides(volume, [structure.name for structure in found])
    return found


def warn_of_guessed_sides(volume: Volume | None, names: Sequence[str]) -> None:
    """Warns of names with a side, such as ``left kidney``, where an image does not say which side is which.

    Args:
        volume: the image; None where it is not known.
        names: of what is looked for.
    """
    if volume is None or volume.is_orientation_known:
        return
    sided = [name for name in names if split_laterality(tokenise(name))[0] in (LEFT, RIGHT)]
    if sided:
        logger.warning(
            "%s: the orientation of the image is unknown, so left and right are guessed, and this may be the other "
            "side: check it in the image, and give affine= or set the header (image: %s)",
            list_names(sided),
            volume.source,
        )


def _without_repeats(structures: Sequence[Structure]) -> list[Structure]:
    """Structures without those of both sides that are there without a side, too: they are the same voxels."""
    named = {(s.query.term_id, s.query.level) for s in structures if s.query.laterality == NONE}
    return [s for s in structures if s.query.laterality != BOTH or (s.query.term_id, s.query.level) not in named]


def text_tokens(model: PromptableModel, structures: Sequence[Structure]) -> Tensor:
    """Tokens of structures, one for each: (P, 1, C)."""
    with torch.no_grad():
        prompts = with_names(empty_prompts(1, len(structures), model.device), structures)
        return model.prompt_encoder.embed_text(prompts)[0]


def known_words(model: PromptableModel, names: Sequence[str]) -> list[Tensor | None]:
    """The token (C,) of each name that a model takes for a word; None for the others."""
    words: list[Tensor | None] = []
    for name in names:
        try:
            check_text(model.config, name)
            words.append(text_tokens(model, [Structure(encode_text(name), 0.0)])[0, 0])
        except ValueError:
            words.append(None)
    return words


def with_names(prompts: PromptBatch, structures: Sequence[Structure]) -> PromptBatch:
    """Prompts of P objects on B tiles, each with the name of its structure."""
    device, batch = prompts.points.device, prompts.num_tiles
    embeddings = torch.stack([torch.from_numpy(s.query.embedding.copy()) for s in structures])
    laterality = torch.tensor([[s.query.laterality] for s in structures])
    level = torch.tensor([[s.query.level] for s in structures])
    return replace(
        prompts,
        text=embeddings[None, :, None].expand(batch, -1, -1, -1).to(device),
        text_laterality=laterality[None].expand(batch, -1, -1).to(device),
        text_level=level[None].expand(batch, -1, -1).to(device),
    )


def parts_among(structures: Sequence[Structure]) -> dict[int, tuple[int, ...]]:
    """Which of some structures are parts of which: number of the whole -> numbers of its parts.

    A side or level is a part of the structure without one; a lesion is a part of where it lies.
    """
    queries = [structure.query for structure in structures]
    return {
        whole: parts
        for whole in range(len(queries))
        if (parts := tuple(n for n in range(len(queries)) if n != whole and _is_part(queries[n], queries[whole])))
    }


def _is_part(part: TextQuery, whole: TextQuery) -> bool:
    if not (part.is_known and whole.is_known):
        return False
    fits_side = whole.laterality in (NONE, BOTH) or whole.laterality == part.laterality
    fits_level = whole.level in (0, part.level)
    if part.term_id == whole.term_id:
        is_same = (part.laterality in (NONE, BOTH)) == (whole.laterality in (NONE, BOTH)) and part.level == whole.level
        return fits_side and fits_level and not is_same
    may_be_there = fits_side or part.laterality in (NONE, BOTH)  # an anterior hippocampus, in the left hippocampus
    return may_be_there and fits_level and whole.term_id in load_vocabulary().wholes(part.term_id)


def _nearest(query: TextQuery, known: Sequence[Structure]) -> list[Structure]:
    """Trained structures that are the same one on another side or level, else its parts, else what it is part of."""
    if not query.is_known:
        return []
    vocabulary = load_vocabulary()
    same = [s for s in known if s.query.term_id == query.term_id]
    if same:
        return same
    parts = [s for s in known if query.term_id in {t.id for t in vocabulary.ancestors(s.query.term_id)}]
    wholes = {term.id for term in vocabulary.ancestors(query.term_id)}
    return parts or [s for s in known if s.query.term_id in wholes]


def list_names(names: Sequence[str]) -> str:
    """Some names for a message."""
    shown = ", ".join(names[:SHOWN_TERMS])
    return shown if len(names) <= SHOWN_TERMS else f"{shown} and {len(names) - SHOWN_TERMS} others"
