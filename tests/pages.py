"""The pages of the documentation as data: their blocks of code and their links."""

import dataclasses
import re
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"(```|~~~)(\w*)\n(.*?)^\1$", re.M | re.S)
MARK = re.compile(r"<!-- not run here: (.+) -->\n$")
PRINTED = "<!-- printed by the block above -->\n"
AMONG = "<!-- among the lines printed by the block above, with other numbers -->\n"
GENERATED = re.compile(r"^::: ([\w.]+)$", re.M)  # the docstring of this object; its name becomes an anchor


def pages() -> list[Path]:
    """README, the texts of the shipped models, and every page of the site."""
    texts = (*(ROOT / "saved_models").glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *sorted(texts)]


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code of a page; `not_run` says why, where a comment above it excuses it from running.

    `printed`: it is marked as all that the block before it prints; `among`: as some lines of that, numbers aside.
    """

    language: str
    code: str
    not_run: str | None
    printed: bool = False
    among: bool = False


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        mark = MARK.search(before)
        printed, among = before.endswith(PRINTED), before.endswith(AMONG)
        found.append(Block(match[2], match[3], mark[1] if mark else None, printed, among))
    return found


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of all links and pictures of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """What a link to a page may point at: its headings as MkDocs and GitHub name them, and documented objects."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {slug(heading) for heading in headings} | set(GENERATED.findall(prose(page)))


def slug(heading) -> str:
    """`Your own images (few)` -> `your-own-images-few`."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
