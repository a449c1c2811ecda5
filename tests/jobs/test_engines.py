"""The same job on each engine: the same bytes. And what does not fit, found out before the work."""

import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from aljava import jobs
from aljava.address import locate
from aljava.errors import JobError
from aljava.jobs import executors, running
from tests.jobs import work
from tests.jobs.test_jobs import OUTPUTS, digests


def address(cluster) -> str:
    return cluster.scheduler_address.replace("tcp://", "dask://")


def test_the_same_bytes_everywhere(mixed: Path, tmp_path: Path, dask) -> None:
    (mixed / "bad.parquet").write_bytes(b"no")
    made = {}
    for name, text, workers in (("threads",) * 2 + (2,), ("processes",) * 2 + (2,), ("dask", address(dask), None)):
        with jobs.executor_for(text, workers) as executor:
            done = jobs.convert(mixed, tmp_path / name, compression="zstd", executor=executor)
            assert (done.done, done.failed) == (6, 1), name
            again = jobs.convert(mixed, tmp_path / name, compression="zstd", executor=executor)
            assert (again.done, again.kept, again.failed) == (0, 6, 1), name
            found = jobs.verify(tmp_path / name, executor=executor)
            assert (found.done, found.ok) == (6, True)
        made[name] = digests(tmp_path / name)
    assert sorted(made["threads"]) == OUTPUTS
    assert made["threads"] == made["processes"] == made["dask"]


def test_dask_s_own_executor(mixed: Path, tmp_path: Path, dask) -> None:
    """Whoever has a client gives its executor, and keeps it."""
    from distributed import Client

    with Client(dask, set_as_default=False) as client:
        assert jobs.convert(mixed, tmp_path / "out", executor=client.get_executor()).done == 6
        assert client.submit(pow, 2, 3).result() == 8


def test_a_dask_of_the_jobs_own(mixed: Path, tmp_path: Path) -> None:
    """What `--on dask` begins, and ends."""
    with jobs.executor_for("dask", 1) as executor:
        assert executors.width(executor) == 1
        assert jobs.convert(mixed, tmp_path / "out", executor=executor).done == 6
        scheduler = executor._client.scheduler.address
    with pytest.raises(JobError, match="no scheduler answers"):
        jobs.executor_for(scheduler.replace("tcp://", "dask://"))


@pytest.mark.ray
def test_the_same_bytes_on_ray(mixed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with jobs.executor_for("threads", 2) as executor:
        jobs.convert(mixed, tmp_path / "threads", executor=executor)
    with jobs.executor_for("ray", 2) as executor:
        done = jobs.convert(mixed, tmp_path / "ray", executor=executor)
        assert (done.done, done.failed) == (6, 0)
        assert jobs.convert(mixed, tmp_path / "ray", executor=executor).kept == 6
        assert jobs.verify(tmp_path / "ray", executor=executor).ok
    assert digests(tmp_path / "ray") == digests(tmp_path / "threads")


@pytest.mark.ray
def test_a_ray_that_runs_already(mixed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 64}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2", "--port=0"]
    options = ["--include-dashboard=false", "--disable-usage-stats", f"--ray-client-server-port={port}"]
    # A process of its own for each client: Ray looks at its environment once.
    convert = [sys.executable, "-m", "aljava", "convert", mixed, tmp_path / "out", "--on", f"ray://127.0.0.1:{port}"]
    with subprocess.Popen([*ray, *options], env=environment, stdout=subprocess.DEVNULL) as head:
        try:
            while not is_listening(port):
                assert head.poll() is None, "ray start has ended"
                time.sleep(0.2)
            done = subprocess.run(convert, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert len(digests(tmp_path / "out")) == 6
            environment["RAY_AUTH_TOKEN"] = "f" * 64
            refused = subprocess.run(convert, env=environment, capture_output=True, text=True, check=False)
            assert refused.returncode == 1
            assert "RAY_AUTH_TOKEN" in refused.stderr
        finally:
            head.terminate()


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("interrupted", [False, True])
def test_workers_that_do_not_come_back(interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose workers are gone for good, or that is interrupted meanwhile, ends; also where it is to be closed."""
    from distributed import LocalCluster

    monkeypatch.setattr(running, "LOOK_AFTER", 0.2)
    monkeypatch.setattr(running, "ALONE_SECONDS", 600 if interrupted else 1)
    (tmp_path / "seconds").write_text("0.3")
    for number in range(20):
        (tmp_path / f"{number}").touch()
    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--no-nanny"]
        root = {"cwd": Path(__file__).parents[2], "stderr": subprocess.DEVNULL}
        with subprocess.Popen([*command, "--no-dashboard", "--nthreads=1"], **root) as worker:

            def told(progress: jobs.Progress) -> None:
                if progress.files:
                    worker.kill()
                    if interrupted:
                        raise KeyboardInterrupt

            expected = pytest.raises(KeyboardInterrupt) if interrupted else pytest.raises(JobError, match="no worker")
            with jobs.executor_for(address(cluster)) as executor, expected:
                executor._client.wait_for_workers(1, timeout=60)
                kept = locate(tmp_path / "manifest.arrow")
                jobs.run(work.job(work.slowly, manifest=kept), jobs.listed(tmp_path), executor=executor, progress=told)
    with pa.OSFile(str(tmp_path / "manifest.arrow")) as file:
        assert 1 <= pa.ipc.open_stream(file).read_all().num_rows < 20


class TestWhatDoesNotFit:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(executors, "PATIENCE", 1.5)

    def test_no_scheduler(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for kind in ("dask", "ray"):
            with pytest.raises(JobError, match=f"no scheduler answers at {kind}://127.0.0.1:{port}"):
                jobs.executor_for(f"{kind}://127.0.0.1:{port}")

    def test_something_else_answers(self) -> None:
        """What takes the call and says nothing is no scheduler either."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            taken = []
            thread = threading.Thread(target=lambda: taken.extend(server.accept() for _ in range(2)), daemon=True)
            thread.start()
            with pytest.raises(JobError, match="no Dask scheduler answers"):
                jobs.executor_for(f"dask://127.0.0.1:{server.getsockname()[1]}")

    def test_a_scheduler_without_workers(self, mixed: Path, tmp_path: Path) -> None:
        from distributed import LocalCluster

        with (
            LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
            jobs.executor_for(address(cluster)) as executor,
            pytest.raises(JobError, match="has no workers"),
        ):
            jobs.convert(mixed, tmp_path / "out", executor=executor)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("fault", ["has no aljava", "has aljava 9.9.9, and here it is"])
    def test_a_worker_that_does_not_fit(self, fault: str, mixed: Path, tmp_path: Path) -> None:
        """A worker whose packages are those of this environment, but for Aljava."""
        from distributed import LocalCluster

        packages = tmp_path / "packages"
        packages.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if "aljava" not in entry.name and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
        if "9.9.9" in fault:
            (packages / "aljava-9.9.9.dist-info").mkdir()
            (packages / "aljava-9.9.9.dist-info" / "METADATA").write_text("Name: aljava\nVersion: 9.9.9\n")
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
            command = [os.path.realpath(sys.executable), "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
            worker = subprocess.Popen(
                [*command, "--no-nanny", "--no-dashboard"], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
            )
            try:
                with jobs.executor_for(address(cluster)) as executor:
                    executor._client.wait_for_workers(1, timeout=60)
                    with pytest.raises(JobError, match=fault):
                        jobs.convert(mixed, tmp_path / "out", executor=executor)
            finally:
                worker.kill()
                worker.wait()
        assert not (tmp_path / "out").exists()
