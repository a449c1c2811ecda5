"""Two hosts, as network namespaces, and a cable between them that loses, delays and reorders packets and can be cut.

Where the kernel has `tc netem` the cable is a veth pair with it. Elsewhere each host has a TUN device, and this file,
run as a program, carries the packets between the two.
"""

import contextlib
import fcntl
import heapq
import os
import random
import re
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).resolve().parents[2]
#: The addresses of the two hosts.
HOSTS = ("10.213.77.1", "10.213.77.2")
_LOSS, _DELAY, _JITTER = 0.01, 0.001, 0.002
# <linux/if_tun.h>: TUNSETIFF, and IFF_TUN | IFF_NO_PI.
_SET_INTERFACE, _PLAIN_PACKETS = 0x400454CA, 0x1001


class Cable:
    """Two hosts and what is between them; `close` removes everything, the processes on the hosts first."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self._carrier: subprocess.Popen[bytes] | None = None
        self._lost = 0
        _remove_left_behind()
        self.names = [f"alj{os.getpid()}{end}" for end in "ab"]
        try:
            for name in self.names:
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            if self._has_netem():
                first, second = self.names
                ip("-n", first, "link", "add", first, "type", "veth", "peer", "name", second, "netns", second)
                self._netem("add", *_WORN)
            else:
                self._carry()
            for name, host in zip(self.names, HOSTS, strict=True):
                ip("-n", name, "addr", "add", f"{host}/24", "dev", name)
                ip("-n", name, "link", "set", name, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            said = getattr(error, "stderr", None) or error
            pytest.skip(f"no two hosts here (they take root, iproute2 and netem or /dev/net/tun): {said}")

    def start(self, host: int, code: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python process on one of the hosts, 0 or 1."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]])}
        command = ["ip", "netns", "exec", self.names[host], sys.executable, "-c", code, *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=HERE)
        self.processes.append(process)
        return process

    def cut(self) -> None:
        """From now on nothing arrives, and no host is told."""
        if self._carrier is None:
            self._netem("change", "loss", "100%")
        else:
            self._tell(b"cut\n")

    def pull(self, host: int) -> None:
        """Takes the plug out of one host, which notices."""
        ip("-n", self.names[host], "link", "set", self.names[host], "down")

    def mend(self) -> None:
        """The cable is as it was."""
        for name in self.names:
            ip("-n", name, "link", "set", name, "up")
        if self._carrier is None:
            self._netem("change", *_WORN)
        else:
            self._tell(b"mend\n")

    def lost(self) -> int:
        """How many packets the cable has lost."""
        if self._carrier is not None:
            return int(self._tell(b"lost\n"))
        shown = [ip("netns", "exec", name, "tc", "-s", "qdisc", "show", "dev", name) for name in self.names]
        return sum(int(found) for text in shown for found in re.findall(r"dropped (\d+)", text))

    def close(self) -> None:
        """Removes everything."""
        for process in self.processes:
            process.kill()
            process.communicate()
        if self._carrier is not None:
            self._carrier.kill()
            self._carrier.communicate()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _has_netem(self) -> bool:
        lo = ["ip", "netns", "exec", self.names[0], "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms"]
        return subprocess.run(lo, capture_output=True, check=False).returncode == 0

    def _netem(self, verb: str, *how: str) -> None:
        for name in self.names:
            ip("netns", "exec", name, "tc", "qdisc", verb, "dev", name, "root", "netem", *how)

    def _carry(self) -> None:
        ends = []
        try:
            for name in self.names:
                ends.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
                fcntl.ioctl(ends[-1], _SET_INTERFACE, struct.pack("16sH22x", name.encode(), _PLAIN_PACKETS))
                ip("link", "set", name, "netns", name)
            command = [sys.executable, __file__, *map(str, ends)]
            pipe = subprocess.PIPE
            self._carrier = subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=ends, bufsize=0)
        finally:
            for end in ends:
                os.close(end)

    def _tell(self, word: bytes) -> bytes:
        self._carrier.stdin.write(word)
        return self._carrier.stdout.readline()


_WORN = (
    *("delay", f"{1000 * (_DELAY + _JITTER / 2):g}ms", f"{500 * _JITTER:g}ms"),
    *("loss", f"{100 * _LOSS:g}%", "limit", "10000"),
)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _remove_left_behind() -> None:
    """Hosts of tests that were killed."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        for pid in re.findall(r"^alj(\d+)[ab]\b", ip("netns", "list"), re.MULTILINE):
            if not psutil.pid_exists(int(pid)):
                for end in "ab":
                    subprocess.run(["ip", "netns", "del", f"alj{pid}{end}"], capture_output=True, check=False)


def carry(ends: list[int]) -> None:
    """Carries packets between two TUN devices, and does as standard input says, until that ends."""
    poll = select.poll()
    for descriptor in (0, *ends):
        poll.register(descriptor, select.POLLIN)
    under_way: list[tuple[float, int, bytes]] = []
    is_cut, lost = False, 0
    while True:
        wait = None if not under_way else max(0, 1000 * (under_way[0][0] - time.monotonic()))
        for descriptor, _ in poll.poll(wait):
            if descriptor == 0:
                word = os.read(0, 100)
                if not word:
                    return
                is_cut = {b"cut\n": True, b"mend\n": False}.get(word, is_cut)
                os.write(1, b"%d\n" % lost)
                continue
            with contextlib.suppress(BlockingIOError):
                while packet := os.read(descriptor, 1 << 16):
                    if is_cut or random.random() < _LOSS:
                        lost += 1
                        continue
                    # Those that are delayed less overtake the others.
                    due = time.monotonic() + _DELAY + random.random() * _JITTER
                    heapq.heappush(under_way, (due, ends[1 - ends.index(descriptor)], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = heapq.heappop(under_way)
            with contextlib.suppress(OSError):  # the plug is out
                if not is_cut:
                    os.write(end, packet)


if __name__ == "__main__":
    carry([int(text) for text in sys.argv[1:]])
