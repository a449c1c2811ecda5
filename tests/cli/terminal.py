"""What a command writes to a terminal: its standard error is one."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Sequence
from pathlib import Path


def received(ours: int) -> bytes:
    """All that a terminal gets until its other side is closed; closes it."""
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
    return shown


def shown_while(
    command: Sequence[str], *, cwd: Path, do: Callable[[subprocess.Popen[bytes]], None] | None = None
) -> tuple[str, int]:
    """Runs a command with a terminal of 100 columns for its standard error.

    Args:
        command: the program and its arguments.
        cwd: where it runs.
        do: called once it runs.

    Returns:
        all that the terminal got, and the exit status.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    shown: list[bytes] = []

    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, cwd=cwd, env=environment
    ) as process:
        os.close(theirs)
        listener = threading.Thread(target=lambda: shown.append(received(ours)))
        listener.start()
        try:
            if do is not None:
                do(process)
            process.wait(60)
        finally:
            process.kill()
    listener.join()
    return b"".join(shown).decode(errors="replace"), process.returncode
