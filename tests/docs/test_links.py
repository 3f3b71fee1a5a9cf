"""Links between pages lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.markdown import DOCS, ROOT, anchors, links, page_id, pages

LATER = {DOCS / "reference" / "cli.md"}  # written beside the commands that it describes


@pytest.mark.parametrize("page", [*pages(), ROOT / "CHANGELOG.md"], ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target in LATER and not target.exists():
            continue
        assert target.exists(), f"{page_id(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page_id(page)}: {link}"


def test_every_page_can_be_found_from_the_first() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        inner = [link.partition("#")[0] for link in links(page) if "://" not in link]
        waiting += [(page.parent / path).resolve() for path in inner if path]
    assert {page_id(page) for page in pages()} <= {page_id(page) for page in seen}
