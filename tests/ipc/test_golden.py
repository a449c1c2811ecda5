"""The golden files of the Arrow project: what other implementations wrote, read to its values and written again."""

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest

from tests.ipc import integration_json
from tests.ipc.payloads import COMPRESSIONS, FORMATS, batches_of, written

UNCOMPRESSED = """custom_metadata datetime decimal decimal256 dictionary dictionary_unsigned duplicate_fieldnames
    extension interval map map_non_canonical nested nested_dictionary nested_large_offsets null null_trivial primitive
    primitive_large_offsets primitive_no_batches primitive_zerolength recursive_nested union"""
COMPRESSED = "lz4 uncompressible_lz4 uncompressible_zstd zstd"
NAMES = [f"1.0.0-littleendian/generated_{name}" for name in UNCOMPRESSED.split()]
NAMES += [f"2.0.0-compression/generated_{name}" for name in COMPRESSED.split()]
ENDINGS = {"file": ".arrow_file", "stream": ".stream"}

Content = tuple[pa.Schema, list[pa.RecordBatch]]


@pytest.fixture
def golden(test_data: Path, name: str) -> Path:
    return test_data / "golden" / name


@pytest.fixture
def oracle(golden: Path) -> Content:
    """What the file holds according to its JSON."""
    return integration_json.read(golden.with_suffix(".json.gz"))


def assert_same(found: Content, expected: Content) -> None:
    assert found[0].equals(expected[0], check_metadata=True), f"{found[0]}\n\nexpected\n\n{expected[0]}"
    assert len(found[1]) == len(expected[1])
    for batch, wanted in zip(found[1], expected[1], strict=True):
        batch.validate()  # not in full: generated_datetime holds date64 values inside a day
        assert batch.equals(wanted, check_metadata=True), [
            expected[0].field(i) for i in range(len(expected[0])) if not batch.select([i]).equals(wanted.select([i]))
        ]


def test_names_are_all_that_there_are(test_data: Path) -> None:
    folder = test_data / "golden"
    found = {str(path.relative_to(folder)).partition(".arrow_file")[0] for path in folder.rglob("*.arrow_file")}
    assert found == set(NAMES)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_is_read_to_the_values_of_its_json(golden: Path, oracle: Content, format_: str) -> None:
    payload = golden.with_suffix(ENDINGS[format_]).read_bytes()
    assert_same(batches_of(payload, format_), oracle)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_is_written_again_for_pyarrow_to_read(golden: Path, oracle: Content, format_: str, compression: str) -> None:
    schema, batches = batches_of(golden.with_suffix(ENDINGS[format_]).read_bytes(), format_)
    again = written(schema, batches, format_, compression)
    assert_same(batches_of(again, format_, ipc=pa.ipc), oracle)
    assert_same(batches_of(again, format_), oracle)
