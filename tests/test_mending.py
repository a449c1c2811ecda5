"""Verify finds what has changed; repair saves what is whole."""

import os
import random
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

import aljava
from aljava.errors import InvalidData, TruncatedFile
from aljava.ipc.checksums import KEY as CHECKSUMS_KEY
from aljava.ipc.zones import KEY as ZONES_KEY
from tests.test_append import part
from tests.types import arrays

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(params=["none", "zstd", "auto"])
def path(request, tmp_path):
    where = tmp_path / "table.arrow"
    aljava.write(part(0), where, compression=request.param, batch_rows=1000, metadata={"author": "Ana"})
    aljava.append(part(1), where, compression=request.param, batch_rows=2000)
    return where


def test_sound_files(path, tmp_path) -> None:
    verification = aljava.verify(path)
    assert verification.findings == ()
    assert verification.ok
    assert (verification.batches, verification.rows) == (9, 12_000)
    assert verification.bytes == path.stat().st_size
    table = aljava.read(path)
    with pa.ipc.new_file(tmp_path / "theirs.arrow", table.schema) as writer:
        writer.write_table(table.unify_dictionaries())
    with pa.ipc.new_stream(tmp_path / "theirs.arrows", table.schema) as writer:
        writer.write_table(table)
    pyarrow.parquet.write_table(table, tmp_path / "theirs.parquet")
    for name in ("theirs.arrow", "theirs.arrows", "theirs.parquet"):
        verification = aljava.verify(tmp_path / name)
        assert verification.findings == ()
        assert not verification.checksums
        assert verification.rows == 12_000


@pytest.mark.long
def test_every_flipped_bit_is_found(path) -> None:
    content = path.read_bytes()
    dice = random.Random(str(path.name) + str(len(content)))
    # The ends hold what no checksum of a message covers: all bits of their bytes get their chance.
    places = [dice.randrange(len(content) * 8) for _ in range(250)]
    places += [dice.randrange(800 * 8) for _ in range(50)]
    places += [len(content) * 8 - 1 - dice.randrange(4000 * 8) for _ in range(100)]
    missed = []
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        if aljava.verify(bytes(damaged)).ok:
            missed.append(place)
    assert missed == []


def _numbers(low: int, high: int) -> pa.Table:
    return pa.table({"id": pa.array(range(low, high), pa.int64())})


_NOT_A_NUMBER = pa.table({"id": [*map(float, range(9_999)), float("nan")]})


@pytest.mark.parametrize(
    ("table", "said", "words"),
    [
        (_numbers(0, 10_000), _numbers(5, 10_005), "values lie outside of the least and the greatest"),
        (_numbers(0, 10_000), pa.table({"id": [*range(9_999), None]}), "1 nulls, and there are 0"),
        (_numbers(0, 10_000), _numbers(0, 9_000), "statistics of 9,000 rows of batch 0, which has 10,000"),
        (_numbers(0, 10_000), _numbers(0, 20_000), "statistics of record batch 1, and there are 1"),
        (_NOT_A_NUMBER, pa.table({"id": [*map(float, range(10_000))]}), "bounds where there is a NaN"),
    ],
    ids=["bounds", "nulls", "rows", "batches", "NaN"],
)
def test_statistics_that_lie(tmp_path, table, said, words) -> None:
    """Not a flipped bit but a wrong writer: everything is consistent, and the statistics are not true."""
    from aljava.ipc.checksums import FOOTER_KEY, footer_digest
    from aljava.ipc.message import schema_metadata
    from aljava.ipc.metadata import encode_footer
    from aljava.ipc.zones import KEY

    path, other = tmp_path / "table.arrow", tmp_path / "other.arrow"
    aljava.write(table, path, compression="none", batch_rows=10_000)
    aljava.write(said, other, compression="none", batch_rows=10_000)
    content = path.read_bytes()
    footer = aljava.ipc.open_file(path).footer
    lie = aljava.ipc.open_file(other).footer.value(KEY)
    entries = [(key, lie if key == KEY else value) for key, value in footer.metadata if key != FOOTER_KEY]
    entries.append((FOOTER_KEY, footer_digest(entries)))
    start = len(content) - 10 - int.from_bytes(content[-10:-6], "little")
    new = encode_footer(schema_metadata(table.schema.serialize()), footer.dictionaries, footer.batches, entries)
    path.write_bytes(content[:start] + new + len(new).to_bytes(4, "little") + b"ARROW1")
    findings = aljava.verify(path).findings
    assert findings
    assert all("statistics of " in finding.what for finding in findings)
    assert words in findings[0].what
    if "batch 1" in words:
        with pytest.raises(InvalidData, match="its statistics describe record batch 1 of 1"):
            aljava.read(path, filter=pc.field("id") == 15_000)


def test_true_statistics_of_every_type(tmp_path) -> None:
    aljava.write(pa.table(arrays()), tmp_path / "it.arrow", compression="none")
    assert aljava.verify(tmp_path / "it.arrow").findings == ()
    numbers, few = pa.array(range(20_000)), pa.array([number // 200 for number in range(20_000)], pa.int8())
    text = pc.binary_join_element_wise("item ", numbers.cast(pa.string()), "")
    table = pa.table(
        {
            "view": text.cast(pa.string_view()),
            "bytes": text.cast(pa.binary_view()),
            "dictionary": text.dictionary_encode(),
            "duration": numbers.cast(pa.duration("s")),
            "half": pa.array(np.arange(20_000, dtype=np.float16) / 20),
            "decimal": pa.array([Decimal(number) for number in range(20_000)], pa.decimal32(9, 0)),
            "extension": pa.ExtensionArray.from_storage(pa.bool8(), few),
        }
    )
    aljava.write(table, tmp_path / "it.arrow", compression="none", batch_rows=5000)
    assert aljava.verify(tmp_path / "it.arrow").findings == ()
    described = aljava.open(tmp_path / "it.arrow").zones["columns"].type
    assert {field.name for field in described} >= {"view", "dictionary", "duration", "decimal"}


@pytest.mark.parametrize("at", [6, 7])
def test_what_nobody_reads_is_looked_at_too(path, at) -> None:
    content = bytearray(path.read_bytes())
    content[at] = 1
    path.write_bytes(content)
    (finding,) = aljava.verify(path).findings
    assert (finding.kind, finding.what) == ("padding", "the two bytes behind the magic are not zero")


def test_bytes_between_the_messages_and_the_footer(path) -> None:
    """A store leaves some there, to fill a segment; they are zero."""
    content = path.read_bytes()
    footer = len(content) - 10 - int.from_bytes(content[-10:-6], "little")
    for between, expected in ((bytes(64), []), (bytes(63) + b"x", ["padding"])):
        path.write_bytes(content[:footer] + between + content[footer:])
        assert aljava.read(path).num_rows == 12_000
        assert [finding.kind for finding in aljava.verify(path).findings] == expected


class TestRepair:
    def test_a_damaged_footer(self, path) -> None:
        """What can be said of batches depends on what of the footer is still there."""
        content, rows = path.read_bytes(), aljava.read(path).to_pylist()
        footer = aljava.ipc.open_file(path).footer
        start = len(content) - 10 - int.from_bytes(content[-10:-6], "little")
        sums = content.index(footer.value(CHECKSUMS_KEY)[:30], start)
        zones = content.index(footer.value(ZONES_KEY)[:30], start)
        for low, damage, said in [
            (start, os.urandom(len(content) - 10 - start), "the footer is gone"),
            (sums, b"no checksums at all", "the checksums in the footer are damaged"),
            (zones, b"no zones at all", "the footer does not give its own checksum"),
        ]:
            path.write_bytes(content[:low] + damage + content[low + len(damage) :])
            repaired = aljava.repair(path)
            assert said in repaired.unchecked
            assert aljava.read(path).to_pylist() == rows
            assert aljava.verify(path).ok

    def test_no_checksums(self, tmp_path) -> None:
        path = tmp_path / "it.arrow"
        aljava.write(part(0), path, compression="none", batch_rows=1000, checksums=False)
        block = aljava.ipc.open_file(path).footer.batches[2]
        content = bytearray(path.read_bytes())
        content[block.offset : block.end] = bytes(block.end - block.offset)
        path.write_bytes(content)
        repaired = aljava.repair(path)
        assert "carries no checksums" in repaired.unchecked
        assert "1 of the 6 record batches of the footer: not found" in repaired.lost
        assert aljava.read(path).to_pylist() == [*part(0).to_pylist()[:2000], *part(0).to_pylist()[3000:]]

    @pytest.mark.parametrize(("name", "kind"), [("it.arrows", "Arrow IPC stream"), ("it.parquet", "Parquet")])
    def test_what_needs_no_footer(self, tmp_path, name, kind) -> None:
        aljava.write(part(0), tmp_path / "it.arrow")
        with open(tmp_path / "it.arrows", "wb") as sink, pa.ipc.new_stream(sink, part(0).schema) as writer:
            writer.write_table(part(0))
        pyarrow.parquet.write_table(part(0), tmp_path / "it.parquet")
        with pytest.raises(InvalidData, match=f"is {kind} and no IPC file: what is whole of it can be read as it is"):
            aljava.repair(tmp_path / name)

    def test_cut_anywhere(self, path) -> None:
        content, table = path.read_bytes(), aljava.read(path)
        rows = table.to_pylist()
        dice = random.Random(7)
        starts = [block.end for block in aljava.ipc.open_file(path).footer.batches]
        for cut in [*dice.sample(range(len(content)), 30), *starts, len(content) - 1]:
            path.write_bytes(content[:cut])
            whole = sum(end <= cut for end in starts)
            try:
                repaired = aljava.repair(path)
            except InvalidData:
                assert cut < 1200, "the schema was there"
                continue
            assert repaired.batches == whole
            saved = aljava.read(path)
            assert saved.to_pylist() == rows[: saved.num_rows]
            assert saved.num_rows == repaired.rows
            assert pa.ipc.open_file(path).read_all().to_pylist() == rows[: saved.num_rows]
            assert aljava.verify(path).findings == ()
            assert os.listdir(path.parent) == ["table.arrow"]

    def test_a_list_of_batches_that_lies(self, path) -> None:
        content, rows = bytearray(path.read_bytes()), aljava.read(path).to_pylist()
        offset = aljava.ipc.open_file(path).footer.batches[3].offset.to_bytes(8, "little")
        at = content.rindex(offset)
        content[at : at + 8] = bytes(8)
        path.write_bytes(content)
        repaired = aljava.repair(path)
        assert "list of batches" in repaired.unchecked
        assert repaired.lost == ()
        assert aljava.read(path).to_pylist() == rows

    def test_a_message_in_the_middle(self, path) -> None:
        content = bytearray(path.read_bytes())
        blocks = aljava.ipc.open_file(path).footer.batches
        hit = blocks[3].offset + blocks[3].metadata_length + blocks[3].body_length // 2
        content[hit] ^= 255
        path.write_bytes(content)
        repaired = aljava.repair(path, to=path.with_name("saved.arrow"))
        assert repaired.batches == 8
        assert len(repaired.lost) == 1
        assert "checksum" in repaired.lost[0]
        saved = aljava.open(path.with_name("saved.arrow"))
        assert saved.num_rows == 11_000
        assert saved.schema.metadata == {b"source": b"test", b"author": b"Ana"}
        assert aljava.verify(path.with_name("saved.arrow")).findings == ()
        assert path.read_bytes() == bytes(content)

    def test_framing_in_the_middle(self, path) -> None:
        content = bytearray(path.read_bytes())
        block = aljava.ipc.open_file(path).footer.batches[2]
        content[block.offset : block.offset + 16] = os.urandom(16)
        path.write_bytes(content)
        repaired = aljava.repair(path)
        assert repaired.batches == 8
        assert repaired.rows == 11_000
        assert repaired.lost
        assert aljava.verify(path).findings == ()

    def test_nothing_is_silently_wrong(self, path) -> None:
        """Bytes that go, come, move and change: what is kept is what was written, or the report says otherwise."""
        content, saved = path.read_bytes(), path.with_name("saved.arrow")
        file = aljava.ipc.open_file(path)
        batches = [file.get_batch(number).to_pylist() for number in range(file.num_record_batches)]
        blocks = file.footer.batches
        end = len(content) - 10 - int.from_bytes(content[-10:-6], "little")
        dice = random.Random(11)
        unchecked = 0
        for trial in range(int(os.environ.get("ALJAVA_DAMAGES", "60"))):
            damaged = bytearray(content)
            low = dice.randrange(8, end)
            high = min(end, low + dice.choice([1, 8, 100, 2000]))
            if trial % 2:  # whole messages
                block = dice.choice(blocks)
                low, high = block.offset, block.end
            match trial // 2 % 6:
                case 0:
                    del damaged[low:high]
                case 1:
                    damaged[low:low] = content[low:high]
                case 2:
                    damaged[low:high] = bytes(high - low)
                case 3:
                    damaged[low] ^= 1 << dice.randrange(8)
                case 4:
                    to = dice.choice(blocks).offset
                    damaged[to : to + high - low] = content[low:high]
                case 5:
                    damaged[dice.randrange(end, len(content)) :] = b""
            if damaged == content:
                continue
            path.write_bytes(damaged)
            assert not aljava.verify(path).ok
            try:
                repaired = aljava.repair(path, saved)
            except InvalidData:
                assert low < 1200
                continue
            assert aljava.verify(saved).ok
            if repaired.unchecked:
                assert "could not be checked against checksums" in repaired.unchecked
                unchecked += 1
                continue
            if any("schema at the start is another" in lost for lost in repaired.lost):
                continue
            names = [lost.split(" at ")[0].split(",")[0] for lost in repaired.lost]
            kept = [rows for number, rows in enumerate(batches) if f"record batch {number}" not in names]
            found = aljava.ipc.open_file(saved)
            assert [found.get_batch(number).to_pylist() for number in range(found.num_record_batches)] == kept
        assert unchecked

    def test_what_a_dead_pyarrow_writer_left(self, tmp_path) -> None:
        path = tmp_path / "theirs.arrow"
        table = part(0)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
        path.write_bytes(sink.getvalue().to_pybytes()[:-3000])
        with pytest.raises(TruncatedFile, match="complete record batches"):
            aljava.read(path)
        repaired = aljava.repair(path)
        assert repaired.unchecked is not None
        assert aljava.read(path).to_pylist() == table.slice(0, repaired.rows).to_pylist()
        assert repaired.rows >= 4000

    def test_nothing_to_save(self, tmp_path) -> None:
        for content in (b"ARROW1\0\0", b"ARROW1\0\0" + os.urandom(500), b"no table at all"):
            (tmp_path / "x").write_bytes(content)
            with pytest.raises(InvalidData):
                aljava.repair(tmp_path / "x")
            assert (tmp_path / "x").read_bytes() == content


def test_the_schema_at_the_start_is_gone(path) -> None:
    """The footer has it too: all rows are saved, and the repaired file is sound."""
    before = aljava.read(path)
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(40)
    path.write_bytes(content)
    saved = aljava.repair(path)
    assert any("schema at the start" in lost for lost in saved.lost)
    assert aljava.read(path).equals(before)
    assert aljava.verify(path).ok


def test_a_date_that_python_has_not(tmp_path) -> None:
    path = tmp_path / "x.arrow"
    days = pa.array(range(20_000), pa.int32())
    aljava.write({"day": days.cast(pa.date32())}, path, compression="none", checksums=False)
    content = bytearray(path.read_bytes())
    at = content.index(days.buffers()[1].to_pybytes()[:400])
    content[at + 40 : at + 44] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(content)
    assert "outside of the least and the greatest" in str(aljava.verify(path).findings)
