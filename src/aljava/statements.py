"""What stands in the text of SQL statements, as DuckDB's own parser splits and reads it.

Which names of a statement are tables is for DuckDB's binder to say: only it knows common table expressions, views and
catalogs. So this module finds no tables. It lists the *words* that could be an address if the binder asked for one
(quoted names, and nothing in comments), and takes apart the two statements that DuckDB cannot run alone when an
address is in them: `CREATE VIEW` over one, and `COPY … TO` one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import duckdb

from aljava.errors import QueryError


@dataclass(frozen=True)
class Token:
    """One token of DuckDB's tokenizer."""

    #: As written, without the white space after it.
    text: str
    #: Where it begins, in bytes of UTF-8.
    start: int
    #: One of `duckdb.token_type`.
    kind: object

    @property
    def name(self) -> str | None:
        """What a quoted name or text holds; None for any other token."""
        for quote in ("'", '"'):
            if len(self.text) >= 2 and self.text[0] == quote == self.text[-1]:
                return self.text[1:-1].replace(quote * 2, quote)
        return None

    def is_word(self, *words: str) -> bool:
        """Whether this is one of these keywords, however it is capitalised."""
        return self.text.lower() in words


@lru_cache(maxsize=8)  # each statement is looked at from several sides
def tokens(text: str) -> tuple[Token, ...]:
    """The tokens of one or several statements, without comments.

    Example:
        >>> [token.text for token in tokens("from 'x.arrow' -- all of it")]
        ['from', "'x.arrow'"]
    """
    data = text.encode()
    found = duckdb.tokenize(text)
    ends = [*(start for start, _ in found[1:]), len(data)] if found else []
    return tuple(
        Token(data[start:end].decode().rstrip(), start, kind)
        for (start, kind), end in zip(found, ends, strict=True)
        if kind != duckdb.token_type.comment
    )


def quoted_names(text: str) -> set[str]:
    """Every quoted name and text in the statements.

    Example:
        >>> sorted(quoted_names("select \\"a b\\" from 'it''s.arrow' where c = 1 -- 'no.arrow'"))
        ['a b', "it's.arrow"]
    """
    return {name for token in tokens(text) if (name := token.name)}


def is_explain_analyze(text: str) -> bool:
    """Whether a statement is an `EXPLAIN ANALYZE`.

    Example:
        >>> is_explain_analyze("explain analyze from 'x.arrow'"), is_explain_analyze("explain from 'x.arrow'")
        (True, False)
    """
    words = tokens(text)[:2]
    return len(words) == 2 and words[0].is_word("explain") and words[1].is_word("analyze")


@dataclass(frozen=True)
class CreateView:
    """`CREATE VIEW name (columns) AS body`, taken apart."""

    #: The parts of the view's name, without quotes: `("schema", "view")`.
    name: tuple[str, ...]
    #: The query that the view stands for, with the view's own column names.
    body: str
    #: Whether it replaces a view of that name.
    replaces: bool
    #: Whether it leaves a view of that name as it is.
    if_not_exists: bool
    #: Whether it goes with the connection.
    is_temporary: bool


def create_view(text: str) -> CreateView | None:
    """The parts of a `CREATE VIEW`; None for any other statement.

    Args:
        text: one statement that DuckDB can parse.

    Example:
        >>> view = create_view("create or replace temp view v(n) as select id from 'x.arrow'")
        >>> view.name, view.body, view.replaces, view.is_temporary
        (('v',), "select * from (select id from 'x.arrow') as v_(n)", True, True)
    """
    words = tokens(text)
    if not words or not words[0].is_word("create"):
        return None
    at = 1
    while at < len(words) and words[at].is_word("or", "replace", "temp", "temporary"):
        at += 1
    if at >= len(words) or not words[at].is_word("view"):
        return None
    kinds = {word.text.lower() for word in words[1:at]}
    at += 1
    begin = at
    while words[begin].is_word("if", "not", "exists"):
        begin += 1
    if_not_exists = begin > at
    at = begin
    while not words[at].is_word("as") and words[at].text != "(":
        at += 1
    name = tuple(word.name or word.text for word in words[begin:at] if word.text != ".")
    columns = ""
    if words[at].text == "(":
        opened = at
        while not words[at].is_word("as"):
            at += 1
        columns = _between(text, words[opened], words[at])
    body = _between(text, words[at], None)[len("as") :].strip().rstrip(";").rstrip()
    if columns:
        body = f"select * from ({body}) as v_{columns}"
    is_temporary = bool(kinds & {"temp", "temporary"}) or name[0].lower() == "temp"
    return CreateView(name, body, "replace" in kinds, if_not_exists, is_temporary)


@dataclass(frozen=True)
class CopyTo:
    """`COPY what TO 'target' (options)`, taken apart."""

    #: A query in parentheses that gives the rows.
    body: str
    #: Where they go.
    target: str
    #: The options, names in lower case.
    options: dict[str, str] = field(default_factory=dict)


def copy_to(text: str) -> CopyTo | None:
    """The parts of a `COPY … TO`; None for any other statement.

    Args:
        text: one statement that DuckDB can parse.

    Example:
        >>> copy_to("copy (select 1 as id) to 'x.arrow' (compression zstd)")
        CopyTo(body='(select 1 as id)', target='x.arrow', options={'compression': 'zstd'})
    """
    words = tokens(text)
    if not words or not words[0].is_word("copy"):
        return None
    to = next((at for at, depth in _depths(words) if depth == 0 and words[at].is_word("to")), None)
    if to is None or to + 1 >= len(words) or (target := words[to + 1].name) is None:
        return None
    opened = next((at for at in range(1, to) if words[at].text == "("), None)
    if opened is None:
        body = f"(from {_between(text, words[1], words[to])})"
    elif opened == 1:
        body = _between(text, words[1], words[to])
    else:
        columns = _between(text, words[opened], words[to])[1:-1]
        body = f"(select {columns} from {_between(text, words[1], words[opened])})"
    return CopyTo(body, target, _options([word for word in words[to + 2 :] if word.text != ";"]))


def _options(words: list[Token]) -> dict[str, str]:
    """`(name value, name value)`, or `with (…)`; a name without a value means true."""
    words = [word for word in words if word.text not in ("(", ")") and not word.is_word("with")]
    options = {}
    while words:
        end = next((at for at, word in enumerate(words) if word.text == ","), len(words))
        if end > 2 or end == 0:
            raise QueryError(
                f"the options of COPY read {' '.join(word.text for word in words)!r}: give NAME VALUE pairs"
            )
        options[words[0].text.lower()] = (words[1].name or words[1].text) if end == 2 else "true"
        words = words[end + 1 :]
    return options


def _depths(words: Sequence[Token]) -> Iterator[tuple[int, int]]:
    depth = 0
    for at, word in enumerate(words):
        depth += {"(": 1, ")": -1}.get(word.text, 0)
        yield at, depth


def _between(text: str, first: Token, behind: Token | None) -> str:
    data = text.encode()
    return data[first.start : behind.start if behind else len(data)].decode().strip()
