"""Where compiled loops are kept, in homes and without one; nothing of it is worth an error."""

import stat
import sys
import tempfile
import warnings

import pytest

from vocabpress.embeddings.kernels import compiling

numba = pytest.importorskip("numba", reason="numba is in the `fast` extra")


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """A function of a file for which numba finds no place: as in a package of root's, for a user without a home."""
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserProvidedCacheLocator])
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    (tmp_path / "source_of_a_loop.py").write_text("def twice(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "source_of_a_loop", raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    import source_of_a_loop

    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(cache=True)(source_of_a_loop.twice)
    return source_of_a_loop.twice


def compiled_files(folder):
    return list(folder.rglob("*.nbc"))


def test_the_temporary_files_are_the_last_resort(loop, tmp_path):
    assert compiling.compiled(loop)(3) == 6
    (folder,) = (tmp_path / "temporary").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = compiled_files(folder)
    assert numba.config.CACHE_DIR == ""
    again = compiling.compiled(loop)
    assert again(4) == 8
    assert sum(again.stats.cache_hits.values()) == 1
    file.write_bytes(b"broken")
    assert compiling.compiled(loop)(5) == 10


def test_a_folder_that_others_can_write_to_is_not_read(loop, tmp_path):
    assert compiling.compiled(loop)(3) == 6
    (folder,) = (tmp_path / "temporary").iterdir()
    folder.chmod(0o777)
    again = compiling.compiled(loop)
    assert again(4) == 8
    assert not getattr(again, "stats", again).cache_hits


def test_without_any_folder_loops_are_compiled_all_the_same(loop, tmp_path, monkeypatch):
    def nowhere():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert compiling.compiled(loop)(3) == 6
    assert not compiled_files(tmp_path)


def test_a_cache_that_can_not_be_written_is_none(loop, tmp_path, monkeypatch):
    made = compiling.compiled(loop)
    from numba.core import caching

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert made(3) == 6


@pytest.mark.parametrize("how", ["broken", "disabled", "absent"])
def test_numba_that_can_not_be_used_is_as_none(how, monkeypatch):
    if how == "broken":
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: object())
        with pytest.warns(UserWarning, match="numba can't be used"):
            assert compiling._numba() is None
        return
    if how == "disabled":
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    else:
        monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiling._numba() is None
