"""Check a built site: a reader's browser fetches nothing from elsewhere, and no diagram is missing.

python docs/hooks/offline.py build/site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_FETCHING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_REL_FETCHING = {"stylesheet", "icon", "preconnect", "preload", "dns-prefetch", "manifest"}
_ELSEWHERE = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get(_FETCHING.get(tag, "")) or ""
        rel = set((values.get("rel") or "").split())
        if _ELSEWHERE.match(address) and (tag != "link" or rel & _REL_FETCHING):
            self.faults.append(f"<{tag}> fetches {address}")
        if "mermaid" in (values.get("class") or ""):
            self.faults.append("a diagram was not drawn")


def faults(site: Path) -> Iterator[str]:
    """What is wrong, a line each."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site}: there are no pages"
    for path in pages:
        page = _Page()
        page.feed(path.read_text())
        yield from (f"{path.relative_to(site)}: {fault}" for fault in page.faults)
    for path in sorted(site.rglob("*.css")):
        for address in re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')\s]+)", path.read_text()):
            if _ELSEWHERE.match(address):
                yield f"{path.relative_to(site)}: fetches {address}"


if __name__ == "__main__":
    FOUND = list(faults(Path(sys.argv[1])))
    print("\n".join(FOUND) or "nothing is fetched from elsewhere")
    sys.exit(bool(FOUND))
