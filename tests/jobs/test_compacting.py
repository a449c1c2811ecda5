"""Compacting: every row once, in order; the same bytes everywhere; only what changed; nothing damaged passed on."""

import hashlib
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

import aljava
from aljava import jobs
from aljava.errors import InvalidOption, JobError, QueryError, SchemaMismatch, TruncatedFile, UnsupportedType
from aljava.jobs import gathering
from aljava.jobs.sources import listed


@pytest.fixture
def threads():
    with jobs.executor_for("threads", 2) as executor:
        yield executor


def outputs(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.startswith("compacted"))


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in outputs(folder)}


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables([aljava.read(folder / name) for name in outputs(folder)])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Sixty files of 0 to 590 rows, of a number that counts up, a word and a day."""
    folder, rng, row = tmp_path / "small", np.random.default_rng(7), 0
    for number in range(60):
        rows = number * 10
        table = pa.table(
            {
                "row": np.arange(row, row + rows),
                "word": pa.array(rng.choice(["x", "y", "flecha"], rows), pa.string()),
                "day": rng.integers(0, 9, rows),
            }
        )
        row += rows
        folder.mkdir(exist_ok=True)
        aljava.write(table, folder / f"{number:02}.arrow", compression=("auto", "none", "lz4")[number % 3])
    return folder


ROWS = sum(number * 10 for number in range(60))


def test_rows_keep_their_order_in_few_files(small: Path, tmp_path: Path, threads) -> None:
    done = jobs.compact(small, tmp_path / "out", size=30_000, executor=threads)
    assert (done.done, done.failed, done.rows) == (60, 0, ROWS)
    names = outputs(tmp_path / "out")
    assert 2 <= len(names) <= 8
    assert rows_of(tmp_path / "out")["row"].to_pylist() == list(range(ROWS))
    assert all(aljava.verify(tmp_path / "out" / name).ok for name in names)
    for name in names[:-1]:
        assert 10_000 < (tmp_path / "out" / name).stat().st_size < 60_000
    by_source = {row["source"]: row for row in done.table.to_pylist()}
    assert by_source[str(small / "07.arrow")]["rows"] == 70
    assert {row["output"] for row in by_source.values()} == set(names)


def test_every_format_is_read_and_folders_of_partitions_stay(mixed: Path, tmp_path: Path, table: pa.Table, threads):
    (mixed / "d.csv.gz").rename(mixed / "year=2025" / "d.csv.gz")
    done = jobs.compact(mixed, tmp_path / "out", executor=threads)
    assert (done.done, done.failed, done.rows) == (6, 0, 120_000)
    assert outputs(tmp_path / "out") == ["compacted-00000.arrow", "year=2025/compacted-00000.arrow"]
    found = aljava.read(tmp_path / "out")
    assert found.schema.names == ["id", "name", "year"]
    assert found.group_by("year").aggregate([("id", "sum")]).num_rows == 2
    assert aljava.read(tmp_path / "out/compacted-00000.arrow").slice(0, 20_000).equals(table)


def test_sorted_by_a_column_zones_separate(small: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    rng = np.random.default_rng(7)
    for number in range(20):
        days = rng.integers(0, 1000, 20_000)
        aljava.write({"day": days, "row": np.arange(20_000) + number * 20_000}, f"{big}/{number:02}.arrow")
    done = jobs.compact(big, tmp_path / "out", size=300_000, sort_by="day")
    assert done.ok
    assert len(outputs(tmp_path / "out")) > 3
    assert outputs(tmp_path / "out")[:2] == ["compacted-00000.arrow", "compacted-00001.arrow"]
    everything = aljava.read(big)
    order = np.lexsort([everything["row"], everything["day"]])
    assert rows_of(tmp_path / "out").equals(everything.take(order))
    import pyarrow.compute as pc

    survey = aljava.open(tmp_path / "out").explain(pc.field("day") == 500)
    assert survey.batches > 8
    assert survey.batches_read <= 2


@pytest.mark.parametrize("sort_by", [None, "day", ["word", "day"]], ids=str)
def test_every_executor_makes_the_same_bytes(small: Path, tmp_path: Path, dask, sort_by) -> None:
    found = {}
    for engine in ("threads", "processes"):
        with jobs.executor_for(engine, 2) as executor:
            done = jobs.compact(small, tmp_path / engine, size=60_000, sort_by=sort_by, executor=executor)
        assert done.ok, done
        found[engine] = digests(tmp_path / engine)
    with jobs.executor_for("dask" + dask.scheduler_address.removeprefix("tcp")) as executor:
        assert jobs.compact(small, tmp_path / "dask", size=60_000, sort_by=sort_by, executor=executor).ok
    found["dask"] = digests(tmp_path / "dask")
    assert len(found["dask"]) > 1
    assert found["threads"] == found["processes"] == found["dask"]


@pytest.mark.parametrize("sort_by", [None, "row"], ids=str)
def test_started_again_it_does_what_has_changed_and_no_row_is_there_twice(small, tmp_path, threads, sort_by) -> None:
    out = tmp_path / "out"

    def again(**changes):
        done = jobs.compact(small, out, **{"size": 60_000, "sort_by": sort_by, "executor": threads, **changes})
        rows = sorted(rows_of(out)["row"].to_pylist())
        assert rows == sorted(aljava.read(small)["row"].to_pylist())
        return done

    first, before = again(), digests(out)
    assert first.done == 60
    second = again()
    assert (second.done, second.kept) == (0, 60)
    assert digests(out) == before

    # An output that is gone is made again, and nothing else.
    (out / outputs(out)[1]).unlink()
    third = again()
    assert digests(out) == before
    assert third.kept == (0 if sort_by else 60 - third.done)
    assert third.done < 60 or sort_by

    # A file that has changed, one that is new, most that are gone.
    aljava.write({"row": [1_000_000], "word": ["new"], "day": [1]}, small / "59.arrow")
    changed = again()
    assert changed.done > 0
    aljava.write({"row": [2_000_000], "word": ["new"], "day": [1]}, small / "60.arrow")
    again()
    for number in range(10, 55):
        (small / f"{number}.arrow").unlink()
    again()
    shutil.rmtree(out)
    again()
    # Without its manifest the job begins anew, in a target that is its own.
    (out / "_manifest.arrow").unlink()
    (out / "compacted-00099.arrow").write_bytes((out / "compacted-00000.arrow").read_bytes())
    (out / "mine.arrow").write_bytes((out / "compacted-00000.arrow").read_bytes())
    again()
    assert (out / "mine.arrow").exists()
    with pytest.raises(JobError, match="manifest of another job: its size was 60000, and now it is 70000"):
        again(size=70_000)
    again()


def test_sources_that_differ_are_an_error_before_any_work(small: Path, tmp_path: Path, threads) -> None:
    # The order of columns, and types that cast, do not matter.
    odd = pa.table({"day": pa.array([1], pa.int8()), "word": pa.array(["z"]).dictionary_encode(), "row": [-1]})
    aljava.write(odd, small / "70.arrow")
    assert jobs.compact(small, tmp_path / "fits", executor=threads).ok
    assert rows_of(tmp_path / "fits")["row"].to_pylist()[-1] == -1
    for number, columns, said in (
        (71, {"row": [1], "word": ["a"], "day": ["monday"]}, r"column 'day' is string in .*71.arrow and int64 in .*00"),
        (72, {"row": [1], "word": ["a"]}, r"72.arrow has no column 'day'; .*00.arrow has row, word, day"),
        (73, {"row": [1], "word": ["a"], "day": [1], "x": [1]}, r"73.arrow has a column 'x'"),
    ):
        aljava.write(columns, small / f"{number}.arrow")
        for sort_by in (None, "day"):
            with pytest.raises(SchemaMismatch, match=said):
                jobs.compact(small, tmp_path / "out", sort_by=sort_by, executor=threads)
        (small / f"{number}.arrow").unlink()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sort_by", [None, "day"], ids=str)
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_bad_source_is_left_out_as_a_whole_and_named(small, tmp_path, sort_by, large, monkeypatch) -> None:
    threads = ThreadPoolExecutor(2)
    if large:
        monkeypatch.setattr(gathering, "LARGE", 0)
    content = bytearray((small / "50.arrow").read_bytes())
    # Raw, so that nothing but the checksum tells.
    assert aljava.open(small / "50.arrow").num_batches == 1
    aljava.write(aljava.read(small / "50.arrow"), small / "50.arrow", compression="none")
    content = bytearray((small / "50.arrow").read_bytes())
    content[2000] ^= 1
    (small / "50.arrow").write_bytes(content)
    (small / "51.arrow").write_bytes((small / "51.arrow").read_bytes()[:-30])
    (small / "52.csv").write_text("row,word,day\n1,a,2\nb,c\n")
    (small / "53.parquet").write_text("PAR1 no PAR1")
    for _ in range(2):
        done = jobs.compact(small, tmp_path / "out", sort_by=sort_by, executor=threads)
        assert (done.done, done.failed) == (58, 4)
    reasons = {Path(row["source"]).name: row["reason"] for row in done.failures.to_pylist()}
    assert "checksum" in reasons["50.arrow"]
    assert "has no footer" in reasons["51.arrow"]
    assert "52.csv" in reasons["52.csv"]
    bad = [number for number in range(60) if number not in (50, 51)]
    expected = sorted(row for number in bad for row in aljava.read(small / f"{number:02}.arrow")["row"].to_pylist())
    assert sorted(rows_of(tmp_path / "out")["row"].to_pylist()) == expected
    # Mended, they are taken in.
    for name in ("50.arrow", "51.arrow", "52.csv", "53.parquet"):
        (small / name).unlink()
    assert jobs.compact(small, tmp_path / "out", sort_by=sort_by, executor=threads).ok


def test_one_large_source_is_cut(tmp_path: Path, threads) -> None:
    (tmp_path / "in").mkdir()
    aljava.write({"row": np.arange(400_000), "x": np.random.default_rng(7).random(400_000)}, f"{tmp_path}/in/a.arrow")
    aljava.write({"row": [400_000], "x": [0.5]}, f"{tmp_path}/in/b.arrow")
    done = jobs.compact(tmp_path / "in", tmp_path / "out", size=1_000_000, executor=threads)
    assert done.ok
    names = outputs(tmp_path / "out")
    assert names[:2] == ["compacted-00000.arrow", "compacted-00000_001.arrow"]
    assert names[-1] == "compacted-00001.arrow"
    assert rows_of(tmp_path / "out")["row"].to_pylist() == list(range(400_001))
    assert jobs.compact(tmp_path / "in", tmp_path / "out", size=1_000_000, executor=threads).kept == 2


def test_sources_without_rows_make_a_file_without_rows(tmp_path: Path, threads) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        aljava.write(pa.schema([("a", pa.int64())]).empty_table(), f"{tmp_path}/in/{name}.arrow")
    for sort_by in (None, "a"):
        assert jobs.compact(tmp_path / "in", f"{tmp_path}/out-{sort_by}", sort_by=sort_by, executor=threads).ok
        assert aljava.read(f"{tmp_path}/out-{sort_by}/compacted-00000.arrow").schema.names == ["a"]


def test_what_cannot_be_meant_is_said_at_once(small: Path, tmp_path: Path, threads) -> None:
    for options, kind, said in (
        ({"size": 0}, InvalidOption, "at least 1 byte"),
        ({"memory": 1}, InvalidOption, "at least 67,108,864 bytes"),
        ({"compression": "fast"}, InvalidOption, "fast"),
        ({"sort_by": "nothing"}, QueryError, "no column 'nothing' to sort by; there are row, word, day"),
    ):
        with pytest.raises(kind, match=said):
            jobs.compact(small, tmp_path / "out", executor=threads, **options)
    for target in (small, small / "out"):
        with pytest.raises(InvalidOption, match="where the sources are"):
            jobs.compact(small, target, executor=threads)
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    (tmp_path / "union").mkdir()
    aljava.write(pa.table({"a": [1], "u": union}), tmp_path / "union" / "a.arrow")
    with pytest.raises(UnsupportedType, match="column 'u'"):
        jobs.compact(tmp_path / "union", tmp_path / "out", sort_by="a", executor=threads)
    assert jobs.compact(tmp_path / "union", tmp_path / "out", executor=threads).ok


def test_names_are_taken_as_they_are(tmp_path: Path, threads) -> None:
    folder = tmp_path / "in"
    for number, name in enumerate(sorted([" a b", "a\nb", "a%20b", "a#b", "a?b", "ção", "[x]", "*", "\udcff"])):
        (folder / name).mkdir(parents=True)
        aljava.write({"row": [number]}, folder / name / f"{name}.arrow")
    done = jobs.compact(folder, tmp_path / "out", executor=threads)
    assert (done.done, done.failed) == (9, 0), done
    assert sorted(rows_of(tmp_path / "out")["row"].to_pylist()) == list(range(9))
    assert jobs.compact(folder, tmp_path / "out", executor=threads).kept == 9


def test_a_sorted_job_that_fails_leaves_no_part_of_the_rows(small: Path, tmp_path: Path, threads) -> None:
    # Where the second output would go something stands in the way, and may not be removed.
    in_the_way = tmp_path / "out/compacted-00001.arrow"
    (in_the_way / "kept").mkdir(parents=True)
    done = jobs.compact(small, tmp_path / "out", size=60_000, sort_by="day", executor=threads)
    assert not done.ok
    assert outputs(tmp_path / "out") == [in_the_way.name]
    shutil.rmtree(in_the_way)
    again = jobs.compact(small, tmp_path / "out", size=60_000, sort_by="day", executor=threads)
    assert again.ok
    assert len(outputs(tmp_path / "out")) > 1


def test_a_manifest_in_which_nothing_is_done_binds_nobody(small: Path, tmp_path: Path, threads) -> None:
    assert jobs.convert(small, tmp_path / "out", columns=["nope"], executor=threads).done == 0
    assert jobs.convert(small, tmp_path / "out", executor=threads).ok
    with pytest.raises(JobError, match="manifest of another job: its columns"):
        jobs.convert(small, tmp_path / "out", columns=["day"], executor=threads)


def test_damaged_files_without_checksums_are_found_one_by_one(tmp_path: Path, threads) -> None:
    """Their batches are decoded in one go; where that fails each file is opened for itself."""
    (tmp_path / "in").mkdir()
    words = pa.table({"word": ["flecha", "x", "yy"] * 20})
    for number in range(8):
        codec = "lz4" if number % 2 else "uncompressed"
        pyarrow.feather.write_feather(words, tmp_path / "in" / f"{number}.feather", compression=codec, chunksize=30)
    for number, damage in ((2, b"\xff\xff\xff\x7f" * 2), (3, b"\xff" * 8), (4, None)):
        path = tmp_path / "in" / f"{number}.feather"
        content = bytearray(path.read_bytes())
        block = aljava.ipc.open_file(path).footer.batches[0]
        at = block.offset if damage is None else block.offset + block.metadata_length
        damage = damage or bytes(8)
        content[at : at + len(damage)] = damage
        path.write_bytes(content)
    done = jobs.compact(tmp_path / "in", tmp_path / "out", executor=threads)
    assert sorted(Path(source).name for source in done.failures["source"].to_pylist()) == [
        f"{number}.feather" for number in (2, 3, 4)
    ]
    assert rows_of(tmp_path / "out")["word"].to_pylist() == words["word"].to_pylist() * 5


def test_batches_come_in_the_order_of_the_footer(tmp_path: Path, threads) -> None:
    """Which need not be that of their bytes."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        with pa.ipc.new_file(tmp_path / "in" / f"{number}.arrow", pa.schema([("n", pa.int64())])) as writer:
            writer.write_batch(pa.record_batch({"n": [1]}))
            writer.write_batch(pa.record_batch({"n": [2]}))
    path = tmp_path / "in" / "1.arrow"
    content = path.read_bytes()
    first, second = (
        struct.pack("<qi4xq", block.offset, block.metadata_length, block.body_length)
        for block in aljava.ipc.open_file(path).footer.batches
    )
    path.write_bytes(content.replace(first + second, second + first))
    assert aljava.read(path)["n"].to_pylist() == [2, 1]
    assert jobs.compact(tmp_path / "in", tmp_path / "out", executor=threads).ok
    assert rows_of(tmp_path / "out")["n"].to_pylist() == [1, 2, 2, 1, 1, 2]


def test_a_schema_of_many_kilobytes(tmp_path: Path, threads) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        aljava.write({f"column_{column}": [number] for column in range(300)}, tmp_path / "in" / f"{number}.arrow")
    assert jobs.compact(tmp_path / "in", tmp_path / "out", executor=threads).rows == 5
    assert rows_of(tmp_path / "out")["column_299"].to_pylist() == [0, 1, 2, 3, 4]


def test_nothing_that_can_be_read(tmp_path: Path, threads) -> None:
    (tmp_path / "in").mkdir()
    for number in range(25):
        (tmp_path / "in" / f"{number:02}.arrow").write_bytes(b"ARROW1\0\0 and no more")
    with pytest.raises(TruncatedFile, match=r"00\.arrow has no footer"):
        jobs.compact(tmp_path / "in", tmp_path / "out", executor=threads)
    done = jobs.verify(tmp_path / "in", executor=threads)
    assert (done.failed, done.ok) == (25, False)
    assert str(done).endswith("and 5 more: see .failures")
    assert "and 5 more" in done._repr_html_()


def test_a_source_that_goes_before_it_is_read(small: Path, tmp_path: Path, threads) -> None:
    listing = list(listed(small))
    (small / "07.arrow").unlink()
    done = jobs.compact(iter(listing), tmp_path / "out", executor=threads)
    (failure,) = done.failures.to_pylist()
    assert failure["source"] == str(small / "07.arrow")
    assert "does not exist" in failure["reason"]
    assert done.rows == ROWS - 70
    (small / "07.arrow").write_bytes((small / "08.arrow").read_bytes())
    assert "<table" not in jobs.compact(small, tmp_path / "whole", executor=threads)._repr_html_()


def test_tables_of_a_store(tmp_path: Path, threads) -> None:
    with aljava.Store("compacted") as store:
        store["a"], store["b"] = pa.table({"n": [1, 2]}), pa.table({"n": [3]})
        done = jobs.compact(["shm://compacted/a", "shm://compacted/b"], tmp_path / "out", executor=threads)
        store.destroy()
    assert (done.ok, done.rows) == (True, 3)
    assert rows_of(tmp_path / "out")["n"].to_pylist() == [1, 2, 3]


def test_dictionaries_that_together_have_more_values_than_indices_can_tell(tmp_path: Path, threads) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        words = pa.array([f"{number}-{word}" for word in range(100)]).dictionary_encode()
        narrow = pa.DictionaryArray.from_arrays(words.indices.cast(pa.int8()), words.dictionary)
        aljava.write({"word": narrow}, tmp_path / "in" / f"{number}.arrow")
    with pytest.raises(SchemaMismatch, match="hold 200 values together; its int8 indices count to 127"):
        jobs.compact(tmp_path / "in", tmp_path / "out", executor=threads)
    with pytest.raises(SchemaMismatch, match="hold 200 values together"):
        aljava.write(aljava.open(tmp_path / "in"), tmp_path / "whole.arrow")
    assert not (tmp_path / "whole.arrow").exists()


def test_a_large_damaged_file_before_many_small_ones(small: Path, tmp_path: Path, threads, monkeypatch) -> None:
    monkeypatch.setattr(gathering, "LARGE", 20_000)
    monkeypatch.setattr(gathering, "GROUP_SOURCES", 2)
    aljava.write(pa.table({"row": range(100_000), "word": ["x"] * 100_000, "day": [1] * 100_000}), small / "!.arrow")
    content = bytearray((small / "!.arrow").read_bytes())
    content[-30_000] ^= 1
    (small / "!.arrow").write_bytes(content)
    done = jobs.compact(small, tmp_path / "out", executor=threads)
    assert [Path(source).name for source in done.failures["source"].to_pylist()] == ["!.arrow"]
    assert rows_of(tmp_path / "out")["row"].to_pylist() == list(range(ROWS))
