"""The first page of the site is the README, with links that begin where the site does."""

from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent.parent / "README.md"
#: What follows in the README is for those who look at the repository.
END = "<!-- end of the site's first page -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The Markdown of a page."""
    if page.file.src_uri != "index.md":
        return markdown
    return README.read_text().partition(END)[0].replace("](docs/", "](")


def on_serve(server: Any, **_: Any) -> None:
    """`mkdocs serve` builds anew when the README changes."""
    server.watch(str(README))
