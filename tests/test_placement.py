"""Where buffers lie: told by their addresses, and by what the kernel says is mapped."""

from pathlib import Path

import pyarrow as pa

import aljava
from aljava.placement import mapped_ranges, placement, span


def stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


TABLE = pa.table(
    {
        "id": pa.array([1, None, 3]),
        "text": ["a", "b", "c"],
        "category": pa.array(["x", "y", "x"]).dictionary_encode(),
        "nothing": pa.nulls(3),
    }
)


def test_what_is_read_in_place_lies_in_the_bytes_and_a_copy_does_not() -> None:
    content = stream(TABLE)
    found = pa.ipc.open_stream(content).read_all()
    lie = placement(found, [span(content)])
    assert lie.all_inside
    # Validity and values of id; offsets and values of text; indices, and offsets and values of their dictionary.
    assert lie.buffers == 7
    assert lie.columns_inside == ("id", "text", "category", "nothing")

    copied = found.set_column(0, "id", pa.array([1, None, 3]))
    lie = placement(copied, [span(content)])
    assert (lie.buffers, lie.buffers_inside) == (7, 5)
    assert lie.columns_inside == ("text", "category", "nothing")


def test_a_dictionary_that_was_copied_is_seen() -> None:
    content = stream(TABLE.select(["category"]))
    column = pa.ipc.open_stream(content).read_all().column(0).chunk(0)
    copied = pa.DictionaryArray.from_arrays(column.indices, pa.array(["x", "y"]))
    assert placement(pa.table({"category": copied}), [span(content)]).columns_inside == ()


def test_the_kernel_knows_which_files_are_mapped(tmp_path: Path) -> None:
    path = str(tmp_path / "mapped.arrow")
    aljava.write(pa.concat_tables([TABLE] * 5_000).combine_chunks(), path, compression="none")
    assert mapped_ranges(path) == []
    found = aljava.read(path)
    assert placement(found, mapped_ranges(path)).all_inside
    with open(path, "rb") as file:
        elsewhere = aljava.read(file.read())
    assert placement(elsewhere, mapped_ranges(path)).columns_inside == ("nothing",)
    del found
    assert mapped_ranges(path) == []
