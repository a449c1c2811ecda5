"""What every test stands on: the data beside the checkout, a private shared memory folder, and the leak check."""

import errno
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
TEST_DATA = Path(os.environ.get("ALJAVA_TEST_DATA") or HERE.parent.parent / "shared")

# Set before aljava is imported, and inherited by every process that a test starts.
_SHM = tempfile.mkdtemp(prefix="aljava-test-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
os.environ["ALJAVA_SHM"] = _SHM
# Whole commands are run hundreds of times: without this, each compiles Aljava anew where the environment says so.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["RAY_ADDRESS"] = "local"  # each process that starts Ray has one of its own
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])

# No test depends on how fast the machine is. CI tries the same examples each time; a developer's run tries new ones.
settings.register_profile(
    "aljava", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("aljava")


def pytest_sessionfinish() -> None:
    shutil.rmtree(_SHM, ignore_errors=True)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder that holds `golden/` and `fuzz/`; a test that asks for it is skipped where it is absent."""
    if not (TEST_DATA / "golden").is_dir():
        pytest.skip(f"no golden/ and fuzz/ in {TEST_DATA}: set ALJAVA_TEST_DATA to the folder that holds them")
    return TEST_DATA


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system such as NFS where nobody runs its lock service."""

    def flock(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of the listing itself
            continue
        # Thread pools (of pyarrow, Polars, DuckDB) make these once, whenever they are first needed.
        if not target.startswith("anon_inode:[event"):
            found[int(name)] = target
    return found


def _mappings() -> list[str]:
    with open("/proc/self/maps") as maps:
        return sorted({line.split(maxsplit=5)[5].strip() for line in maps if _SHM in line})


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves behind a descriptor, a mapping of shared memory, or a child process."""
    gc.collect()
    descriptors, mappings = _descriptors(), _mappings()
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    gc.collect()
    new = {fd: what for fd, what in _descriptors().items() if descriptors.get(fd) != what}
    assert not new, f"descriptors left open: {new}"
    assert set(_mappings()) <= set(mappings), f"mappings left: {set(_mappings()) - set(mappings)}"
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in children]
    assert not left, f"processes left: {left}"
