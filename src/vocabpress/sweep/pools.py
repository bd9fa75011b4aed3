"""Where cells run: processes of this machine, or jobs of a cluster. Either way a cell is a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from vocabpress.sweep.expand import Cell, Folders

GRACE = 15.0  # seconds that a stopped cell has to remove what it has half written
POLL_LOCAL, POLL_CLUSTER = 0.5, 10.0  # seconds between looks at submitit's jobs
DEFAULTS = {"name": "vocabpress", "timeout_min": 60}  # submitit's own limit is five minutes
Ended = Callable[[Cell, str | None], None]
"""Called with each cell that ends, and why it failed; None if it did not."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Process:
    """A cell as a process of its own, so that whatever happens to it happens to it alone.

    Attributes:
        spec: The file with its input.
        log: Gets what it prints.
        threads: Threads of torch; None takes the cores where it runs.
    """

    spec: str
    log: str
    threads: int | None

    def __call__(self) -> str | None:
        """Run it here; returns why it failed, None if it did not."""
        return self.reason(self.start().wait())

    def checkpoint(self) -> Any:
        """For submitit: a job that was preempted or ran out of time is queued again as it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", "vocabpress.sweep.cell", self.spec]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, in a process group of its own: Ctrl-C reaches the sweep alone, which then stops its cells."""
        environment = {
            "OMP_NUM_THREADS": str(self.threads or cores()),
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin slow each other down
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_MININTERVAL": "10",  # progress bars go into a file
        }
        with Path(self.log).open("wb") as log:
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
        text = Path(self.log).read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"error: |([A-Za-z_]\w*\.)*\w*(Error|Exception)\b", line)]
        return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")


def process_of(cell: Cell, folders: Folders, threads: int | None) -> Process:
    """The process of a cell."""
    return Process(str(folders.spec(cell.name)), str(folders.log(cell.name)), threads)


class LocalPool:
    """A number of processes at a time on this machine.

    Args:
        folders: Of the sweep.
        workers: Processes at a time.
        threads: Threads of each.
    """

    def __init__(self, folders: Folders, workers: int, threads: int) -> None:
        self.folders, self.workers, self.threads = folders, workers, threads
        self._lock, self._stopped = Lock(), False
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, cells: Sequence[Cell], ended: Ended) -> None:
        """Run cells, and report each as it ends; an interruption stops those that run."""
        with ThreadPoolExecutor(self.workers) as pool:
            futures = {pool.submit(self._run_one, process_of(cell, self.folders, self.threads)): cell for cell in cells}
            try:
                for future in as_completed(futures):
                    ended(futures[future], future.result())
            except BaseException:
                self._stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _run_one(self, process: Process) -> str | None:
        with self._lock:
            if self._stopped:
                return "interrupted"
            child = process.start()
            self._running.append(child)
        return process.reason(child.wait())

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
        for child in self._running:
            child.terminate()  # nothing, if it has ended
        for child in self._running:
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()


class Cluster:
    """Jobs of a cluster, through submitit.

    Args:
        folders: Of the sweep, on a file system that the nodes share.
        parameters: Of submitit's AutoExecutor; ``timeout_min`` is 60 unless they say otherwise.
        cluster: ``"slurm"``, or ``"local"`` for trying it out.
        threads: Threads of torch; None takes the cores of the job.

    Raises:
        ValueError: If submitit or the cluster is not there, or does not take the parameters.
    """

    def __init__(self, folders: Folders, parameters: Mapping[str, Any], cluster: str, threads: int | None) -> None:
        try:
            import submitit
        except ImportError:
            raise ValueError("--slurm needs submitit; install it with: pip install 'vocabpress[slurm]'") from None
        self.folders, self.threads, self.submitit = folders, threads, submitit
        self.poll = POLL_LOCAL if cluster == "local" else POLL_CLUSTER
        try:
            self.executor = submitit.AutoExecutor(folders.output / "slurm", cluster=cluster)
            self.executor.update_parameters(**{**DEFAULTS, **parameters})
        except RuntimeError:
            raise ValueError("there is no SLURM here (srun is not found); leave --slurm out to run locally") from None
        except (NameError, ValueError, AssertionError) as error:
            raise ValueError(f"slurm: {str(error).splitlines()[0]}") from None

    def run(self, cells: Sequence[Cell], ended: Ended) -> None:
        """Submit cells as one array, and report each as it ends; an interruption cancels those that did not.

        Raises:
            ValueError: If the cluster refuses the jobs.
        """
        try:
            jobs = self.executor.submit_array([process_of(cell, self.folders, self.threads) for cell in cells])
        except (self.submitit.core.utils.FailedJobError, self.submitit.core.utils.FailedSubmissionError) as error:
            raise ValueError(f"the cluster refused the jobs: {' '.join(str(error).split())}") from None
        cell_of = dict(zip((job.job_id for job in jobs), cells, strict=True))
        try:
            for job in self.submitit.helpers.as_completed(jobs, poll_frequency=self.poll):
                ended(cell_of[job.job_id], self._reason(job))
        except BaseException:
            for job in jobs:
                job.cancel(check=False)
            raise

    def _reason(self, job: Any) -> str | None:
        try:
            return job.result()
        except Exception:  # whatever the job raised, or submitit's own where there is no result
            return f"job {job.job_id} ended as {job.state}; its logs are in {self.executor.folder}"
