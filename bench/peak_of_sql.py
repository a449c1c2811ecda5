"""How much memory a query takes that writes a large result to a file: `python -m bench.peak_of_sql MEGABYTES FILE`."""

import json
import sys

import aljava
from bench.harness import peak_memory


def main() -> None:
    """Writes the rows, removes nothing, and prints the peak in bytes."""
    rows = int(sys.argv[1]) * 1_000_000 // 24
    aljava.sql("select 1").fetchall()  # DuckDB and its threads are not what is measured
    with peak_memory() as peak:
        query = f"select range as id, range * 0.5::double as value, hash(range) as key from range({rows})"
        written = aljava.write(aljava.sql(query), sys.argv[2])
    print(json.dumps({"peak": peak["bytes"], "bytes": written.bytes, "rows": written.rows}))


if __name__ == "__main__":
    main()
