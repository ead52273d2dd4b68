"""Links resolve, and every page is in the navigation."""

import re
from urllib.parse import urlsplit

from pages import ROOT, anchors, links, pages

OTHERS = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "notebooks/README.md")
OWN = [*pages(), *(ROOT / name for name in OTHERS), *sorted((ROOT / "experiments").glob("*.md"))]


def test_links_lead_to_files_and_headings_that_are_there():
    for page, link in [(source, link) for source in OWN for link in links(source)]:
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", f"{page}: {link}"
            assert re.fullmatch(r"[\w.-]+\.\w+", parts.netloc), f"{page}: {link}"
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.exists(), f"{page} links to {link}"
        assert target.is_relative_to(ROOT)
        if (ROOT / "docs") in page.parents:
            assert target.is_relative_to(ROOT / "docs"), f"{page}: {link} is outside the site"
        if parts.fragment:
            assert parts.fragment in anchors(target), f"{page} links to {link}"


def test_every_page_of_the_site_is_in_its_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"^ +- .+: (\S+\.md)$", text, re.M)
    assert len(named) == len(set(named))
    there = {page for page in pages() if (ROOT / "docs") in page.parents}
    notebooks = {ROOT / "docs" / "notebooks" / f"{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {ROOT / "docs" / name for name in named} == there | notebooks  # docs/generated.py makes pages of notebooks
