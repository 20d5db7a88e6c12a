"""Model cards: what weights were trained on, under which licence, and what was measured; from a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import TextTerm

TEMPLATES = Path(__file__).resolve().parent / "assets" / "cards"
CARD_NAME = "README.md"


@dataclass(frozen=True)
class TrainingData:
    """A data set that weights were trained on."""

    name: str
    """Title."""
    licence: str
    """Its licence, with the attribution that it asks for."""
    cases: int
    """Cases trained on."""
    source: str = ""
    """Address or citation."""


@dataclass(frozen=True)
class Measurement:
    """A number that was measured, and how."""

    what: str
    """Quantity, data and number of cases, such as ``Dice after 1 click, 45 hippocampi``."""
    value: str
    """The number with its unit."""
    how: str = ""
    """Command or protocol."""


@dataclass(frozen=True)
class CardFacts:
    """What only the maker of weights knows; what is left out is said to be missing, never guessed."""

    description: str = ""
    """One or two sentences."""
    licence: str = ""
    """Licence of the weights: an SPDX identifier such as ``Apache-2.0``, or words."""
    training_data: tuple[TrainingData, ...] = ()
    """Everything the weights were trained on."""
    measured: tuple[Measurement, ...] = ()
    """Numbers that were measured."""


def render_card(template: str, facts: CardFacts, **fields: Any) -> str:
    """Text of a card.

    Args:
        template: ``model`` or ``adapter``.
        facts: from the maker.
        fields: values of the template's other places.

    Example:
        >>> facts = CardFacts(licence="Apache-2.0", measured=(Measurement("Dice", "0.81"),))
        >>> text = render_card("model", facts, name="mine", parameters=14.2, tile_size=64)
        >>> "license: apache-2.0" in text, "| Dice | 0.81 |  |" in text, "not stated" in text
        (True, True, True)
    """
    text = (TEMPLATES / f"{template}.md").read_text(encoding="utf-8")
    fields = {"words": list_terms(()), **fields}
    data = [f"| {d.name} | {d.cases} | {d.licence} | {d.source} |" for d in facts.training_data]
    numbers = [f"| {m.what} | {m.value} | {m.how} |" for m in facts.measured]
    simple = facts.licence.lower() if facts.licence and " " not in facts.licence else "other"
    return text.format(
        description=facts.description or "No description was given.",
        licence=facts.licence or "Not stated; ask the maker before use.",
        licence_tag=simple,
        training_data=_table("| data set | cases | licence | source |", data) or "Not stated.",
        measured=_table("| what | value | how |", numbers) or "Nothing was measured.",
        **fields,
    )


def list_terms(terms: Sequence[TextTerm]) -> str:
    """What a card says of the structures that weights were trained to find by name."""
    if not terms:
        return "Trained without words: give points, boxes, scribbles, lassos or masks."
    rows = [f"| {term.name} | {term.cases or 'not counted'} | {term.extent_mm:g} |" for term in terms]
    head = "Trained to find these structures by name; others are answered with a warning, and are not to be relied on."
    return f"{head}\n\n" + _table("| structure | training cases | typical size, mm |", rows)


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows]) if rows else ""
