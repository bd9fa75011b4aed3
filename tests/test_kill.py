"""kill -9 at any moment, full disks, folders that can't be written, two runs on one target."""

import os
import random
import resource
import shutil
import signal
import stat
import sys
import time

import pytest
from transformers import AutoTokenizer

import tiny
from killing import JOBS, Nursery, contents, is_whole, results
from vocabpress import Budget, compress
from vocabpress.hf.writing import written_at_once

KILLS = {"compress": 60, "export": 50, "recover": 60, "sweep": 60}  # 230


@pytest.fixture
def place(tmp_path):
    tiny.save("bert", tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "source")
    tokenizer.pad_token = "w0"
    tokenizer.save_pretrained(tmp_path / "source")
    lines = [f"w{3 + i} w{4 + 2 * i} w{5 + i * i % 190} w7 w{i + 9}" for i in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    compress(tmp_path / "source", tmp_path / "small", method="svd", budget=Budget.ratio(4), measure=False)
    return tmp_path


def empty(place):
    """Everything that a job may have left, but not what it reads."""
    kept = {"source", "small", "text.txt", "log.txt"}
    for path in place.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_whenever_it_is_killed_the_target_is_whole_or_absent_and_a_second_run_ends_alike(place, job, capsys):
    if job == "export":
        pytest.importorskip("onnxruntime", reason="export needs the extra onnx")
    nursery, out, draw = Nursery(place), place / "out", random.Random(0)
    read = results if job == "sweep" else contents
    for _ in range(2):  # the second time tells how long it takes
        empty(place)
        code, seconds = nursery.whole(job)
        assert code == 0, (place / "log.txt").read_text()
    expected = read(out)
    assert expected
    empty(place)
    kills = at_work = resumed = 0
    while kills < KILLS[job]:
        kills += 1
        in_time = nursery.killed(job, draw.uniform(0, seconds))
        at_work, seconds = at_work + in_time, seconds if in_time else 0.95 * seconds  # the machine may have got faster
        if job == "sweep":
            assert read(out).items() <= expected.items()  # each result is there whole, or not at all
            assert all(is_whole(made) for made in out.glob("models/*"))
        elif out.exists():
            assert read(out) == expected
            empty(place)
        if (
            kills % (2 if job == "sweep" else 5) == 0
        ):  # the others leave what they left, and the next one goes on from there
            code, _ = nursery.whole(job) if job == "sweep" or not out.exists() else (0, 0)
            assert code == 0, (place / "log.txt").read_text()[-2000:]
            assert read(out) == expected
            resumed += 1
            empty(place)
    with capsys.disabled():
        sys.stdout.write(f"\n{job}: {kills} kills, {at_work} at work, {resumed} runs to the end after, nothing lost\n")
    assert at_work > kills // 2


def test_a_kill_leaves_no_half_of_a_target(place):
    """The quick form of the above."""
    nursery, draw = Nursery(place), random.Random(1)
    code, seconds = nursery.whole("compress")
    assert code == 0, (place / "log.txt").read_text()
    expected = contents(place / "out")
    for _ in range(8):
        shutil.rmtree(place / "out", ignore_errors=True)
        nursery.killed("compress", draw.uniform(0, seconds))
        assert not (place / "out").exists() or contents(place / "out") == expected
    shutil.rmtree(place / "out", ignore_errors=True)
    assert nursery.whole("compress")[0] == 0
    assert contents(place / "out") == expected


@pytest.mark.parametrize("job", JOBS)
def test_a_full_disk_is_an_error_in_a_line(place, job, monkeypatch):
    """A limit on the size of files stands for the disk: no write gets past 20 kB."""
    if job == "export":
        pytest.importorskip("onnxruntime", reason="export needs the extra onnx")
    job_itself = JOBS[job]

    def limited(folder):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        job_itself(folder)

    monkeypatch.setitem(JOBS, job, limited)
    code, _ = Nursery(place).whole(job)
    log = (place / "log.txt").read_text()
    assert code == 2, log[-2000:]
    assert "File too large" in log or "can't write" in log
    assert job == "sweep" or not (place / "out").exists()


def test_a_real_full_disk(place):
    """A file system in memory of 100 kB, where this may be mounted."""
    disk = place / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=100k tmpfs {disk} 2>/dev/null"):
        pytest.skip("no file system may be mounted here")
    try:
        with pytest.raises(ValueError, match="No space left on device"):
            compress(place / "source", disk / "out", method="svd", budget=Budget.ratio(4), measure=False)
        assert not list(disk.iterdir())
    finally:
        os.system(f"umount {disk}")


def test_a_folder_that_can_not_be_written(place, monkeypatch):
    locked = place / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(locked, os.W_OK):  # root may write anywhere, but not into a file system of the kernel
        locked = type(place)("/proc")
    with pytest.raises(ValueError, match="can't write"):
        compress(place / "source", locked / "out", method="svd", budget=Budget.ratio(4), measure=False)


def test_of_two_runs_on_one_target_one_wins_whole(place):
    """Both start when there is none; the second to end finds it there."""
    nursery = Nursery(place)
    expected_code, _ = nursery.whole("compress")
    assert expected_code == 0
    expected = contents(place / "out")
    shutil.rmtree(place / "out")
    children = [nursery.start("compress") for _ in range(3)]
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes[0] == 0
    assert set(codes) <= {0, 2}, (place / "log.txt").read_text()
    assert contents(place / "out") == expected
    assert not [path for path in place.iterdir() if path.name.startswith(".out-")]


def test_what_a_killed_run_left_goes_with_the_next_and_nothing_else_does(tmp_path):
    target = tmp_path / "out"
    theirs = [tmp_path / name for name in (".out-original", ".out-vocabpress-notes", ".other-vocabpress-abcd1234")]
    for folder in theirs:
        folder.mkdir()
        (folder / "file").write_text("theirs")
    child = os.fork()
    if not child:
        with written_at_once(target) as temporary:
            (temporary / "file").write_text("half")
            signal.pause()
    while not list(tmp_path.glob(".out-vocabpress-????????/*/file")):
        time.sleep(0.01)
    (left,) = tmp_path.glob(".out-vocabpress-????????")
    for alive in (True, False):
        if not alive:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert left.exists()
        with written_at_once(target) as temporary:
            (temporary / "file").write_text("whole")
            assert left.exists() == alive
        assert sorted(tmp_path.iterdir()) == sorted([*theirs, target, *([left] if alive else [])])
        assert (target / "file").read_text() == "whole"
        shutil.rmtree(target)
