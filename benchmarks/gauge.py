"""Memory of a child process, as the kernel counts it.

Anonymous memory is what a process alone holds: tensors that it made, or copied. Pages of a file that is mapped are
resident, too, but belong to the file: under pressure the kernel drops them, and reads them again. So the first is what
a job needs; both together are what `top` shows.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.002  # seconds between two looks


class Usage(NamedTuple):
    """What a process took.

    Attributes:
        anonymous: The most anonymous memory that was seen, in bytes.
        resident: The most resident memory, by the kernel's own count, in bytes.
        seconds: From its start to its end.
        said: What it wrote to stdout.
    """

    anonymous: int
    resident: int
    seconds: float
    said: str


def anonymous(process: int | str = "self") -> int:
    """Bytes of anonymous memory that a process holds; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def watch(command: Sequence[str], limit: int | None = None) -> Usage:
    """Run a program to its end, and look at its memory all the while.

    Args:
        command: Program and arguments; stderr shows through.
        limit: Bytes of anonymous memory beyond which it is killed.

    Raises:
        MemoryError: If it went beyond the limit.
        RuntimeError: If it failed.
    """
    start, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        child = subprocess.Popen(command, stdout=output)
        while True:
            ended, status, used = os.wait4(child.pid, os.WNOHANG)
            if ended:
                break
            most = max(most, anonymous(child.pid))
            if limit is not None and most > limit:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
                raise MemoryError(f"{command[0]} held {most:,} bytes of anonymous memory, the limit is {limit:,}")
            time.sleep(INTERVAL)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}: {said[-2000:]}")
    return Usage(most, used.ru_maxrss * 1024, time.perf_counter() - start, said)
