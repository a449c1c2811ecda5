"""A bad network: passes IP packets between two hosts, and loses, delays and reorders some.

Run as `python forwarder.py NAMESPACE LOSS DELAY` by root. Makes the device `aljtun` in the namespace that it runs in,
and another in NAMESPACE (both are gone when it ends), says `ready`, and from then on passes packets between them: of
each hundred LOSS are lost, and each takes DELAY milliseconds, give or take half, so that some overtake others.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000


def device() -> int:
    """A TUN device of the namespace that this thread is in: what the host sends to it is read here."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"aljtun", _IFF_TUN | _IFF_NO_PI))
    return descriptor


def main(namespace: str, loss: float, delay: float) -> None:
    ours = device()
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as other:
        if libc.setns(other.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    theirs = device()
    print("ready", flush=True)
    chance = random.Random(7)
    waiting: list[tuple[float, int, int, bytes]] = []
    counts = {"passed": 0, "lost": 0, "overtaken": 0}
    number = newest = 0
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.5
        try:
            ready, _, _ = select.select([ours, theirs], [], [], pause)
        except KeyboardInterrupt:
            break
        for source in ready:
            while True:
                try:
                    packet = os.read(source, 65536)
                except BlockingIOError:
                    break
                if chance.random() < loss / 100:
                    counts["lost"] += 1
                    continue
                number += 1
                due = time.monotonic() + delay / 1000 * chance.uniform(0.5, 1.5)
                heapq.heappush(waiting, (due, number, theirs if source == ours else ours, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, order, target, packet = heapq.heappop(waiting)
            counts["overtaken"] += order < newest
            newest = max(newest, order)
            try:
                os.write(target, packet)
                counts["passed"] += 1
            except OSError:  # the host's queue is full: one more that is lost
                counts["lost"] += 1
    print(*(f"{name}={count}" for name, count in counts.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
