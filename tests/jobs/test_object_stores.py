"""Jobs from and to a real S3 endpoint over HTTP: the same bytes as here, and the same manifest to go on from."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pytest

import aljava
from aljava import jobs
from aljava.errors import AccessDenied, InvalidOption, NotFound
from aljava.jobs.sources import listed
from tests.jobs.test_jobs import digests
from tests.places.servers import running


@pytest.fixture(scope="module")
def bucket():
    """A bucket of moto's server: the address of a folder in it, and its file system."""
    with running("s3") as server:
        system = pyarrow.fs.S3FileSystem(
            access_key="a", secret_key="b", endpoint_override=f"127.0.0.1:{server.port}", scheme="http",
            region="us-east-1", allow_bucket_creation=True,
        )  # fmt: skip
        system.create_dir("jobs")
        options = f"endpoint_override=127.0.0.1:{server.port}&scheme=http&region=us-east-1"
        yield lambda folder: f"s3://a:b@jobs/{folder}?{options}", system


@pytest.fixture(scope="module")
def sources(tmp_path_factory, bucket) -> Path:
    """Thirty small files, here and there."""
    folder = tmp_path_factory.mktemp("stores") / "in"
    folder.mkdir()
    _, system = bucket
    for number in range(30):
        path = folder / f"{number:02} ç%20#.{('arrow', 'parquet', 'csv')[number % 3]}"
        table = pa.table({"row": range(number * 100, number * 100 + 100), "day": [n * 7 % 30 for n in range(100)]})
        aljava.copy(aljava_of(table, folder), path)
        with system.open_output_stream(f"jobs/in/{path.name}") as sink:
            sink.write(path.read_bytes())
    return folder


def aljava_of(table: pa.Table, folder: Path) -> Path:
    aljava.write(table, folder.parent / "once.arrow")
    return folder.parent / "once.arrow"


def fetched(system, folder: str, to: Path) -> dict[str, str]:
    """What is below a folder of the bucket, as `digests` says it."""
    for info in system.get_file_info(pyarrow.fs.FileSelector(f"jobs/{folder}", recursive=True)):
        if info.is_file:
            path = to / info.path.removeprefix(f"jobs/{folder}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            with system.open_input_stream(info.path) as source:
                path.write_bytes(source.read())
    return digests(to)


@pytest.mark.parametrize("options", [{"size": 5_000}, {"sort_by": "day"}], ids=str)
def test_compact(bucket, sources: Path, tmp_path: Path, options) -> None:
    address, system = bucket
    name = "compact" + "".join(options)
    with jobs.executor_for("processes", 2) as executor:
        here = jobs.compact(sources, tmp_path / "here", executor=executor, **options)
        there = jobs.compact(address("in"), address(name), executor=executor, **options)
        assert (here.done, there.done, there.failed, there.rows) == (30, 30, 0, 3000), there
        assert digests(tmp_path / "here") == fetched(system, name, tmp_path / "there")
        assert "a:b" not in str(there.table.to_pylist())
        # An output that is gone is made again, one that nobody made is removed.
        system.delete_file(f"jobs/{name}/compacted-00000.arrow")
        with system.open_output_stream(f"jobs/{name}/compacted-00777.arrow") as sink:
            sink.write(b"no table")
        again = jobs.compact(address("in"), address(name), executor=executor, **options)
        assert again.done > 0
        assert digests(tmp_path / "here") == fetched(system, name, tmp_path / "again")
        assert jobs.compact(address("in"), address(name), executor=executor, **options).kept == 30


def test_convert(bucket, sources: Path, tmp_path: Path) -> None:
    address, system = bucket
    with jobs.executor_for("processes", 2) as executor:
        jobs.convert(sources, tmp_path / "here", executor=executor)
        there = jobs.convert(address("in"), address("converted"), executor=executor)
        assert (there.done, there.failed) == (30, 0)
        assert digests(tmp_path / "here") == fetched(system, "converted", tmp_path / "there")
        assert jobs.convert(address("in"), address("converted"), executor=executor).kept == 30


def test_one_file_and_some(bucket, sources: Path, tmp_path: Path) -> None:
    address, system = bucket
    some = "in/*.arrow"
    with jobs.executor_for("threads") as executor:
        assert jobs.verify(address(some), executor=executor).done == 10
        assert jobs.verify(address("in/00 ç%2520#.arrow"), executor=executor).done == 1
        out = jobs.convert(address(some), tmp_path / "out", format="parquet", executor=executor)
        assert (out.done, out.rows) == (10, 1000)
        assert "a:b" not in str(out.table.to_pylist())
        with pytest.raises(InvalidOption, match="would be a source as well"):
            jobs.convert(address("in/*"), address("in"), executor=executor)
        with pytest.raises(InvalidOption, match="would be a source as well"):
            jobs.convert(address("in"), address("in/deep"), executor=executor)
        assert jobs.convert(address("in/*.csv"), address("texts"), executor=executor).done == 10
        for nothing in ("in/nothing.arrow", "in/*.orc"):
            with pytest.raises(NotFound):
                jobs.verify(address(nothing), executor=executor)
        # What is percent-encoded is no glob.
        for name in ("a1.arrow", "a[1].arrow"):
            aljava.write({"id": [1]}, f"jobs/odd/{name}", filesystem=system)
        assert [source.name for source in listed(address("odd/a%5B1%5D.arrow"))] == ["a[1].arrow"]
        assert [source.name for source in listed(address("odd/a[1].arrow"))] == ["a1.arrow"]


def test_a_store_that_is_listed_folder_by_folder(tmp_path: Path) -> None:
    """As all but S3 are."""
    for name in ("a.arrow", "deep/b.arrow", "deep/er/c.arrow", "deep/_d.arrow", "_hidden/e.arrow"):
        aljava.write({"id": [1]}, f"memory://by-folder/{name}")
    with jobs.executor_for("threads") as executor:
        done = jobs.verify("memory://by-folder", executor=executor)
        assert sorted(done.table["source"].to_pylist()) == [
            f"memory://by-folder/{name}" for name in ("a.arrow", "deep/b.arrow", "deep/er/c.arrow")
        ]
        assert jobs.compact("memory://by-folder/deep", tmp_path / "out", executor=executor).rows == 2


def test_the_command(bucket, sources: Path) -> None:
    address, _ = bucket
    command = [sys.executable, "-m", "aljava", "verify"]
    for name, said in (
        ("in/00 ç%2520#.arrow", "sound; checksums match"),
        ("in/*.arrow", "verify: 10 files"),
    ):
        done = subprocess.run([*command, address(name)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, said in done.stdout) == (0, True), done.stdout + done.stderr


def test_what_is_not_there(bucket, tmp_path: Path) -> None:
    address, _ = bucket
    with jobs.executor_for("threads") as executor:
        with pytest.raises(NotFound):
            jobs.compact(address("nothing"), tmp_path / "out", executor=executor)
        with pytest.raises((NotFound, AccessDenied)):
            jobs.compact(tmp_path, address("in").replace("@jobs/", "@no-such-bucket/"), executor=executor)
