"""Memory of a child process, as counted by the kernel.

Anonymous memory belongs to the process alone: tensors that it made, or copied. Pages of a mapped file are resident,
too, but belong to the file: under pressure the kernel drops them, and reads them again. So a job needs the first; `top`
shows the sum.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.002  # seconds between two samples


class Usage(NamedTuple):
    """Resources of a process.

    Attributes:
        anonymous: Peak of the sampled anonymous memory, in bytes.
        resident: Peak resident memory, by the kernel's own count, in bytes.
        seconds: From its start to its end.
        output: Its stdout.
    """

    anonymous: int
    resident: int
    seconds: float
    output: str


def anonymous(process: int | str = "self") -> int:
    """Bytes of anonymous memory of a process; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def watch(command: Sequence[str], limit: int | None = None) -> Usage:
    """Run a program to its end, and sample its memory.

    Args:
        command: Program and arguments; its stderr is not captured.
        limit: Bytes of anonymous memory beyond which it is killed.

    Raises:
        MemoryError: If it exceeded the limit.
        RuntimeError: If it failed.
    """
    start, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stdout:
        child = subprocess.Popen(command, stdout=stdout)
        while True:
            ended, status, used = os.wait4(child.pid, os.WNOHANG)
            if ended:
                break
            most = max(most, anonymous(child.pid))
            if limit is not None and most > limit:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
                raise MemoryError(f"{command[0]} used {most:,} bytes of anonymous memory, the limit is {limit:,}")
            time.sleep(INTERVAL)
        child.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        output = stdout.read()
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}: {output[-2000:]}")
    return Usage(most, used.ru_maxrss * 1024, time.perf_counter() - start, output)
