"""Where cells run: processes of this machine, or jobs of a cluster. In both cases a cell is a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from vocabpress.sweep.expand import Folders

GRACE = 15.0  # seconds that a stopped cell has to remove what it has half written
POLL_LOCAL, POLL_CLUSTER = 0.5, 10.0  # seconds between looks at submitit's jobs
DEFAULTS = {"name": "vocabpress", "timeout_min": 60}  # submitit's own limit is five minutes
Ended = Callable[[str, str | None], None]
"""Called with the name of each cell that ends, and why it failed; None if it did not."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Process:
    """A cell as a process of its own, so that a crash affects no other."""

    cell: str  # its name
    folders: Folders  # of its input and the log of its output
    threads: int | None  # of torch; None takes the cores where it runs

    def __call__(self) -> str | None:
        """Run it here; returns why it failed, or None."""
        return self.reason(self.start().wait())

    def checkpoint(self) -> Any:
        """For submitit: a job that was preempted or ran out of time is queued again as it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "vocabpress.sweep.cell", str(self.folders.spec(self.cell))]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, in a process group of its own: Ctrl-C reaches the sweep alone, which then stops its cells."""
        environment = {
            "OMP_NUM_THREADS": str(self.threads or cores()),
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin slow each other down
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_MININTERVAL": "10",  # progress bars go into a file
        }
        with self.folders.log(self.cell).open("wb") as log:
            return subprocess.Popen(
                self.command(),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def reason(self, code: int) -> str | None:
        """Why it failed, from its exit code and its log."""
        if code == 0:
            return None
        if code < 0:
            why = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{why}"
        text = self.folders.log(self.cell).read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"error: |([A-Za-z_]\w*\.)*\w*(Error|Exception)\b", line)]
        return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")


def run_local(processes: Sequence[Process], ended: Ended, *, workers: int) -> None:
    """Run ``workers`` processes at a time and report each as it ends; an interruption stops those that run."""
    lock, stopped, running = Lock(), Event(), []

    def run_one(process: Process) -> str | None:
        with lock:
            if stopped.is_set():
                return "interrupted"
            running.append(child := process.start())
        return process.reason(child.wait())

    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(run_one, process): process.cell for process in processes}
        try:
            for future in as_completed(futures):
                ended(futures[future], future.result())
        except BaseException:
            with lock:
                stopped.set()
            _stop(running)
            raise


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in running:
        child.terminate()  # does nothing to one that has ended
    for child in running:
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()


def open_cluster(folder: Path, parameters: Mapping[str, Any], cluster: str) -> Any:
    """An executor of submitit, with its logs in ``folder``, which the nodes must share.

    ``cluster`` is ``"slurm"``, or ``"local"`` for a trial; ``parameters`` are those of submitit's AutoExecutor.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("--slurm needs submitit; install it with: pip install 'vocabpress[slurm]'") from None
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(**{**DEFAULTS, **parameters})
    except RuntimeError:
        raise ValueError("there is no SLURM here (srun is not found); leave --slurm out to run locally") from None
    except (NameError, ValueError, AssertionError) as error:
        raise ValueError(f"slurm: {str(error).splitlines()[0]}") from None
    return executor


def run_cluster(processes: Sequence[Process], ended: Ended, *, executor: Any) -> None:
    """Submit processes as one array and report each as it ends; an interruption cancels the rest."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.helpers import as_completed as jobs_as_completed

    try:
        jobs = executor.submit_array(processes)
    except (FailedJobError, FailedSubmissionError) as error:
        raise ValueError(f"the cluster refused the jobs: {' '.join(str(error).split())}") from None
    cell_of = {job.job_id: process.cell for job, process in zip(jobs, processes, strict=True)}
    try:
        for job in jobs_as_completed(jobs, poll_frequency=POLL_LOCAL if executor.cluster == "local" else POLL_CLUSTER):
            try:
                reason = job.result()
            except Exception:  # whatever the job raised, or submitit's own where there is no result
                reason = f"job {job.job_id} ended as {job.state}; its logs are in {executor.folder}"
            ended(cell_of[job.job_id], reason)
    except BaseException:
        for job in jobs:
            job.cancel(check=False)
        raise
