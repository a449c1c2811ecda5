"""What others build on: the public names, their documentation, their types, and the size of it all."""

import inspect
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aljava
from aljava.payloads import Payloads

HERE = Path(__file__).resolve().parent

PUBLIC = [
    "AljavaError",
    "Comparison",
    "Dataset",
    "Store",
    "Written",
    "aio",
    "append",
    "attach",
    "compare",
    "copy",
    "dumps",
    "feather",
    "ipc",
    "jobs",
    "listen",
    "loads",
    "open",
    "read",
    "repair",
    "sql",
    "verify",
    "write",
]


def test_public_names() -> None:
    assert sorted(aljava.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(aljava, name) is not None


MODULES = ["aio", "feather", "ipc", "jobs"]
CLASSES = [aljava.Comparison, aljava.Dataset, Payloads, aljava.Store]
# What pyarrow asks of a dataset, and its user never calls; what is shown by the page that needs it.
FOR_PYARROW = {
    "partition_expression",
    "get_fragments",
    "replace_schema",
    "join_asof",
    "must_travel",
    "rows_that_may_match",
    "private_map",
}


def documented(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    text = documented(getattr(aljava, name))
    # What asyncio needs does not fit on a prompt: its module shows it as code. Of jobs each function has an example.
    assert ">>> " in text or "::\n" in text or name == "jobs"


@pytest.mark.parametrize("module", MODULES)
def test_every_name_of_a_public_module_is_documented(module: str) -> None:
    found = getattr(aljava, module)
    members = {
        name: getattr(found, name) for name in getattr(found, "__all__", vars(found)) if not name.startswith("_")
    }
    # pyarrow's own objects are pyarrow's to document.
    ours = {name: it for name, it in members.items() if getattr(it, "__module__", "").startswith(f"aljava.{module}")}
    assert ours
    assert [name for name, it in ours.items() if not documented(it)] == []


def methods(kind: type) -> Iterator[str]:
    for name, value in vars(kind).items():
        if not name.startswith("_") and name not in FOR_PYARROW and inspect.isfunction(value):
            yield name


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in CLASSES for name in methods(kind)])
def test_every_method_is_shown_in_an_example(kind: type, name: str) -> None:
    """Its own, or that of its class: a reader sees it called."""
    own, of_class = documented(getattr(kind, name)), documented(aljava.Dataset if kind is Payloads else kind)
    assert own
    examples = [line for line in (own + "\n" + of_class).splitlines() if line.lstrip().startswith((">>> ", "... "))]
    assert any(re.search(rf"\.{name}\(", line) for line in examples)


def test_the_types_are_seen_from_outside(tmp_path: Path) -> None:
    """`py.typed` is there, and a strict checker knows what a stranger's program gets."""
    program = tmp_path / "program.py"
    source = (HERE / "sample_program.py").read_text()
    for text, expected in (
        (source, "Success"),
        (source.replace("written.seconds, float", "written.seconds, str"), "float"),
    ):
        program.write_text(text)
        line = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            os.devnull,
            "--cache-dir",
            str(tmp_path / "c"),
        ]
        done = subprocess.run(
            [*line, "--follow-imports", "silent", "--ignore-missing-imports", str(program)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")},
        )
        assert expected in done.stdout, done.stdout + done.stderr
        assert (done.returncode == 0) == (text is source)


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("pandas", "aljava.open(path).to_pandas()"),
        ("pandas", "aljava.feather.read_feather(path)"),
        ("polars", "aljava.open(path).to_polars()"),
        ("matplotlib", "aljava.compare(path, codecs=['none'], repeat=1).plot()"),
        ("fsspec", "aljava.read('memory://folder/file')"),
    ],
)
def test_what_is_not_installed_names_the_extra_that_brings_it(package: str, call: str, tmp_path: Path) -> None:
    extra = {"matplotlib": "plot", "fsspec": "cloud"}.get(package, package)
    program = f"""if True:
        import sys
        class Missing:
            def find_spec(name, path, target=None):
                if name == {package!r}:
                    raise ModuleNotFoundError(name=name)
        sys.meta_path.insert(0, Missing)
        import aljava, aljava.errors
        path = {str(tmp_path / "it.arrow")!r}
        aljava.write({{"id": [1]}}, path)
        try:
            {call}
        except aljava.errors.MissingDependency as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"pip install 'aljava[{extra}]'" in done.stdout


def test_importing_aljava_imports_little() -> None:
    """Nothing but itself; and for a table pyarrow, and not DuckDB or a command line."""
    program = "import sys; before = set(sys.modules); import aljava; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"aljava", *sys.stdlib_module_names}
    program = "import sys, aljava; aljava.loads(aljava.dumps({'a': [1]})); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pyarrow" in done.stdout.split()
    assert not {"duckdb", "polars", "typer", "rich", "matplotlib", "fsspec"} & set(done.stdout.split())


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(line, cwd=HERE.parent, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    assert "aljava/py.typed" in names
    assert all(name.startswith(("aljava/", "aljava-")) for name in names)
    assert {Path(name).suffix for name in names if name.startswith("aljava/")} == {".py", ".typed"}
    # Source text with its documentation, 460 kB of it: this bound is for what slips in besides.
    assert wheel.stat().st_size < 500_000
