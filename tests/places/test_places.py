"""Every kind of place keeps the same promises: bytes come back as they went, whole or not at all."""

import io
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import quote

import fsspec.implementations.memory
import pyarrow as pa
import pyarrow.fs
import pytest

import aljava
from aljava.address import locate
from aljava.errors import (
    AccessDenied,
    AddressError,
    AlreadyExists,
    InvalidData,
    InvalidOption,
    MissingDependency,
    NotFound,
    TransferError,
)
from aljava.listing import parts
from aljava.places.fileobject import FileObject
from aljava.places.local import LocalFile
from aljava.places.memory import MemoryBuffer
from aljava.places.ranged import GAP, TAIL, RangedFile
from aljava.places.remote import RemoteFile, shown_and_secrets
from tests.places.servers import running
from tests.systems import mounted

SECRET = "s3cr3t-k3y"


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("moto.server", reason="moto[server] brings the S3 end point")
    with running("s3") as server:
        system = pyarrow.fs.S3FileSystem(
            access_key="AKIA", secret_key=SECRET, endpoint_override=f"127.0.0.1:{server.port}", scheme="http",
            region="us-east-1", allow_bucket_creation=True, retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(2),
        )  # fmt: skip
        system.create_dir("bucket")
        server.system = system
        yield server


def s3_address(server, key: str) -> str:
    return f"s3://AKIA:{SECRET}@bucket/{key}?endpoint_override=127.0.0.1:{server.port}&scheme=http&region=us-east-1"


@pytest.fixture(scope="module")
def google():
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator stands in for Google's storage")
    with running("google") as server:
        yield server


@pytest.fixture(scope="module")
def azure():
    """Azurite, Microsoft's emulator, which `npm install -g azurite` brings."""
    command = shutil.which("azurite-blob")
    if command is None:
        pytest.skip("Azure is not tried: azurite-blob is not on the PATH (npm install -g azurite)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    process = subprocess.Popen([command, "--blobPort", str(port), *options], stdout=subprocess.DEVNULL)
    # The name and the key that every emulator of Azure has.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    here = f"127.0.0.1:{port}"
    system = pyarrow.fs.AzureFileSystem(
        "devstoreaccount1", account_key=key, blob_storage_authority=here, blob_storage_scheme="http",
        dfs_storage_authority=here, dfs_storage_scheme="http",
    )  # fmt: skip
    try:
        for attempt in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.1 * (attempt < 99))
        system.create_dir("bucket")
        yield f"abfs://devstoreaccount1:{quote(key, safe='')}@{here}/bucket"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    pytest.importorskip("werkzeug")
    folder, content = tmp_path_factory.mktemp("web"), os.urandom(1 << 20)
    for name in ("a file", "whole", "secret"):
        (folder / name).write_bytes(content)
    (folder / "empty").write_bytes(b"")
    with running("files", str(folder)) as server:
        server.content = content
        yield server


@pytest.fixture(params=["local", "file object", "s3", "google", "azure", "fsspec"])
def place(request, tmp_path):
    match request.param:
        case "local":
            return LocalFile(tmp_path / "a table")
        case "file object":
            return FileObject(io.BytesIO())
        case "s3":
            return locate(s3_address(request.getfixturevalue("s3"), f"{request.node.originalname}/a table"))
        case "google":
            here = f"127.0.0.1%3A{request.getfixturevalue('google').port}"
            name = f"{request.node.originalname}/a table"
            return locate(f"gs://anonymous@bucket/{name}?scheme=http&endpoint_override={here}")
        case "azure":
            return locate(f"{request.getfixturevalue('azure')}/{request.node.originalname}/a table?enable_tls=false")
        case "fsspec":
            return locate(f"memory:///{request.node.originalname}/a table")


def break_off(place, content: bytes) -> None:
    def write() -> None:
        with place.sink() as sink:
            sink.write(content)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()


class TestEveryPlace:
    def test_bytes_come_back(self, place) -> None:
        content = os.urandom(300_000)
        with place.sink() as sink:
            sink.write(content[:10])
            sink.write(pa.py_buffer(content[10:]))
        with place.reading() as source:
            assert source.size() == len(content)
            assert source.read() == content
            source.seek(100_000)
            assert source.read(17) == content[100_000:100_017]
            assert source.read_at(5, 299_998) == content[299_998:]

    def test_a_later_write_replaces(self, place) -> None:
        if isinstance(place, FileObject):
            pytest.skip("an open file is written where it stands")
        for content in (b"a" * 1000, b"b"):
            with place.sink() as sink:
                sink.write(content)
        assert place.source().read() == b"b"

    def test_create_refuses_what_stands_there(self, place) -> None:
        if isinstance(place, FileObject):
            with pytest.raises(InvalidOption), place.sink(create=True):
                pass
            return
        with place.sink(create=True) as sink:
            sink.write(b"first")
        with pytest.raises(AlreadyExists, match="a table"), place.sink(create=True) as sink:
            sink.write(b"second")
        assert place.source().read() == b"first"

    def test_a_failed_write_leaves_nothing(self, place) -> None:
        if isinstance(place, FileObject):
            pytest.skip("an open file is written where it stands")
        break_off(place, b"half of it")
        with pytest.raises(NotFound, match="a table"):
            place.source()
        with place.sink() as sink:
            sink.write(b"old")
        break_off(place, b"x" * (1 << 20))
        assert place.source().read() == b"old"

    def test_nothing_and_emptiness_are_told_apart(self, place) -> None:
        if not isinstance(place, FileObject):
            with pytest.raises(NotFound):
                place.source()
            with place.sink():
                pass
        with pytest.raises(InvalidData, match=r"empty|nothing"):
            place.source()


class TestLocal:
    def test_two_creators_one_wins(self, tmp_path) -> None:
        place, gate, results = LocalFile(tmp_path / "x"), threading.Barrier(8), []

        def create(number: int) -> None:
            try:
                with place.sink(create=True) as sink:
                    sink.write(b"%d" % number)
                    gate.wait()
                results.append(number)
            except AlreadyExists:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 1
        assert place.source().read() == b"%d" % results[0]
        assert os.listdir(tmp_path) == ["x"]

    def test_permissions_survive(self, tmp_path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"old")
        path.chmod(0o640)
        with LocalFile(path).sink() as sink:
            sink.write(b"new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_a_dead_writers_file_is_swept_and_a_living_ones_is_not(self, tmp_path) -> None:
        (tmp_path / ".x.1-abcd.aljava").write_bytes(b"dead")
        with LocalFile(tmp_path / "y").sink() as living:
            living.write(b"1")
            with LocalFile(tmp_path / "x").sink() as sink:
                sink.write(b"2")
            assert len(list(tmp_path.iterdir())) == 2
        assert sorted(os.listdir(tmp_path)) == ["x", "y"]

    def test_a_large_folder_is_not_looked_through_at_each_write(self, tmp_path, monkeypatch) -> None:
        for number in range(30_000):
            (tmp_path / f"{number}").touch()
        scans, scandir = [], os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: scans.append(path) or scandir(path))
        for _ in range(100):
            with LocalFile(tmp_path / "x").sink() as sink:
                sink.write(b"1")
        assert 1 <= len(scans) < 50
        (tmp_path / ".x.1-abcd.aljava").write_bytes(b"dead")
        deadline = time.monotonic() + 60
        while (tmp_path / ".x.1-abcd.aljava").exists() and time.monotonic() < deadline:
            with LocalFile(tmp_path / "x").sink() as sink:
                sink.write(b"1")
        assert not (tmp_path / ".x.1-abcd.aljava").exists()

    @pytest.mark.parametrize(
        "name", ["a b", "a\nb", "100%", "a#b?c", "ção", os.fsdecode(b"\xff\xfe"), "x" * 255, "[a]*"]
    )
    def test_any_name(self, tmp_path, name: str) -> None:
        place = LocalFile(os.path.join(tmp_path, name))
        with place.sink() as sink:
            sink.write(b"content")
        assert parts(os.path.join(tmp_path, name))[0].place.source().read() == b"content"
        place.address.encode()

    def test_a_link_is_followed(self, tmp_path) -> None:
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "link").symlink_to("real")
        with LocalFile(tmp_path / "link").sink() as sink:
            sink.write(b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_bytes() == b"new"

    def test_what_is_no_file(self, tmp_path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InvalidData, match="named pipe"):
            LocalFile(tmp_path / "pipe").source()
        with pytest.raises(InvalidData, match="folder"):
            LocalFile(tmp_path).source()
        with pytest.raises(InvalidData, match="character device"):
            LocalFile("/dev/zero").source()
        with socket.socket(socket.AF_UNIX) as server, pytest.raises(InvalidData, match="a socket"):
            server.bind(os.path.relpath(tmp_path / "s"))  # a socket's name is short
            LocalFile(tmp_path / "s").source()
        for target in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(AlreadyExists), LocalFile(target).sink():
                pass
        with pytest.raises(NotFound, match="folder"), LocalFile(tmp_path / "no" / "x").sink():
            pass
        with pytest.raises(AddressError):
            LocalFile("a\0b")

    @pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/sys"), reason="needs /proc/sys")
    def test_what_the_system_refuses(self, tmp_path) -> None:
        with pytest.raises((AccessDenied, NotFound, TransferError)), LocalFile("/proc/sys/x").sink():
            pass

    def test_what_cannot_be_appended_to(self, tmp_path) -> None:
        with pytest.raises(InvalidData, match="/dev/null is not a regular file"), LocalFile("/dev/null").appending():
            pass
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(tmp_path / "s"))
            with pytest.raises(InvalidData, match=f"comes or goes there as unix://{tmp_path}/s"):  # noqa: SIM117
                with LocalFile(tmp_path / "s").appending():
                    pass

    def test_a_file_system_for_reading_only(self, tmp_path) -> None:
        with (
            mounted(tmp_path, "ro"),
            pytest.raises(AccessDenied, match="cannot be written: the file system is read-only"),
        ):
            aljava.write({"a": [1]}, tmp_path / "x.arrow")

    def test_a_file_system_without_locks(self, tmp_path, without_locks) -> None:
        """Files are written and read, and nothing is swept."""
        aljava.write({"a": [1]}, tmp_path / "x.arrow")
        aljava.append({"a": [2]}, tmp_path / "x.arrow")
        assert aljava.read(tmp_path / "x.arrow")["a"].to_pylist() == [1, 2]
        assert os.listdir(tmp_path) == ["x.arrow"]

    def test_a_full_disk(self, tmp_path) -> None:
        import resource
        import signal

        (tmp_path / "x").write_bytes(b"old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        try:
            with pytest.raises(TransferError, match="cannot be written"), LocalFile(tmp_path / "x").sink() as sink:
                sink.write(bytes(1 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}

    def test_no_descriptor_is_left(self, tmp_path, no_leaks) -> None:
        place = LocalFile(tmp_path / "x")
        with place.sink() as sink:
            sink.write(b"content")
        assert place.source().read() == b"content"
        with pytest.raises(NotFound):
            LocalFile(tmp_path / "y").source()


class TestBuffer:
    def test_too_small_and_read_only(self) -> None:
        with pytest.raises(TransferError, match="too small"), MemoryBuffer(bytearray(4)).sink() as sink:
            sink.write(b"12345")
        with pytest.raises(AccessDenied), MemoryBuffer(b"1234").sink():
            pass


class TestRemote:
    def test_reading_by_range_costs_what_is_read(self, s3) -> None:
        place = locate(s3_address(s3, "large"))
        content = os.urandom(5_000_000)
        with place.sink() as sink:
            sink.write(content)
        s3.count()
        source = place.source()
        source.seek(-8, io.SEEK_END)
        assert source.read() == content[-8:]
        assert source.read_at(1000, 1_000_000) == content[1_000_000:1_001_000]
        assert s3.count() == TAIL + 1000

    def test_a_cut_connection_is_an_error_of_ours(self, s3) -> None:
        place = locate(s3_address(s3, "cut"))
        with place.sink() as sink:
            sink.write(bytes(1 << 20))
        source = place.source()
        s3.cut(1000)
        try:
            with pytest.raises(TransferError, match="bucket/cut") as caught:
                source.read_at(1 << 19, 0)
        finally:
            s3.cut(0)
        assert SECRET not in str(caught.value)
        assert source.read_at(1 << 19, 0) == bytes(1 << 19)

    def test_credentials_never_show(self, s3) -> None:
        for address in (s3_address(s3, "no"), s3_address(s3, "x").replace("bucket", "nobucket")):
            with pytest.raises(NotFound) as caught:
                locate(address).source()
            text = "".join(map(str, (caught.value, caught.value.__context__, caught.value.__suppress_context__)))
            assert SECRET not in str(caught.value)
            assert SECRET not in text
        with pytest.raises(AddressError) as wrong:
            locate(f"s3://AKIA:{SECRET}@bucket/x?unknown={SECRET}")
        assert SECRET not in str(wrong.value)
        assert shown_and_secrets("s3://id:key@bucket/x?token=1")[0] == "s3://bucket/x"
        assert shown_and_secrets("abfs://container@account.dfs.core.windows.net/x")[0].startswith("abfs://container@")
        with_a_key = locate("abfs://container:c2VjcmV0@account.dfs.core.windows.net/a%20folder/x")
        assert isinstance(with_a_key, RemoteFile)
        assert with_a_key.path == "container/a folder/x"
        assert "c2VjcmV0" not in with_a_key.address

    def test_a_filesystem_of_the_users_own(self, s3) -> None:
        place = locate("bucket/own", filesystem=s3.system)
        assert isinstance(place, RemoteFile)
        with place.sink() as sink:
            sink.write(b"mine")
        assert locate("s3://bucket/own", filesystem=s3.system).source().read() == b"mine"
        fsspec = pytest.importorskip("fsspec")
        with locate("/own", filesystem=fsspec.filesystem("memory")).sink() as sink:
            sink.write(b"other")
        assert locate("memory:///own", storage_options={}).source().read() == b"other"
        with pytest.raises(InvalidOption, match="filesystem="):
            locate("x", filesystem="s3")
        with pytest.raises(InvalidOption, match="give one"):
            locate("x", filesystem=s3.system, storage_options={})

    def test_a_large_object_goes_through_a_file(self, s3, monkeypatch) -> None:
        monkeypatch.setattr("aljava.places.remote.IN_MEMORY", 1 << 20)
        place, content = locate(s3_address(s3, "spooled")), os.urandom(20 << 20)
        with place.sink() as sink:
            sink.write(content)
        assert place.source().read() == content

    def test_what_the_file_system_says(self, tmp_path) -> None:
        """Errors of a file system become ours, without what was in its options."""

        class Guarded(fsspec.implementations.memory.MemoryFileSystem):
            protocol, cachable = "guarded", False

            def isfile(self, path):
                raise {"denied": PermissionError, "gone": FileNotFoundError}.get(path.rpartition("/")[2], OSError)(
                    f"{path}: {self.storage_options['client']['key']} and status 403"
                )

        fsspec.register_implementation("guarded", Guarded, clobber=True)
        for name, kind in (("denied", AccessDenied), ("gone", NotFound), ("other", AccessDenied)):
            with pytest.raises(kind) as caught:
                locate(f"guarded://x/{name}", storage_options={"client": {"key": SECRET}}).source()
            assert SECRET not in str(caught.value)

    def test_what_is_not_installed(self) -> None:
        with pytest.raises(MissingDependency, match="needs a package for wandb://"):
            locate("wandb://x/y")
        with pytest.raises(TransferError, match="hdfs://nowhere/x cannot be reached"):
            locate("hdfs://nowhere/x")

    def test_kinds_that_nobody_knows(self) -> None:
        with pytest.raises(AddressError, match=r"s3://.*memory"):
            locate("quiver://x/y")
        with pytest.raises(AddressError, match="another machine"):
            locate("file://elsewhere/x")
        with pytest.raises(AddressError, match="no address"):
            locate(42)
        with pytest.raises(InvalidOption, match="for addresses that are text"):
            locate(io.BytesIO(), storage_options={})
        with pytest.raises(InvalidOption, match="a path of this machine, which has no storage_options"):
            locate("x.arrow", storage_options={})


class TestHttp:
    def test_by_range(self, web) -> None:
        web.count()
        source = locate(f"{web.url}/a%20file").source()
        assert source.size() == len(web.content)
        assert source.read_at(10, 500) == web.content[500:510]
        assert web.count() == TAIL + 10

    def test_a_server_without_ranges(self, web) -> None:
        assert locate(f"{web.url}/whole").source().read() == web.content

    def test_errors(self, web) -> None:
        with pytest.raises(NotFound):
            locate(f"{web.url}/none").source()
        with pytest.raises(InvalidData, match="empty"):
            locate(f"{web.url}/empty").source()
        with pytest.raises(AccessDenied):
            locate(f"{web.url}/secret").source()
        with pytest.raises(TransferError, match="cannot be read"):
            locate("http://127.0.0.1:1/x").source()
        with pytest.raises(InvalidOption):
            locate(f"{web.url}/x").sink()
        with pytest.raises(InvalidOption, match="only 'headers', not anon"):
            locate(f"{web.url}/x", storage_options={"anon": True})
        with pytest.raises(InvalidData, match="is empty"):
            locate(f"{web.url}/status%20416%20Empty").source()
        for status, words in (("500 Broken", "the server answered 500"), ("200 OK", "a range with status 200")):
            source = locate(f"{web.url}/status%20{quote(status)}").source()
            with pytest.raises(TransferError, match=words):
                source.read_at(10, 0)

    def test_credentials_are_sent_and_not_shown(self, web) -> None:
        place = locate(web.url.replace("http://", f"http://user:{SECRET}@") + f"/secret?signature={SECRET}")
        assert SECRET not in place.address
        assert place.source().read() == web.content
        assert locate(f"{web.url}/secret", storage_options={"headers": {"Authorization": "x"}}).source().size()

    def test_a_cut_connection(self, web) -> None:
        source = locate(f"{web.url}/a%20file").source()
        web.cut(1000)
        try:
            with pytest.raises(TransferError, match=r"cut|reset"):
                source.read_at(100_000, 0)
        finally:
            web.cut(0)


class TestRanged:
    def test_neighbours_come_in_one_request(self) -> None:
        content, asked = os.urandom(10 * TAIL), []

        def fetch(low: int, high: int) -> bytes:
            asked.append((low, high))
            return content[low:high]

        file = RangedFile(fetch, len(content), "x")
        ranges = [(5 * TAIL, 5 * TAIL + 10), (100 + GAP, 200 + GAP), (0, 100), (50, 120)]
        assert file.fetch(ranges) == [content[low:high] for low, high in ranges]
        assert sorted(asked) == [(0, 200 + GAP), (5 * TAIL, 5 * TAIL + 10)]

    def test_too_few_bytes(self) -> None:
        with pytest.raises(TransferError, match="were asked for"):
            RangedFile(lambda low, high: b"", 10, "x").read()


class TestListing:
    @pytest.fixture(params=["local", "s3"])
    def tree(self, request, tmp_path):
        """A function from a pattern to the names and partitions that are found."""
        names = ["top", "year=2025/a", "year=2026/b", "year=2026/day=__HIVE_DEFAULT_PARTITION__/c", "year=a%2Fb/d"]
        hidden = [".hidden", "_SUCCESS", "year=2026/.tmp", "_log/x"]
        if request.param == "local":
            root, join, options = str(tmp_path), os.path.join, {}
            for name in names + hidden:
                path = Path(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(name.encode())
        else:
            system = request.getfixturevalue("s3").system
            root, join, options = f"bucket/{request.node.originalname}", "{}/{}".format, {"filesystem": system}
            for name in names + hidden:
                with system.open_output_stream(f"{root}/{name}") as stream:
                    stream.write(name.encode())

        def find(pattern: str):
            found = parts(join(root, pattern) if pattern else root, **options)
            return {part.place.source().read().decode(): dict(part.partition) for part in found}

        return find

    def test_a_folder(self, tree) -> None:
        assert tree("") == {
            "top": {},
            "year=2025/a": {"year": "2025"},
            "year=2026/b": {"year": "2026"},
            "year=2026/day=__HIVE_DEFAULT_PARTITION__/c": {"year": "2026", "day": None},
            "year=a%2Fb/d": {"year": "a/b"},
        }

    def test_globs(self, tree) -> None:
        assert list(tree("year=*/[ab]")) == ["year=2025/a", "year=2026/b"]
        assert list(tree("**/?")) == [
            "year=2025/a",
            "year=2026/b",
            "year=2026/day=__HIVE_DEFAULT_PARTITION__/c",
            "year=a%2Fb/d",
        ]
        assert tree("year=2025/*") == {"year=2025/a": {}}

    def test_nothing(self, tree) -> None:
        with pytest.raises(NotFound, match=r"none\*"):
            tree("none*")

    def test_lists(self, tmp_path) -> None:
        for name in "ab":
            (tmp_path / name).write_bytes(name.encode())
        found = parts([tmp_path / "b", str(tmp_path / "a"), f"file://{tmp_path}/b", b"buffer"])
        assert [part.place.source().read() for part in found] == [b"b", b"a", b"b", b"buffer"]
        with pytest.raises(NotFound):
            parts([])
        (tmp_path / "empty").mkdir()
        with pytest.raises(NotFound, match="holds no files"):
            parts(tmp_path / "empty")


def test_places_that_hold_nothing() -> None:
    class Pipe(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            return 0

    for place in (b"", Pipe(), io.BytesIO()):
        with pytest.raises(InvalidData, match=r"holds no payload|ended before it gave anything|is empty"):
            aljava.read(place)


def test_streams_and_stores_take_tables() -> None:
    for address in ("tcp://127.0.0.1:9", "shm://desk/x"):
        with pytest.raises(InvalidOption, match="takes tables, not bytes"):
            locate(address).sink()
    with pytest.raises(InvalidData, match="is a stream: it is received"):
        locate("tcp://127.0.0.1:9").source()
    for options in ({"mode": "create"}, {"durable": True}):
        with pytest.raises(InvalidOption, match="for places that keep"):
            aljava.write({"a": [1]}, "tcp://127.0.0.1:9", **options)
    for ask in (lambda place: place.source(), lambda place: place.private_map()):
        with pytest.raises(NotFound, match="shm://nowhere/x does not exist"):
            ask(locate("shm://nowhere/x"))
