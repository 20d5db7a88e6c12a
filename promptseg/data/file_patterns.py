r"""Path patterns with named fields, by which a data set's files are found.

A pattern is a path relative to the root. ``{name}`` is a field, the same text wherever the name occurs;
``{name:regex}`` restricts it; ``[...]`` is optional; ``*`` is any text within a folder name, ``**/`` any folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path


class FilePattern:
    """A path pattern with named fields.

    Args:
        pattern: see the module's text.

    Raises:
        ValueError: for a bracket that is not closed or a regular expression that is not valid.

    Example:
        >>> FilePattern("images/{case}_{channel:[0-9]+}.nii[.gz]").match("images/liver_01_0000.nii.gz")
        {'case': 'liver_01', 'channel': '0000'}
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.fields: list[str] = []
        try:
            self._regex = re.compile(self._translate(pattern))
        except re.error as error:
            raise ValueError(f"pattern {pattern!r} is not valid: {error}") from error
        literal = re.split(r"[{\[*]", pattern, maxsplit=1)[0]
        self.folder = literal.rpartition("/")[0]
        """Deepest folder that holds every match, relative to the root."""

    def _translate(self, pattern: str) -> str:
        parts: list[str] = []
        depth = position = 0
        while position < len(pattern):
            rest = pattern[position:]
            step = 1
            if field := re.match(r"\{(\w+)(?::([^}]*))?\}", rest):
                name, regex = field.groups()
                parts.append(f"(?P={name})" if name in self.fields else f"(?P<{name}>{regex or '[^/]+'})")
                if name not in self.fields:
                    self.fields.append(name)
                step = field.end()
            elif rest.startswith("**/"):
                parts.append("(?:.*/)?")
                step = 3
            elif rest[0] == "*":
                parts.append("[^/]*")
            elif rest[0] in "[]":
                depth += 1 if rest[0] == "[" else -1
                parts.append("(?:" if rest[0] == "[" else ")?")
            elif rest[0] in "{}":
                raise ValueError(f"pattern {pattern!r}: the brace at {position} is not a field such as {{case}}")
            else:
                parts.append(re.escape(rest[0]))
            position += step
        if depth:
            raise ValueError(f"pattern {pattern!r}: '[' and ']' do not pair")
        return "".join(parts)

    def match(self, path: str) -> dict[str, str] | None:
        """Fields of a path (``/`` between folders) that the whole pattern fits, or None; a field left out is ''."""
        found = self._regex.fullmatch(path)
        return None if found is None else {name: text or "" for name, text in found.groupdict().items()}

    def find(self, root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
        """Files under a root that fit, in sorted order, with their fields; hidden files are passed over."""
        for path in sorted(_walk(root / self.folder)):
            fields = self.match(path.relative_to(root).as_posix())
            if fields is not None:
                yield path, fields


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in names if not name.startswith("."))
