"""Files by path, or by URL in a store such as S3: all that knows of stores, and of fsspec, which speaks to them.

A path with `://` in it is remote, any other is local and treated as ever. A remote file is fetched whole, in one
request, or in ranges where the caller needs but a little of it; it is written whole from a local file, and so appears
whole or not at all. Whatever goes wrong in a store is an `OSError` here. Credentials and endpoints are those that
fsspec finds (environment, files of the store's own tools, `FSSPEC_*`), so that each process finds them by itself; in
paths they are refused, since paths are printed and stored.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from cellinfer.errors import InputError
from cellinfer.plate import IMAGE_SUFFIXES

_S = TypeVar("_S")
_T = TypeVar("_T")
_log = logging.getLogger(__name__)

PAUSES = (0.5, 2.0)
"""Seconds between tries to write; the stores' own clients try again too, and `cellinfer.patience` reading of images."""
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_RANGE = 128 << 10
"""Bytes fetched at least where a file is read in ranges."""
AT_ONCE = 16
"""Small files fetched at a time."""
_LOCAL = ("file", "local")
_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol",
}  # fmt: skip
_CHECKSUMS = ("md5Hash", "content_md5", "ETag", "etag")
"""What stores call that which changes with the content of a file; the best first."""


# Paths


@dataclass(frozen=True)
class RemotePath:
    """A path in a store, with the part of `pathlib.Path` that is needed of it.

    Parameters
    ----------
    url
        Such as `s3://bucket/plate`, without a slash at the end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder above; of a bucket, itself."""
        above = self.url.rpartition("/")[0]
        return self if above.endswith("/") else RemotePath(above)

    @property
    def parents(self) -> list[RemotePath]:
        """The folders above, the nearest first."""
        return [] if self.parent == self else [self.parent, *self.parent.parents]

    def as_posix(self) -> str:
        """Return the URL."""
        return self.url

    def exists(self) -> bool:
        """Return whether there is a file, or a folder with anything in it; False too if the store does not answer."""
        try:
            return bool(_asked(self.url, lambda store, path: store.exists(path)))
        except OSError:
            return False

    def is_file(self) -> bool:
        """Return whether there is a file.

        Raises
        ------
        OSError
            If the store does not answer.
        """
        return bool(_asked(self.url, lambda store, path: store.isfile(path)))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file.

        Raises
        ------
        OSError
            If that is not possible.
        """
        try:
            _tried(self.url, lambda store, path: store.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise


AnyPath = Path | RemotePath


def is_remote(path: object) -> bool:
    """Return whether a path (of any type) is one in a store."""
    return "://" in str(path)


def location(path: object) -> AnyPath:
    """Return what a user gave as a path: local, or remote if it is a URL.

    Raises
    ------
    InputError
        If a URL holds a password or key, or is one no more.
    """
    text = str(path)
    if re.match(r"(s3a?|gcs?|gs|az|abfss?|https?|sftp|memory):[/\\](?!/)", text):
        raise InputError(f"{text} lacks a slash: give a URL as text, since pathlib.Path makes one slash of two.")
    protocol, mark, rest = text.partition("://")
    if not mark:
        return Path(path if isinstance(path, Path) else text)
    if protocol in _LOCAL:
        return Path(rest.lstrip("/") if os.name == "nt" else rest)
    if ":" in rest.partition("/")[0].rpartition("@")[0] or "?" in rest:
        raise InputError(
            f"{without_secrets(text)} was given with a password, key or query in it: paths are printed and stored, so "
            "give credentials by the environment (such as AWS_PROFILE, AWS_ACCESS_KEY_ID or FSSPEC_...) or by the "
            "configuration files of the store or of fsspec."
        )
    return RemotePath(f"{protocol}://{rest.rstrip('/')}")


def beside(path: AnyPath, ending: str) -> AnyPath:
    """Return the folder beside another whose name has an ending more."""
    path = resolved(path)
    return path.parent / f"{path.name}{ending}"


def resolved(path: AnyPath) -> AnyPath:
    """Return a path by which two that name the same are known to."""
    return path.resolve() if isinstance(path, Path) else path


def join(folder: str, name: str) -> str:
    """Return the path of something in a folder, local or remote; `name` has `/` on every system."""
    if not is_remote(folder):
        return os.path.join(folder, name)  # noqa: PTH118  pathlib is too slow for 20,000 files
    folder = folder.rstrip("/")
    while name.startswith("../"):
        folder, name = folder.rpartition("/")[0], name[3:]
    return f"{folder}/{name}"


def is_array_folder(path: str) -> bool:
    """Return whether a plane's path is the folder of a Zarr array and not a file.

    In a store a folder is nothing but names that begin alike, so there it goes by the name: files of images have an
    ending.
    """
    if is_remote(path):
        return not path.lower().endswith(tuple(IMAGE_SUFFIXES))
    return os.path.isdir(path)  # noqa: PTH112  once per image


def is_of_this_process(path: AnyPath) -> bool:
    """Return whether only this process can see a path: `memory://`, which is for tests."""
    return str(path).startswith("memory://")


def without_secrets(text: str) -> str:
    """Return a text without passwords, keys and queries (which may hold signatures) in its URLs."""
    text = re.sub(r"(?<=://)[^/\s@]*@", "", text)
    return re.sub(r"(://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)


# Reading


def read(path: str) -> bytes:
    """Return all bytes of a file, of a remote one by a single request.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    kept = _ahead.get(path)
    if kept is None:
        return _fetched(path)
    if isinstance(kept, OSError):
        raise kept
    return kept


def open_file(path: str, *, parts: bool = False) -> BinaryIO:
    """Open a file for reading.

    Parameters
    ----------
    path
        Local or remote.
    parts
        A remote file is fetched whole; with True in ranges, for a header or one page of many.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not is_remote(path):
        return open(path, "rb")  # noqa: PTH123  pathlib is too slow for 10,000 files
    return io.BufferedReader(_Ranges(path), _RANGE) if parts else io.BytesIO(read(path))


def open_text(path: str) -> io.TextIOWrapper:
    """Open a file of UTF-8 text for reading; what is no UTF-8 is replaced.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    return io.TextIOWrapper(open_file(path), encoding="utf-8", errors="replace")


def is_file(path: str) -> bool:
    """Return whether there is a file; links to files count, pipes and folders do not."""
    try:
        return location(path).is_file()
    except OSError:
        return False


def file_size(path: str) -> int:
    """Return how many bytes a file has.

    Raises
    ------
    OSError
        If there is no such file.
    """
    return version(path).size if is_remote(path) else os.stat(path).st_size  # noqa: PTH116


class Version(NamedTuple):
    """What a store says of a file without giving it."""

    size: int
    checksum: str
    """Of its content, in the store's own way; empty if the store has none."""


def version(url: str) -> Version:
    """Ask a store for size and checksum of a file.

    Raises
    ------
    OSError
        If there is no such file, or the store does not answer.
    """
    return _version(_asked(url, lambda store, path: store.info(path)))


def versions(urls: Iterable[str]) -> dict[str, Version | OSError]:
    """Ask for many files at a time; why not, for one that cannot be asked for."""

    def asked(url: str) -> Version | OSError:
        try:
            return version(url)
        except OSError as error:
            return error

    return _each(asked, list(urls))


def find(url: str) -> dict[str, Version]:
    """List all files below a remote folder, by one call.

    Returns
    -------
    dict
        Path relative to the folder -> size and checksum; the file itself as `""` if the URL is that of a file.

    Raises
    ------
    OSError
        If the store does not answer, or there is no such bucket.
    """

    def listed(store: Any, path: str) -> dict[str, Version]:
        path = path.rstrip("/")
        found = store.find(path, detail=True)
        return {
            name[len(path) + 1 :]: _version(info)
            for name, info in found.items()
            if name == path or (name.startswith(path + "/") and not name.endswith("/"))  # that stands for a folder
        }

    return _asked(url, listed)


_ahead: dict[str, bytes | OSError] = {}


def fetch_ahead(paths: Iterable[str]) -> list[str]:
    """Fetch small remote files many at a time; until `forget_ahead`, `read` gives them without another request.

    Returns
    -------
    list of str
        Those that could not be fetched. None for local ones, which are not touched.
    """
    wanted = [path for path in paths if is_remote(path) and path not in _ahead]
    _ahead.update(read_many(wanted))
    return [path for path in wanted if isinstance(_ahead.get(path), OSError)]


def forget_ahead() -> None:
    """Let go of what was fetched ahead."""
    _ahead.clear()


def read_many(paths: list[str]) -> dict[str, bytes | OSError]:
    """Fetch remote files many at a time; why not, where one cannot be fetched."""

    def fetched(url: str) -> bytes | OSError:
        try:
            return _fetched(url)
        except OSError as error:
            return error

    return _each(fetched, paths)


def ahead(work: Callable[[_S], _T], items: Iterable[_S], count: int) -> Iterator[_T]:
    """Yield what `work` returns for each item, in order; up to `count` items ahead are in work, none if it is 0."""
    if not count:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[_T]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _each(work: Callable[[str], _T], urls: list[str]) -> dict[str, _T]:
    """Call `work` for each URL, many at a time: it is waiting, most of all."""
    if len(urls) < 2:
        return {url: work(url) for url in urls}
    with ThreadPoolExecutor(min(AT_ONCE, len(urls))) as pool:
        return dict(zip(urls, pool.map(work, urls), strict=True))


def _fetched(url: str) -> bytes:
    return bytes(_asked(url, lambda store, path: store.cat_file(path)))


def _version(info: dict[str, Any]) -> Version:
    checksum = next((str(info[name]) for name in _CHECKSUMS if info.get(name)), "")
    return Version(int(info.get("size") or 0), checksum)


class _Ranges(io.RawIOBase):
    """A remote file that is fetched range by range."""

    def __init__(self, url: str) -> None:
        self._url, self._at, self._size, self._whole = url, 0, version(url).size, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        data = self._whole or _asked(self._url, lambda store, path: store.cat_file(path, start=self._at, end=stop))
        if len(data) == self._size:  # plain web servers know no ranges
            self._whole, data = data, data[self._at : stop]
        if len(data) != stop - self._at:
            raise OSError(errno.EIO, "it changed while it was read", self._url)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


# Writing


def write(path: RemotePath, content: bytes, *, new: bool = False) -> None:
    """Write a remote file whole.

    Parameters
    ----------
    path
        Where to.
    content
        All of it.
    new
        Refuse if there is one already, as far as the store can do that in one step.

    Raises
    ------
    FileExistsError
        If it is there already and `new` was asked.
    OSError
        If it cannot be written.
    """
    if new:
        try:
            _asked(path.url, lambda store, inside: store.pipe_file(inside, content, mode="create"))
            return
        except FileExistsError:
            raise
        except OSError as error:
            if not isinstance(error.__cause__, (TypeError, ValueError, NotImplementedError)):
                raise  # else the store knows no such mode
    _tried(path.url, lambda store, inside: store.pipe_file(inside, content))


@contextmanager
def uploading(path: RemotePath) -> Iterator[Path]:
    """Write a remote file by way of a local one, whose path is given; uploaded if no exception leaves the block.

    Raises
    ------
    OSError
        If it cannot be written here or there.
    """
    with tempfile.TemporaryDirectory(prefix="cellinfer-") as folder:
        local = Path(folder) / path.name
        yield local
        upload(local, path)


def upload(local: Path, path: RemotePath) -> None:
    """Copy a local file into a store.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    _tried(path.url, lambda store, inside: store.put_file(str(local), inside))


def remove(paths: Iterable[RemotePath]) -> None:
    """Remove remote files, many at a time; those that are not there are no error.

    Raises
    ------
    OSError
        If one cannot be removed.
    """
    _each(lambda url: RemotePath(url).unlink(missing_ok=True), [path.url for path in paths])


# Stores


def _tried(url: str, work: Callable[[Any, str], _T]) -> _T:
    """Change something in a store, again after a while if that fails for a reason that may pass."""
    for pause in PAUSES:
        try:
            return _asked(url, work)
        except _FINAL:
            raise
        except OSError as error:
            _log.warning("%s: trying again in %g s", error, pause)
        time.sleep(pause)
    return _asked(url, work)


def _asked(url: str, work: Callable[[Any, str], _T]) -> _T:
    """Call `work` with the store and the path within it; whatever it raises becomes an `OSError`.

    Clients of stores have errors of their own, which are as manifold as stores are, so nothing narrower than Exception
    will do.
    """
    protocol, _, rest = url.partition("://")
    store = _store(protocol, rest.partition("/")[0])
    try:
        return work(store, store._strip_protocol(url))
    except Exception as error:
        raise _as_os_error(error, url) from error


@lru_cache(maxsize=64)
def _store(protocol: str, host: str) -> Any:
    """Open the store that a URL names, once in each process; threads may share it.

    It keeps no listings: other processes write at the same time.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(f"{protocol}://{host}", use_listings_cache=False)[0]
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        extra = "'cellinfer[remote]'" if package in (None, "s3fs") else f"'cellinfer[remote]' {package}"
        reason = f" ({error})" if package is None else ""
        raise InputError(f"{protocol}:// needs another package{reason}: run `pip install {extra}`.") from error
    except ValueError as error:
        raise InputError(f"{protocol}://{host} cannot be opened: {without_secrets(str(error))}.") from error


def _as_os_error(error: Exception, url: str) -> OSError:
    """Return what went wrong in a store as an error of the system, with a number that says whether it may pass."""
    status = next((getattr(error, name) for name in ("status", "code", "status_code") if hasattr(error, name)), None)
    reason = without_secrets(str(error).strip()) or type(error).__name__
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "it is there already", url)
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(errno.ENOENT, "there is no such file, folder or bucket", url)
    denied = isinstance(error, PermissionError) or status in (401, 403) or "redentials" in type(error).__name__
    if denied:
        return PermissionError(errno.EACCES, f"the store denies access ({reason})", url)
    if isinstance(error, NotImplementedError):
        return PermissionError(errno.EROFS, "the store cannot be written to", url)
    return OSError(errno.EIO, f"the store does not answer as it should ({reason})", url)
