"""The page that a browser sees: what tables there are, how large, and where to get them. No script, no other file."""

import time
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from aljava import charts
from aljava.errors import AljavaError
from aljava.server.catalogue import Catalogue, Table

#: What a browser may do with the page: show it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Seconds after which tables are no longer opened to say what they hold, and names that a page shows.
_PATIENCE = 2.0
_MOST_NAMES = 1000
_MOST_COLUMNS = 6


def listing(catalogue: Catalogue, base: str) -> str:
    """The page, as HTML.

    Args:
        catalogue: the tables.
        base: the address that the visitor called, with a slash at its end, for what can be copied from the page.

    Tables are opened for as long as a visitor is patient; the rest is listed by name.

    Example:
        >>> import tempfile, aljava
        >>> folder = tempfile.mkdtemp()
        >>> _ = aljava.write({"id": [1, 2, 3]}, f"{folder}/a<b.arrow")
        >>> "a&lt;b</b>" in listing(Catalogue([folder]), "http://localhost:8000/")
        True
    """
    tables = sorted(catalogue, key=lambda table: table.name)
    shown = tables[:_MOST_NAMES]
    end = time.monotonic() + _PATIENCE
    rows = [_row(table, catalogue if time.monotonic() < end else None) for table in shown]
    about = f"{len(tables):,} table{'s' * (len(tables) != 1)}, each to be had as an Arrow stream."
    if len(shown) < len(tables):
        about += f" The first {len(shown):,} are shown here; GET /tables names all."
    body = f"<h1>Tables</h1>{charts.paragraph(about)}"
    if tables:
        table = charts.table(("name", "rows", "size", "columns", ""), rows, numeric=(1, 2, 4))
        body += f'<div class="scroll">{table}</div>'
    example = escape(f"{base}tables/{quote(tables[0].name) if tables else 'NAME'}")
    body += charts.paragraph("Parts of a table, and tables in a program:")
    body += f"<pre>curl -s '{example}?limit=10' -o part.arrows\n"
    body += f'aljava.read("{example}")</pre>'
    return charts.page("Tables", body)


def _row(table: Table, catalogue: Catalogue | None) -> Sequence[str]:
    """The cells of one table; only its name and links without a catalogue to open it from."""
    place = escape(quote(table.name))
    name = f"<b>{escape(table.name)}</b>"
    links = f'<a href="/tables/{place}">data</a> · <a href="/schemas/{place}">schema</a>'
    if catalogue is None:
        return name, "", "", "", links
    try:
        dataset = catalogue.open(table.name)
        columns = dataset.schema.names
        rows, size = f"{dataset.count_rows():,}", charts.size(dataset.nbytes)
    except (AljavaError, OSError):
        return name, "", "", '<span class="bad">cannot be read</span>', links
    listed = ", ".join(columns[:_MOST_COLUMNS]) + (", …" if len(columns) > _MOST_COLUMNS else "")
    return name, rows, size, f'{len(columns):,} <span class="soft">{escape(listed)}</span>', links
