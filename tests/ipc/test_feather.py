"""The calls of `pyarrow.feather`, with its meaning. pyarrow's own tests of them are run in `test_pyarrow_suite`."""

import io
import os
import resource
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from aljava import feather
from aljava.errors import InvalidData, InvalidOption, NotFound

TABLE = pa.table({"a": np.arange(100_000), "b": ["x", "y"] * 50_000, "c": np.arange(100_000) / 3})


@pytest.mark.parametrize("compression", [None, "lz4", "zstd", "uncompressed"])
@pytest.mark.parametrize("memory_map", [False, True])
def test_both_sides_read_what_the_other_wrote(tmp_path: Path, compression: str | None, memory_map: bool) -> None:
    ours, theirs = tmp_path / "ours.feather", tmp_path / "theirs.feather"
    feather.write_feather(TABLE, ours, compression=compression)
    pyarrow.feather.write_feather(TABLE, theirs, compression=compression)
    for path in (ours, theirs):
        assert pyarrow.feather.read_table(path) == TABLE
        assert feather.read_table(path, memory_map=memory_map) == TABLE
        assert feather.read_table(str(path), columns=["c", "a"], memory_map=memory_map) == TABLE.select(["c", "a"])
        assert feather.read_table(path, columns=[2, 0, 2], memory_map=memory_map) == TABLE.select([2, 0, 2])
        assert feather.read_table(path, columns=[]).num_columns == 0
    assert pa.ipc.open_file(ours).num_record_batches == pa.ipc.open_file(theirs).num_record_batches == 2


def test_frames_keep_their_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, None], "b": ["x", "y"]}, index=pd.Index([3, 4], name="i"))
    feather.write_feather(frame, tmp_path / "f", compression="zstd", compression_level=9)
    pd.testing.assert_frame_equal(feather.read_feather(tmp_path / "f"), frame)
    pd.testing.assert_frame_equal(pd.read_feather(tmp_path / "f"), frame)


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_is_replaced_in_one_step_or_not_at_all(tmp_path: Path, version: int) -> None:
    path = tmp_path / "trades.feather"
    feather.write_feather(TABLE, path, compression="uncompressed")
    mapped = feather.read_table(path, memory_map=True)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            feather.write_feather(TABLE, path, version=version)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(tmp_path) == [path.name]
    assert feather.read_table(path) == TABLE
    feather.write_feather(TABLE.slice(0, 10), path, version=version)
    assert feather.read_table(path) == TABLE.slice(0, 10)
    assert mapped == TABLE


def test_what_is_no_file_is_written_to_as_it_is() -> None:
    feather.write_feather(TABLE, "/dev/null")


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
def test_version_1_is_read_and_written(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    feather.write_feather(TABLE, str(ours), version=1)
    pyarrow.feather.write_feather(TABLE, str(theirs), version=1)
    assert ours.read_bytes() == theirs.read_bytes()
    assert feather.read_table(theirs) == TABLE
    assert feather.read_table(io.BytesIO(theirs.read_bytes()), columns=["b"]) == TABLE.select(["b"])


def version_1(**changes: int | None) -> bytes:
    """A file of one category of four values, two of them null, as another writer would make it; with changes."""
    flatbuffers = pytest.importorskip("flatbuffers")
    it = {"type": 1, "offset": 8, "length": 4, "nulls": 1, "total": 16, "levels_type": 11, "levels_length": 2}
    it |= {
        "kind": 1,
        "details": 1,
        "levels": 1,
        "name": 1,
        "columns": 1,
        "unit": None,
        "tail": 0,
        "codes": 0x0D,
    } | changes
    build = flatbuffers.Builder(0)

    def values(type_: int, offset: int, length: int, nulls: int, total: int) -> int:
        build.StartObject(6)
        build.PrependInt8Slot(0, type_, -1)
        for slot, number in enumerate((offset, length, nulls, total), 2):
            build.PrependInt64Slot(slot, number, -1)
        return build.EndObject()

    name = build.CreateString("c")
    levels = values(it["levels_type"], 24, it["levels_length"], 0, 24)
    build.StartObject(2)
    if it["unit"] is not None:
        build.PrependInt8Slot(0, it["unit"], -1)
    elif it["levels"]:
        build.PrependUOffsetTRelativeSlot(0, levels, 0)
    details = build.EndObject()
    codes = values(it["type"], it["offset"], it["length"], it["nulls"], it["total"])
    build.StartObject(5)
    if it["name"]:
        build.PrependUOffsetTRelativeSlot(0, name, 0)
    build.PrependUOffsetTRelativeSlot(1, codes, 0)
    build.PrependUint8Slot(2, it["kind"], 0)
    if it["details"]:
        build.PrependUOffsetTRelativeSlot(3, details, 0)
    column = build.EndObject()
    build.StartVector(4, 1, 4)
    build.PrependUOffsetTRelative(column)
    columns = build.EndVector()
    build.StartObject(5)
    build.PrependInt64Slot(1, 4, 0)
    if it["columns"]:
        build.PrependUOffsetTRelativeSlot(2, columns, 0)
    build.PrependInt32Slot(3, 2, 0)
    build.Finish(build.EndObject())
    metadata = bytes(build.Output())
    body = b"FEA1" + bytes(4)
    body += bytes([it["codes"]]) + bytes(7) + bytes([0, 9, 1, 0]) + bytes(4)  # codes: all but the second are there
    body += struct.pack("<3i4x", 0, 1, 3) + b"xyz" + bytes(5)  # "x" and "yz"
    return body + metadata + (len(metadata) + it["tail"]).to_bytes(4, "little") + b"FEA1"


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codes": 0x0F}, "cannot be read: Column 0"),
        ({"tail": 1 << 20}, "its metadata claims"),
        ({"tail": -16}, "points outside itself|damaged"),
        ({"columns": 0}, "names no columns"),
        ({"name": 0}, "a column without name or values"),
        ({"kind": 9}, "a column of kind 9 with details"),
        ({"details": 0}, "a column of kind 1 without details"),
        ({"levels": 0}, "a category without levels"),
        ({"type": 9}, "a category without levels, or whose codes are no integers"),
        ({"kind": 2, "unit": 7}, "a unit of time of number 7"),
        ({"type": 99}, "values of type 99"),
        ({"levels_type": 99}, "values of type 99"),
        ({"offset": 1 << 40}, "in 16 bytes at offset"),
        ({"nulls": 5}, "4 values, 5 of them null"),
        ({"length": -2}, "-2 values"),
        ({"length": 1 << 40}, "do not fit into 16 bytes"),
        ({"levels_length": 1 << 40}, "do not fit into 24 bytes"),
    ],
    ids=str,
)
def test_version_1_is_looked_at_before_it_is_read(changes: dict[str, int], words: str) -> None:
    """pyarrow's own reader believes all of it, and reads memory that is not the file's."""
    sound = version_1()
    expected = ["x", None, "yz", "x"]
    assert pyarrow.feather.read_table(io.BytesIO(sound))["c"].to_pylist() == expected
    assert feather.read_table(io.BytesIO(sound))["c"].to_pylist() == expected
    with pytest.raises(InvalidData, match=words):
        feather.read_table(io.BytesIO(version_1(**changes)))
    for cut in (1, 9, len(sound) - 1):
        with pytest.raises(InvalidData):
            feather.read_table(io.BytesIO(sound[:-cut]))


def test_several_files_are_one_table(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        feather.write_feather(TABLE, path)
    assert feather.FeatherDataset(paths).read_table(["a"]) == pa.concat_tables([TABLE.select(["a"])] * 3)
    frame = feather.FeatherDataset(paths).read_pandas(["b", "a"])
    pd.testing.assert_frame_equal(frame, pd.concat([TABLE.select(["b", "a"]).to_pandas()] * 3, ignore_index=True))
    feather.write_feather(TABLE.select(["a"]), paths[1])
    with pytest.raises(ValueError, match="different"):
        feather.FeatherDataset(paths).read_table()


def test_what_is_wrong_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with pytest.raises(NotFound):
        feather.read_table(path)
    for wrong in ({"compression": "snappy"}, {"compression": "zstd", "compression_level": 99}, {"version": 3}):
        with pytest.raises(InvalidOption):
            feather.write_feather(TABLE, path, **wrong)
    with pytest.raises(ValueError, match="at least 1"):
        feather.write_feather(TABLE, path, chunksize=-1)
    assert not path.exists()
    path.write_bytes(b"no feather at all")
    with pytest.raises(InvalidData):
        feather.read_table(path)
    feather.write_feather(pa.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(ValueError, match="more than one"):
        feather.read_table(path, columns=["a"])
    with pytest.raises(ValueError, match="no column"):
        feather.read_table(path, columns=["b"])
    with pytest.raises(TypeError):
        feather.read_table(path, columns=["a", 1])
