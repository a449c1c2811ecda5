"""The calls of `pyarrow.feather`, with its meaning. pyarrow's own tests of them are run in `test_pyarrow_suite`."""

import io
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
def test_version_1_is_read_and_written(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    feather.write_feather(TABLE, str(ours), version=1)
    pyarrow.feather.write_feather(TABLE, str(theirs), version=1)
    assert ours.read_bytes() == theirs.read_bytes()
    assert feather.read_table(theirs) == TABLE
    assert feather.read_table(io.BytesIO(theirs.read_bytes()), columns=["b"]) == TABLE.select(["b"])


def test_several_files_are_one_table(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        feather.write_feather(TABLE, path)
    assert feather.FeatherDataset(paths).read_table(["a"]) == pa.concat_tables([TABLE.select(["a"])] * 3)
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
