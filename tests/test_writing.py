"""Output folders of all kinds, found out before the work; and what belongs to a model beside its weights."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

import tiny
from vocabpress import Budget, compress
from vocabpress.hf.companions import companions, copy_companions
from vocabpress.hf.writing import check_output, written_at_once
from vocabpress.recover import Recovery, recover
from vocabpress.trim import trim


def write(target):
    with written_at_once(check_output(target)) as temporary:
        for name in ("model.safetensors", "config.json", "a.txt"):
            (temporary / name).write_text(name)
        (temporary / "onnx").mkdir()
        (temporary / "onnx" / "model.onnx").write_text("graph")


def is_whole(folder):
    names = sorted(path.name for path in folder.iterdir() if path.name != "lost+found")
    return names == ["a.txt", "config.json", "model.safetensors", "onnx"] and (folder / "onnx" / "model.onnx").is_file()


@pytest.mark.parametrize("kind", ["new", "in new folders", "empty", "link", "link to nothing", "current", "volume"])
def test_any_empty_place_is_filled(kind, tmp_path, monkeypatch):
    target = tmp_path / "out"
    if kind == "in new folders":
        target = tmp_path / "a" / "b" / "out"
    elif kind == "empty":
        target.mkdir(mode=0o711)
    elif kind == "link":
        (tmp_path / "real").mkdir()
        target.symlink_to("real")
    elif kind == "link to nothing":
        target.symlink_to("real")
    elif kind == "current":
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        target = Path()
    elif kind == "volume":
        target.mkdir()
        (target / "lost+found").mkdir()
    before = target.stat() if target.is_dir() else None
    write(target)
    assert is_whole(target)
    assert target.is_symlink() == kind.startswith("link")
    if before is not None:  # the folder itself stayed: its owner, its rights, what is mounted there
        assert (target.stat().st_ino, target.stat().st_mode) == (before.st_ino, before.st_mode)
    else:
        assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~os.umask(os.umask(0o022) or 0o022)
    assert not [path for path in tmp_path.rglob(".*") if "vocabpress" in path.name]


def test_a_mounted_volume_is_filled(tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    if os.system(f"mount -t tmpfs tmpfs {volume} 2>/dev/null"):
        pytest.skip("no file system may be mounted here")
    try:
        write(volume)
        assert is_whole(volume)
    finally:
        os.system(f"umount {volume}")


def as_nobody(code, *arguments):
    """What it prints as a user who owns nothing; root may write anywhere."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become somebody else")
    told = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    environment = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    if subprocess.run([*told, ""], capture_output=True, env=environment).returncode:
        pytest.skip("this Python is not for everybody")
    return subprocess.run([*told, code, *arguments], capture_output=True, text=True, env=environment, check=True).stdout


FILL = """
import sys
from pathlib import Path
from vocabpress.hf.writing import check_output, written_at_once
try:
    with written_at_once(check_output(sys.argv[1])) as temporary:
        (temporary / "file").write_text("x")
except ValueError as error:
    print(error)
"""


def test_a_folder_of_ones_own_in_one_of_others_is_filled():
    with tempfile.TemporaryDirectory() as name:
        theirs, mine = Path(name), Path(name) / "mine"
        theirs.chmod(0o755)
        mine.mkdir()
        if os.geteuid() == 0:
            shutil.chown(mine, 65534, 65534)
        assert as_nobody(FILL, str(mine)) == ""
        assert (mine / "file").is_file()
        said = as_nobody(FILL, str(theirs / "new" / "folder"))
        assert f"can't write {theirs}/new/folder: {theirs} can't be written to (Permission denied); give" in said


@pytest.mark.parametrize("command", ["compress", "trim", "export", "recover"])
def test_a_place_that_can_not_be_written_is_refused_before_the_work(command, tmp_path, monkeypatch):
    def worked(*_, **__):
        raise AssertionError("a model was looked for before the output")

    jobs = {
        "compress": lambda out: compress("model", out),
        "trim": lambda out: trim("model", out, scripts=["Latin"]),
        "recover": lambda out: recover("model", out, teacher="teacher", settings=Recovery(steps=1)),
    }
    modules = {
        "compress": "vocabpress.job.compress",
        "trim": "vocabpress.trim.run",
        "recover": "vocabpress.recover.run",
    }
    if command == "export":
        export = pytest.importorskip("vocabpress.export", reason="export needs the extra onnx").export
        jobs["export"], modules["export"] = (lambda out: export("model", out)), "vocabpress.export.run"
    monkeypatch.setattr(f"{modules[command]}.find_folder", worked)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "file").touch()
    for place, words in {
        "/proc/new": r"can't write /proc/new: /proc can't be written to",
        "/proc/a/b": r"can't write /proc/a/b: /proc can't be written to",
        str(tmp_path / "full"): "exists and is not empty",
        str(tmp_path / "file"): "exists and is a file",
        str(tmp_path / "file" / "new"): "can't write",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            jobs[command](place)
        assert "\n" not in str(error.value)


def killed_after(moves):
    """A `replace` that ends the process instead of moving once more."""
    moved, replace = [], Path.replace

    def move(path, place):
        if len(moved) == moves:
            os.kill(os.getpid(), signal.SIGKILL)
        moved.append(path)
        replace(path, place)

    return move


def test_a_run_that_is_killed_while_it_fills_leaves_nothing_that_loads(tmp_path):
    for moves in range(5):
        target = tmp_path / f"out{moves}"
        target.mkdir()
        child = os.fork()
        if not child:
            Path.replace = killed_after(moves)
            write(target)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = {path.name for path in target.iterdir() if not path.name.startswith(".")}
        if moves == 4:
            assert code == 0
            assert is_whole(target)
            continue
        assert code == -signal.SIGKILL
        assert len(left) == moves
        assert not left & {"model.safetensors"}
        (target / "theirs").write_text("not ours")
        with pytest.raises(ValueError, match="not empty"):
            check_output(target)
        (target / "theirs").unlink()
        write(target)
        assert is_whole(target)
        assert not list(target.glob(".*"))


def test_of_two_runs_that_fill_one_folder_one_wins_whole(tmp_path):
    first = written_at_once(tmp_path)
    (first.__enter__() / "model.safetensors").write_text("first")
    write(tmp_path)
    with pytest.raises(ValueError, match="Directory not empty"):
        first.__exit__(None, None, None)
    assert is_whole(tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "model.safetensors"


def test_an_error_while_a_folder_is_filled_leaves_it_empty(tmp_path, monkeypatch):
    replace = Path.replace

    def broken(path, place):
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        return replace(path, place)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(ValueError, match="No space left on device"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


FILES = [
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "deep/er/and/deeper/notes.txt",
    "modeling_own.py",
    "picture.png",
    "sentencepiece.bpe.model",
    "vocabulary.of.mine",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "3_More/inner/pytorch_model.bin",
]
LEFT_OUT = [
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "tf_model.h5",
    "model-q4.gguf",
    "onnx/model.onnx",
    "onnx/model.onnx_data",
    "onnx/config.json",
    "checkpoint-500/optimizer.pt",
    "checkpoint-500/trainer_state.json",
    ".git/config",
    ".cache/huggingface/file",
    ".gitattributes",
]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for name in (*FILES, *LEFT_OUT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    paths = ["", "1_Pooling", "2_Dense", "3_More/inner"]
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": "x"} for path in paths]))
    return folder


def test_everything_but_weights_is_copied(source, tmp_path):
    (source / "circle").symlink_to(source)
    (source / "nowhere").symlink_to("gone")
    (source / "linked.txt").symlink_to("picture.png")
    (tmp_path / "target").mkdir()
    with pytest.warns(UserWarning, match=r"not copied, because there are weights in it: checkpoint-500/, onnx/ of"):
        copy_companions(source, tmp_path / "target", without=["vocabulary.of.mine"])
    found = {str(p.relative_to(tmp_path / "target")) for p in (tmp_path / "target").rglob("*") if p.is_file()}
    assert found == {*FILES, "modules.json", "linked.txt"} - {"vocabulary.of.mine"}
    assert (tmp_path / "target" / "2_Dense" / "model.safetensors").read_text() == "2_Dense/model.safetensors"


def test_what_can_not_be_copied_is_a_warning(source, tmp_path, monkeypatch):
    copyfile = shutil.copyfile

    def broken(one, other):
        if one.name == "picture.png":
            raise PermissionError(13, "Permission denied")
        return copyfile(one, other)

    monkeypatch.setattr(shutil, "copyfile", broken)
    with pytest.warns(UserWarning, match=r"picture.png of .* was not copied: Permission denied"):
        copy_companions(source, tmp_path / "target")
    assert (tmp_path / "target" / "modeling_own.py").is_file()


def several_templates(folder):
    tiny.save("bert", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "w0"
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "tools": "TOOLS {{ messages[0].content }}"}
    tokenizer.save_pretrained(folder)
    assert (folder / "additional_chat_templates").is_dir()
    return folder


def test_all_chat_templates_come_along(tmp_path):
    source = several_templates(tmp_path / "source")
    (tmp_path / "text.txt").write_text("\n".join(f"w5 w{i} w{i + 3} w7" for i in range(60)))
    compress(source, tmp_path / "compressed", method="svd", budget=Budget.ratio(4))
    trim(source, tmp_path / "trimmed", text=[tmp_path / "text.txt"])
    text, settings = [tmp_path / "text.txt"], Recovery(steps=1)
    recover(tmp_path / "compressed", tmp_path / "recovered", teacher=source, text=text, settings=settings)
    for name in ("compressed", "trimmed", "recovered"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        said = tokenizer.apply_chat_template([{"content": "w5"}], chat_template="tools", tokenize=False)
        assert said == "TOOLS w5", name


def test_an_output_inside_of_the_model_is_no_companion(tmp_path):
    source = several_templates(tmp_path / "source")
    for name in ("new", "there"):
        if name == "there":
            (source / name).mkdir()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="not copied, because there are weights in it: new/")
            compress(source, source / name, method="svd", budget=Budget.ratio(4))
        assert AutoModelForMaskedLM.from_pretrained(source / name) is not None
        assert not (source / name / name).exists()


def test_a_list_of_modules_that_is_not_to_be_trusted_is_refused_before_the_fit(tmp_path, monkeypatch):
    source = several_templates(tmp_path / "source")
    (source / "modules.json").write_text(json.dumps([{"path": "../../etc", "type": "x"}]))
    monkeypatch.setattr("vocabpress.job.compress.load_model", None)
    with pytest.raises(ValueError, match="is not to be trusted"):
        compress(source, tmp_path / "out", method="autoencoder", budget=Budget.ratio(4))
    with pytest.raises(ValueError, match="is not to be trusted"):
        companions(source)
    assert not (tmp_path / "out").exists()
