"""Every architecture of the installed transformers as a tiny model: compressed, saved, loaded, compared.

python benchmarks/architectures.py              all that are not in results/architectures.json: a stopped run continues
python benchmarks/architectures.py bert t5      these, again
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from conformance.catalogue import model_types
from conformance.check import check
from conformance.record import Record
from vocabpress.results import Result, read_results, write_results

os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads that load weights don't get on with forks
FILE = Path(__file__).parent / "results" / "architectures.json"
SECONDS = 90
"""Time limit of an architecture."""


def guarded(model_type: str, turn: int, quick: bool) -> Record:
    """`check` in a process of its own, so that neither a crash nor a hang ends the run."""
    context = multiprocessing.get_context("fork")  # a fork has all the imports
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(sender, model_type, turn, quick))
    start = time.perf_counter()
    worker.start()
    sender.close()
    try:
        record = receiver.recv() if receiver.poll(SECONDS) else None
        cause = f"took more than {SECONDS} seconds"
    except EOFError:
        record, cause = None, "the process died"
    if worker.is_alive() and record is None:
        worker.kill()
    worker.join()
    seconds = round(time.perf_counter() - start, 2)
    return record or Record(model_type, outcome="fails", cause=cause, seconds=seconds)


def _work(sender: Connection, model_type: str, turn: int, quick: bool) -> None:
    sender.send(check(model_type, turn, quick))


def result(record: Record) -> Result:
    """A record in the common result format."""
    details: dict[str, Any] = asdict(record)
    settings = {name: details.pop(name) for name in ("model_type", "model_class", "methods")}
    return Result("architectures", record.model_type, settings, {}, {}, details.pop("seconds"), details=details)


def main() -> int:
    """Check the named architectures, or all without a result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model_type", nargs="*", help="as in config.json; without any, all without a result")
    parser.add_argument("--quick", action="store_true", help="one case each, and no results written")
    chosen = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    every = model_types()
    found = {row.variant: row for row in read_results(FILE)} if FILE.exists() and not chosen.quick else {}
    for name in chosen.model_type or [name for name in every if name not in found]:
        record = guarded(name, every.index(name), chosen.quick)
        found[name] = result(record)
        print(f"{name}: {record.outcome}{f', {record.cause}' if record.cause else ''} ({record.seconds} s)", flush=True)
        if not chosen.quick:
            write_results(FILE, [found[name] for name in every if name in found])
    counts = Counter(row.details["outcome"] for row in found.values())
    print(f"transformers {transformers.__version__}: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
