"""The benchmarks' own machinery: what it measures, what it says of a busy machine, and the page that it makes."""

import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import page
from bench.__main__ import scenarios
from bench.harness import Scenario, installed, machine, measure

ROOT = Path(__file__).parents[1]


def scenario(**others) -> Scenario:
    contestants = {
        "aljava": lambda: time.sleep(0.002),
        "peer": lambda: time.sleep(0.02),
        "absent": installed("no_such_module"),
    }
    return Scenario("sleep", contestants, nbytes=1000, targets={"peer": 2}, **others)


def test_contestants_take_turns_and_one_that_is_not_installed_is_named():
    order = []
    turns = {name: lambda name=name: order.append(name) for name in ("aljava", "b", "c")}
    measure(Scenario("turns", turns), rounds=2)
    assert order[:9] == ["aljava", "b", "c", "b", "c", "aljava", "c", "aljava", "b"]
    record = measure(scenario(), rounds=3)
    assert [it["name"] for it in record["contestants"]] == ["aljava", "peer"]
    assert record["missing"] == ["absent"]
    assert all(len(it["seconds"]) >= 3 for it in record["contestants"])


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the processors through /proc/stat")
def test_a_busy_machine_is_noticed():
    # As another user's program would: not a child of the process that measures.
    burn = "import time; end = time.time() + 20\nwhile time.time() < end: pass"
    shell = f"for i in 1 2 3; do {sys.executable} -c '{burn}' > /dev/null & echo $!; done"
    others = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, text=True, check=True)
    try:
        record = measure(scenario(), rounds=3)
    finally:
        subprocess.run(["kill", *others.stdout.split()], check=True)
    assert any("before it began" in reason for reason in record["noise"])
    assert any("while it ran" in reason for reason in record["noise"])


def test_a_scenario_runs_alone_and_by_a_process_of_its_own():
    command = [sys.executable, "-m", "bench", "--quick", "--only", "sections/array-to-disk"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"^sections/array-to-disk .*\n    aljava .*\n    pyarrow .*×", done.stdout, re.M)


def test_a_scenario_that_fails_is_reported_and_the_exit_status_says_so(tmp_path):
    environment = {"PATH": "/nowhere", "ALJAVA_BENCH_DATA": str(tmp_path / "file" / "below")}
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "bench", "--quick", "--only", "engine/read-lz4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "did not run: " in done.stdout


def test_names_are_found_and_each_is_one_word():
    assert all(re.fullmatch(r"[a-z]+/[\w-]+", name) for name in scenarios(quick=True))


def test_the_page_shows_ratios_losses_with_their_reason_and_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOCS", tmp_path)

    def record(ours: float, theirs: float, **others) -> dict:
        contestants = [
            {
                "name": name,
                "seconds": [it, it * 1.1, it * 1.05],
                "target": target,
                "floor": False,
                "facts": {"size": 2e6},
            }
            for name, it, target in (("aljava", ours, None), ("pyarrow", theirs, 2.0))
        ]
        plain = {"nbytes": 10**9, "why": "", "repeated": 1, "memcpy": [10.0, 10.5], "noise": [], "took": 1}
        about = {"name": f"{ours} against {theirs}", "missing": ["Ray"], "at": "2026-01-01T00:00:00"}
        return {**plain, **about, "contestants": contestants, **others}

    records = {
        "files/won": record(1, 3),
        "files/lost": record(2, 1, why="It looks twice.", noise=["others used 30% of the processors"]),
        "store/short": record(1, 1.5, why="It waits."),
        "store/broken": {"failed": "no such thing", "took": 1, "at": "2026-01-01T00:00:00"},
    }
    written = page.make(records, machine(), ["sql/later"])
    text = written[0].read_text()
    assert "faster in **2**, level in **0** and slower in **1**" in text
    assert "**1 against 3** · `make bench ONLY=files/won`\n<br>*Not installed:* Ray.\n" in text
    assert "\n| aljava | 1.05 s | 0.95 GB/s |  |  | size 2.00 MB |\n" in text
    assert "\n| pyarrow | 3.15 s | 0.32 GB/s | **3.00×** (3.00× – 3.00×) | 2.00× ✓ | size 2.00 MB |\n" in text
    assert "(`files/lost`), 0.50× against pyarrow. It looks twice." in text
    assert "(`store/short`), 1.50× of 2.00× to reach against pyarrow. It waits." in text
    assert "*Noisy:* others used 30% of the processors" in text
    assert "- `store/broken`: no such thing" in text
    assert "- `sql/later`: not measured yet" in text
    assert [path.name for path in written[1:]] == ["overview.svg", "files.svg", "store.svg"]
    for path in written[1:]:
        assert "prefers-color-scheme:dark" in "".join(ElementTree.parse(path).getroot().itertext())
