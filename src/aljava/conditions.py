"""Conditions as text, `price > 3 and day in ('mon', 'tue')`, to Arrow expressions.

What comes over a network or from a command line names columns, compares them with values and joins comparisons. It is
parsed here and not run as SQL: nothing else can be said in it::

    condition  = clause { "or" clause };  clause = part { "and" part }
    part       = comparison | "not" part | "(" condition ")"
    comparison = COLUMN ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) VALUE
               | COLUMN [ "not" ] "in" "(" VALUE { "," VALUE } ")"  |  COLUMN "is" [ "not" ] "null"
               | COLUMN [ "not" ] "between" VALUE "and" VALUE       |  COLUMN              (of booleans)
"""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aljava.errors import QueryError

_LONGEST = 10_000
_DEEPEST = 50
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>"(?:[^"]|"")+")|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|==|[=<>(),]))""",
    re.VERBOSE,
)
_COMPARE = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_WORDS = {"and", "or", "not", "in", "is", "null", "between", "true", "false"}


def condition(text: str, schema: pa.Schema) -> pc.Expression:
    """The expression that a condition stands for.

    Args:
        text: as the module's docstring has it. Text values stand in single quotes, names that are no words in double
            quotes; a text value is converted to the type of the column that it is compared with (`day = '2024-02-29'`).
        schema: of the table that it is for.

    Raises:
        QueryError: no condition, or one on a column that does not exist.

    Example:
        >>> schema = pa.schema([("price", pa.float64()), ("day", pa.date32())])
        >>> print(condition("price >= 2.5 and not day = '2024-02-29'", schema))
        ((price >= 2.5) and invert((day == 2024-02-29)))
    """
    if len(text) > _LONGEST:
        raise QueryError(f"a condition has at most {_LONGEST:,} characters; this one has {len(text):,}")
    return _Parser(text, schema).all()


class _Parser:
    """Reads a condition from left to right."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._schema = text, schema
        self._tokens: list[tuple[str, str]] = []
        self._at = self._depth = 0
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(f"cannot be read from {text[at:].strip()[:20]!r} on")
            kind = str(match.lastgroup)
            value = match[kind]
            if kind == "word" and value.lower() in _WORDS:
                kind, value = "sign", value.lower()
            self._tokens.append((kind, value))
            at = match.end()

    def all(self) -> Any:
        found = self._either()
        if self._at < len(self._tokens):
            raise self._error(f"goes on with {self._tokens[self._at][1]!r} where it should end")
        return found

    def _either(self) -> Any:
        found = self._both()
        while self._takes("or"):
            found = found | self._both()
        return found

    def _both(self) -> Any:
        found = self._part()
        while self._takes("and"):
            found = found & self._part()
        return found

    def _part(self) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(f"nests deeper than {_DEEPEST} levels")
        try:
            if self._takes("not"):
                return ~self._part()
            if self._takes("("):
                found = self._either()
                self._require(")")
                return found
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Any:
        kind, name = self._next("a column")
        if kind == "name":
            name = name[1:-1].replace('""', '"')
        elif kind != "word":
            raise self._error(f"has {name!r} where a column should be named")
        if name not in self._schema.names:
            raise QueryError(f"there is no column {name!r}; there are {', '.join(self._schema.names)}")
        field, type = pc.field(name), self._schema.field(name).type
        if pa.types.is_dictionary(type):
            type = type.value_type
        if self._takes("is"):
            is_not = self._takes("not")
            self._require("null")
            return field.is_valid() if is_not else field.is_null()
        is_not = self._takes("not")
        if self._takes("in"):
            self._require("(")
            values = [self._value(type)]
            while self._takes(","):
                values.append(self._value(type))
            self._require(")")
            found = field.isin(pa.array([value.as_py() for value in values], values[0].type))
            return ~found if is_not else found
        if self._takes("between"):
            low = self._value(type)
            self._require("and")
            found = (field >= low) & (field <= self._value(type))
            return ~found if is_not else found
        if is_not:
            raise self._error("has 'not' where 'in' or 'between' should follow")
        if self._at < len(self._tokens) and self._tokens[self._at][1] in _COMPARE:
            _, sign = self._next("a sign")
            return _COMPARE[sign](field, self._value(type))
        return field

    def _value(self, type: pa.DataType) -> pa.Scalar:
        kind, text = self._next("a value")
        if kind == "number":
            is_whole = re.fullmatch(r"[+-]?\d+", text)
            value: Any = int(text) if is_whole else float(text)
        elif kind == "text":
            value = text[1:-1].replace("''", "'")
        elif text in ("true", "false"):
            value = text == "true"
        else:
            raise self._error(f"has {text!r} where a value should be: text stands in single quotes")
        try:
            scalar = pa.scalar(value)
            if kind == "text" or (kind == "number" and pa.types.is_decimal(type)):
                return pa.scalar(text).cast(type) if kind == "number" else scalar.cast(type)
            return scalar
        except (pa.ArrowException, OverflowError) as error:
            raise self._error(f"compares a column of type {type} with {text}: {error}") from error

    def _takes(self, sign: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign):
            self._at += 1
            return True
        return False

    def _require(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._error(f"lacks {sign!r}")

    def _next(self, what: str) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise self._error(f"ends where {what} should follow")
        self._at += 1
        return self._tokens[self._at - 1]

    def _error(self, what: str) -> QueryError:
        return QueryError(
            f"the condition {self._text[:80]!r} {what}. Write COLUMN = VALUE (or !=, <, <=, >, >=, in (…), between … "
            "and …, is null), joined by and, or, not"
        )
