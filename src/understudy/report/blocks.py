"""A report as values, before it is a page or Markdown: chapters of sections of blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from understudy.report.authorship import Run
from understudy.report.comparison_table import TextTable


@dataclass(frozen=True)
class Prose:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG. name: of its file, without the ending. alt: what it shows, for those who cannot see it."""

    name: str
    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Origin:
    """Where figures come from: file, command (None where the file has none), and facts by name, as text."""

    file: str
    command: str | None
    facts: Mapping[str, str]


@dataclass(frozen=True)
class SampleCard:
    """One sample: its text in runs by the key of the model that wrote them; all of one empty key where unknown."""

    title: str
    detail: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class SampleCards:
    """Samples under one legend. models: keys that are told apart, the costliest first; has_given: whether text was."""

    models: tuple[str, ...]
    has_given: bool
    cards: tuple[SampleCard, ...]


Block: TypeAlias = Prose | Picture | Origin | SampleCards | TextTable


@dataclass(frozen=True)
class Section:
    """What one file says. facts: what it is, in a line. reading: sentences computed from its numbers."""

    title: str
    facts: str
    reading: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Chapter:
    """Sections of one kind; purpose: what such a file is for and how to read it."""

    title: str
    purpose: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Report:
    """All of it. models: keys, the costliest first, which is the order of their colours. unread: (file, why not)."""

    title: str
    lead: str
    models: tuple[str, ...]
    chapters: tuple[Chapter, ...]
    unread: tuple[tuple[str, str], ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Every picture, in order."""
        sections = (section for chapter in self.chapters for section in chapter.sections)
        return tuple(block for section in sections for block in section.blocks if isinstance(block, Picture))
