"""SQL over Aljava's files against DuckDB over what else holds the same rows, and the `aljava sql` command."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.ipc
import pyarrow.parquet as pq

import aljava
from bench.data import kept, lineitem_parquet, notebook
from bench.harness import Scenario, in_fresh_process

Q1 = """
select l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice), sum(l_extendedprice * (1 - l_discount)),
       sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)), avg(l_quantity), avg(l_extendedprice), avg(l_discount),
       count(*)
from {lineitem} where l_shipdate <= date '1998-09-02'
group by l_returnflag, l_linestatus order by l_returnflag, l_linestatus
"""
Q6 = """
select sum(l_extendedprice * l_discount) from {lineitem}
where l_shipdate >= date '1994-01-01' and l_shipdate < date '1995-01-01'
  and l_discount between 0.05 and 0.07 and l_quantity < 24
"""


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """SQL over places, against DuckDB over its own."""
    folder = tempfile.TemporaryDirectory(prefix="aljava-bench-")
    scale = 0.05 if quick else 1
    rows = 2_000_000 if quick else 50_000_000

    def path(name: str) -> str:
        return str(Path(folder.name) / name)

    def tpch(name: str, query: str) -> Scenario:
        parquet = lineitem_parquet(scale)
        table = pq.read_table(parquet)
        raw = path("lineitem.arrow")
        aljava.write(table, raw, compression="none")
        connection = duckdb.connect()
        connection.register("in_memory", table)
        return Scenario(
            f"TPC-H {name}, SF {scale:g}, warm",
            {
                "aljava.sql, raw file": lambda: aljava.sql(query.format(lineitem=f"'{raw}'")).fetchall(),
                "DuckDB, pyarrow Table": lambda: connection.execute(query.format(lineitem="in_memory")).fetchall(),
                "DuckDB, Parquet": lambda: connection.execute(query.format(lineitem=f"'{parquet}'")).fetchall(),
            },
            targets={"DuckDB, pyarrow Table": 0.9, "DuckDB, Parquet": 1},
            why="DuckDB itself is a third faster over Parquet than over the same Arrow table in memory; Arrow is what "
            "Aljava hands to it.",
        )

    def one_percent(compression: str, targets: tuple[float, float]) -> Scenario:
        table = kept(f"notebook-{rows}", lambda: notebook(rows))
        address = path("ours.arrow")
        aljava.write(table, address, compression=compression)
        options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
        with pa.ipc.new_file(path("pyarrow.arrow"), table.schema, options=options) as writer:
            writer.write_table(table, 131_072)
        duckdb.from_arrow(table).write_parquet(path("sorted.parquet"), compression="zstd")
        first = rows // 2
        query = f"select sum(value), count(*) from {{table}} where id between {first} and {first + rows // 100}"
        peer = pa.dataset.dataset(path("pyarrow.arrow"), format="ipc")
        connection = duckdb.connect()
        connection.register("peer", peer)
        over_ipc, over_parquet = "DuckDB, pyarrow.dataset over IPC", "DuckDB, Parquet"
        return Scenario(
            f"1 % of a sorted file of {rows:,} rows, {compression}",
            {
                "aljava.sql": lambda: aljava.sql(query.format(table=f"'{address}'")).fetchall(),
                over_ipc: lambda: connection.execute(query.format(table="peer")).fetchall(),
                over_parquet: lambda: connection.execute(query.format(table=f"'{path('sorted.parquet')}'")).fetchall(),
            },
            targets={over_ipc: targets[0], over_parquet: targets[1]},
        )

    def to_a_file() -> Scenario:
        megabytes = 100 if quick else 5000
        facts: dict[str, dict[str, float]] = {}

        def write() -> dict[str, Any]:
            done = in_fresh_process("bench.peak_of_sql", str(megabytes), path("result.arrow"))
            facts["aljava.write(aljava.sql(…))"] = {"peak": done["peak"]}
            return done

        return Scenario(
            f"{megabytes / 1000:g} GB of result to a file",
            {"aljava.write(aljava.sql(…))": write},
            facts=facts,
            rounds=1,
        )

    def whole_command() -> Scenario:
        table = notebook(1_000_000)
        arrow, parquet = path("command.arrow"), path("command.parquet")
        aljava.write(table, arrow)
        duckdb.from_arrow(table).write_parquet(parquet)
        scripts = sysconfig.get_path("scripts")
        # Bytecode is written when a package is installed; a checkout writes it in the round that does not count.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

        def command(*words: str) -> Callable[[], Any]:
            return lambda: subprocess.run(words, check=True, capture_output=True, env=environment)

        peer = shutil.which("duckdb", path=scripts) or shutil.which("duckdb")
        floor = "python -c 'import pyarrow'"
        return Scenario(
            "first result of a whole command",
            {
                "aljava sql": command(f"{scripts}/aljava", "sql", f"select count(*) from '{arrow}'"),
                floor: command(sys.executable, "-c", "import pyarrow"),
                "duckdb -c, Parquet": peer and command(peer, "-c", f"select count(*) from '{parquet}'"),
            },
            floors=(floor,),
            why="`aljava` is Python, which has to start and to import pyarrow and DuckDB; `duckdb` is one program.",
        )

    return {
        "tpch-1": lambda: tpch("1", Q1),
        "tpch-6": lambda: tpch("6", Q6),
        "one-percent-raw": lambda: one_percent("none", (15, 1)),
        "one-percent-zstd": lambda: one_percent("zstd", (10, 0.8)),
        "result-to-a-file": to_a_file,
        "command": whole_command,
    }
