"""Damaged and forged checkpoints, loaded in child processes with limits on memory and time.

python tests/fuzzing.py CASES [SEED]
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM
from transformers.utils import logging

import vocabpress
from cases import FORMS, V
from mutations import MUTATIONS, WEIGHTS, Files, pick
from vocabpress.hf.checkpoint import open_model
from vocabpress.hf.modules import owned_tables
from vocabpress.hf.quantizer import attach
from vocabpress.hf.swap import install

MEMORY = 4 * 2**30  # bytes of address space that a child may take beyond what it starts with
SECONDS = 20  # of one case; one takes a twentieth of one
BATCH = 200  # cases of one child
NAME = "bert.embeddings.word_embeddings"
CLEAN = (ValueError, OSError, SafetensorError)  # of ours, of transformers, of safetensors
REFUSALS = ("ignore_mismatched_sizes", "Storage size calculation overflowed")  # of transformers, of torch for the model
FINE = {"refused", "equal", "an error of transformers'", "another model, forged"}


def make_base(name, folder):
    """A tiny BERT whose table is one of the cases of `tests/cases.py`; every third one in several files."""
    torch.manual_seed(0)
    table = FORMS[name]()
    width = table.embedding_dim
    sizes = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    model = BertForMaskedLM(BertConfig(**sizes, vocab_size=V, max_position_embeddings=8)).eval()
    install(model, NAME, table)
    config = vocabpress.VocabpressConfig(tables={NAME.removeprefix("bert."): table.config()})
    attach(model, config)
    model.save_pretrained(folder, max_shard_size="2kB" if list(FORMS).index(name) % 3 == 2 else "1GB")


def outcome_of(load):
    """What a loader makes of a folder: a model and None, or None and a word for the error."""
    try:
        return load(), None
    except Exception as error:
        chain, link = [], error
        while link is not None and len(chain) < 20:
            chain.append(link)
            link = link.__context__
        texts = " ".join(str(link) for link in chain)
        if any(isinstance(link, MemoryError) for link in chain) or "allocate" in texts:
            return None, f"out of memory: {texts[:200]}"
        if isinstance(error, CLEAN) or any(word in str(error) for word in REFUSALS):
            return None, "refused"
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if last.endswith("transformers/configuration_utils.py"):  # before it asks us: a nested "dtype" that is no text
            return None, "an error of transformers'"
        return None, f"{type(error).__name__}: {str(error)[:200]}"


def open_plainly(folder):
    """As a user loads it, but that a tensor which is lacking is an error, not a warning."""
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    if info["missing_keys"]:
        raise ValueError("transformers says what is missing")
    return model


def numbers(model):
    """All that a model holds, and what it says."""
    with torch.no_grad():
        logits = model(input_ids=torch.arange(V)[None, :8]).logits
        tables = {name: table.dense() for name, table in owned_tables(model).items()}
    return {**model.state_dict(), "logits": logits, **tables}


def judge(folder, files, expected, plainly):
    """One case: a word for its outcome."""
    model, error = outcome_of(lambda: open_plainly(folder) if plainly else open_model(folder, AutoModelForMaskedLM))
    if model is None:
        return error
    found, error = outcome_of(lambda: numbers(model))
    if found is None:
        return f"loaded, but does not run: {error}"
    same = found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())
    return "equal" if same else "another model, forged" if files.forged else "a silent wrong answer"


class Fuzzer:
    """Bases, and a place for one case.

    Args:
        place: A folder, better in memory.
        names: Of the cases of `tests/cases.py` to start from.
    """

    def __init__(self, place, names):
        self.place, self.bases, self.expected = Path(place), {}, {}
        for name in names:
            base = self.place / "base"
            make_base(name, base)
            self.bases[name] = {file.name: file.read_bytes() for file in base.iterdir()}
            self.expected[name] = numbers(open_plainly(base))
            shutil.rmtree(base)
        whole = next(files for files in self.bases.values() if WEIGHTS in files)
        (self.place / "outside.safetensors").write_bytes(whole[WEIGHTS])  # a way out of the folder would find it

    def case(self, seed, number):
        """Kind, base and files of a case."""
        draw = np.random.default_rng((seed, number))
        name = pick(draw, list(self.bases))
        files, mutation = Files(self.bases[name]), pick(draw, MUTATIONS)
        try:
            mutation(files, draw)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
            files = Files(self.bases[name])  # a second change found nothing that it knows
        return mutation.__name__, name, files, bool(draw.integers(2))

    def run_case(self, seed, number):
        """The outcome of a case, in this process."""
        _, name, files, plainly = self.case(seed, number)
        folder = self.place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return judge(folder, files, self.expected[name], plainly)

    def run(self, count, seed=0):
        """Outcome -> how many, and a line for each case that went wrong."""
        outcomes, wrong, number = Counter(), [], 0
        while number < count:
            told = self._child(seed, number, min(count, number + BATCH))
            for line in told:
                kind, name, *_ = self.case(seed, number) if line not in FINE else ("", "")
                outcomes[line if line in FINE else "wrong"] += 1
                if line not in FINE:
                    wrong.append(f"case {number} of seed {seed}: {kind} of {name!r}: {line}")
                number += 1
        return outcomes, wrong

    def _child(self, seed, first, last):
        """Outcomes of cases, one after another; the last one says so if the process did not come through."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            self._limit()
            for number in range(first, last):
                signal.alarm(SECONDS)
                os.write(writing, (json.dumps(self.run_case(seed, number)) + "\n").encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            told = [json.loads(line) for line in stream]
        _, status = os.waitpid(child, 0)
        if len(told) < last - first:
            told.append("hung" if os.WTERMSIG(status) == signal.SIGALRM else f"the process ended with status {status}")
        return told

    @staticmethod
    def _limit():
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def fuzz(count, seed=0, names=tuple(FORMS)):
    """Run cases; outcome -> how many, and what went wrong."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        return Fuzzer(place, names).run(count, seed)


if __name__ == "__main__":
    counted, failures = fuzz(int(sys.argv[1]), int([*sys.argv, "0"][2]))
    sys.stdout.write("\n".join([*failures[:60], json.dumps(counted), ""]))
