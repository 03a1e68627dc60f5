"""The one decorator that every kernel wears, and where compiled kernels are kept.

Kernels are serial, release the GIL and divide as NumPy does; parallelism is by field, in the layers above. Compiled
code is cached in a per-user folder (mode 0700, since cache files are pickles) whose name holds the Python and Numba
versions and a digest of the kernel sources: a changed helper in another module can never leave stale code behind.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config as _numba_config
from numba.core.caching import FunctionCache

_F = TypeVar("_F", bound=Callable[..., Any])
_PASSING = "cellinfer-kernels-"
_listeners: list[Callable[[str], None]] = []


def on_compile(listener: Callable[[str], None]) -> None:
    """Call `listener(kernel_name)` just before a kernel is compiled because no cached code fits.

    Without a listener the logger "cellinfer" says so, once per process.

    Parameters
    ----------
    listener
        Called from the thread that first uses the kernel; must be quick and must not raise.
    """
    _listeners.append(listener)


@cache
def _say() -> None:
    logging.getLogger("cellinfer").warning("compiling kernels for this machine (once, up to a minute) ...")


def _say_once(kernel: str) -> None:
    """Tell whoever uses the library why it takes so long, where no listener does."""
    _say()


def _private(folder: Path) -> bool:
    """Make `folder` ours alone and writable, or say that it cannot be; folders above it are left as they are."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
            return False
        if os.name == "posix" and info.st_mode & 0o077:
            folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _home_cache() -> list[Path]:
    try:
        return [Path.home() / ".cache" / "cellinfer"]
    except RuntimeError:  # a user without a home, as in some containers
        return []


def _roots() -> list[Path]:
    """Folders to try, best first; the last one is new and empty and so always works where anything does."""
    if explicit := os.environ.get("CELLINFER_CACHE"):
        candidates = [Path(explicit)]
    elif os.name == "nt":
        candidates = [Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir())) / "cellinfer" / "cache"]
    else:
        candidates = [Path(base) / "cellinfer"] if (base := os.environ.get("XDG_CACHE_HOME")) else _home_cache()
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return [*candidates, Path(tempfile.gettempdir()) / f"cellinfer-{user}"]


@cache
def cache_folder() -> Path:
    """Return the folder that holds this installation's compiled kernels.

    The first writable one of: `$CELLINFER_CACHE`, the user's cache folder, a per-user folder in the temporary
    directory, a new temporary folder (then kernels are compiled again in each process).
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    # Numba keys its files by the source's path and mtime; the digest adds every other kernel module.
    key = f"kernels-py{platform.python_version()}-numba{numba.__version__}-{digest.hexdigest()[:12]}"
    for root in _roots():
        if _private(root / key):
            return root / key
    return Path(tempfile.mkdtemp(prefix=_PASSING))


def cache_is_kept() -> bool:
    """Say whether compiled kernels outlive this process."""
    return not cache_folder().name.startswith(_PASSING)


class _SafeCache(FunctionCache):  # type: ignore[misc]  # Numba has no types
    """Numba's cache, except that a damaged file costs a compilation instead of an exception."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # a truncated pickle raises whatever its bytes happen to mean
            found = None
            self._discard()
        if found is None:
            for listener in _listeners or [_say_once]:
                listener(self._py_func.__qualname__)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:  # unreadable index or a full disk: the compiled code still runs from memory
            self._discard()

    def _discard(self) -> None:
        """Drop this function's cache files, so that the next save starts from an empty index."""
        try:
            self.flush()
        except OSError:
            return


def kernel(function: _F) -> _F:
    """Compile `function` on first use: serial, `nogil`, cached, NumPy's division rules, no fast-math."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    previous = _numba_config.CACHE_DIR
    _numba_config.CACHE_DIR = str(cache_folder())
    try:
        compiled._cache = _SafeCache(compiled.py_func)
    finally:
        _numba_config.CACHE_DIR = previous
    return compiled  # type: ignore[no-any-return]


def inlined(function: _F) -> _F:
    """Mark a small helper that is only ever called from kernels."""
    return numba.njit(nogil=True, error_model="numpy", inline="never")(function)  # type: ignore[no-any-return]
