"""The pages of the documentation as data: their blocks of code and their links."""

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"(?:^<!-- ([^\n]+) -->\n)?^(```|~~~)(\w*)\n(.*?)^\2$", re.M | re.S)
GENERATED = re.compile(r"^::: ([\w.]+)$", re.M)  # the docstring of this object; its name becomes an anchor


def pages() -> list[Path]:
    """README, the texts of the shipped models, and every page of the site."""
    texts = (*(ROOT / "saved_models").glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *sorted(texts)]


class Block(NamedTuple):
    """A block of code of a page, with the comment above it: why it is not run, or that a block before it prints it."""

    mark: str
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [Block(mark, language, code) for mark, _, language, code in FENCE.findall(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of all links and pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """What a link to a page may point at: its headings as MkDocs and GitHub name them, and documented objects."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    plain = (unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode() for heading in headings)
    slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}
    return slugs | set(GENERATED.findall(prose(page)))
