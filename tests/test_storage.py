"""Plates and results in stores: a real S3 server on this machine, fsspec's `memory://`, a plain web server."""

from __future__ import annotations

import errno
import functools
import http.server
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from cellinfer import journal, storage
from cellinfer.engine import RunResult, State, run
from cellinfer.errors import ImageError, InputError, OutputError
from cellinfer.files import durable, owned
from cellinfer.images import files_of, read_header, read_image, read_plane
from cellinfer.inspection import inspect
from cellinfer.journal import Entry, Journal, fingerprint
from cellinfer.outputs.shards import read_shard
from cellinfer.pipeline import Settings
from cellinfer.plate import ImageRef, Plate
from cellinfer.readers import read_plate
from cellinfer.storage import RemotePath, location

from tests.conftest import dask_cluster, draw_cells

fsspec = pytest.importorskip("fsspec", reason="the extra `remote` is not installed")
s3fs = pytest.importorskip("s3fs", reason="the extra `remote` is not installed")
moto = pytest.importorskip("moto.server", reason="needs moto and flask, a local S3 server")

TABLES = ("Nuclei", "Cells", "Cytoplasm", "Image", "Well")
SETTINGS = Settings(diameter=22, families=("Intensity",))
SECRET = "geheim-0815"
# s3fs closes its connections when the interpreter ends; warnings about that are not ours.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an S3 server, to which the environment leads this process and those that it starts."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    url = "http://{}:{}".format(*running.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        forget_stores()
        yield url
        running.stop()
    forget_stores()


def forget_stores() -> None:
    storage._store.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two wells, two sites, two channels."""
    folder = tmp_path_factory.mktemp("local") / "plate"
    folder.mkdir()
    for number, well in enumerate(("A01", "B02")):
        for site in (1, 2):
            field = draw_cells(10 * number + site, (110, 120))
            for channel in ("DNA", "GFP"):
                tifffile.imwrite(folder / f"{well}_s{site}_{channel}.tif", field[channel])
    return folder


@pytest.fixture(scope="module")
def expected(plate: Path) -> dict[str, bytes]:
    """What a run on the disk leaves behind: tables and label images."""
    out = plate.parent / "expected"
    analyse(str(plate), str(out))
    return contents(out)


_numbers = iter(range(10**6))


@pytest.fixture
def bucket(server: str, plate: Path) -> str:
    """URL of a new bucket that holds the plate."""
    url = f"s3://bucket{next(_numbers)}"
    upload(plate, f"{url}/plate")
    return url


@pytest.fixture
def memory(plate: Path) -> Iterator[str]:
    """A folder in fsspec's memory that holds the plate."""
    upload(plate, "memory://here/plate")
    yield "memory://here"
    store("memory://here").rm("/here", recursive=True)


def store(url: str) -> Any:
    return fsspec.core.url_to_fs(url, use_listings_cache=False)[0]


def upload(folder: Path, url: str) -> None:
    target = store(url)
    with_bucket = url.partition("://")[2].partition("/")[0]
    target.makedirs(with_bucket, exist_ok=True)
    for path in folder.rglob("*"):
        if path.is_file():
            target.put_file(str(path), f"{url}/{path.relative_to(folder).as_posix()}")


def analyse(plate: str | Plate, out: str, **options: Any) -> RunResult:
    return run(plate, out, settings=SETTINGS, device="cpu", **{"threads": 2, "workers": 1, **options})


def contents(out: Path | str) -> dict[str, bytes]:
    """Return the tables of a result folder, local or not, and the pixels of its label images."""
    if isinstance(out, Path):
        files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    else:
        inside = store(out)._strip_protocol(out)
        files = {name[len(inside) + 1 :]: store(out).cat_file(name) for name in store(out).find(inside)}
        assert ".lock" not in files
    labels = {name: tifffile.imread(io.BytesIO(data)) for name, data in files.items() if name.endswith(".ome.tiff")}
    assert len(labels) == 8
    tables = {name: data for name, data in files.items() if name.endswith(".parquet")}
    assert len(tables) == len(TABLES)
    return tables | {name: image.tobytes() for name, image in labels.items()}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what is asked of stores, by the name of the call."""
    counted: Counter[str] = Counter()
    asked = storage._asked

    class Counting:
        def __init__(self, target: Any) -> None:
            self._target = target

        def __getattr__(self, name: str) -> Any:
            counted[name] += 1
            return getattr(self._target, name)

    monkeypatch.setattr(
        storage, "_asked", lambda url, work: asked(url, lambda target, path: work(Counting(target), path))
    )
    return counted


# Paths


def test_urls_are_remote_and_everything_else_is_not(tmp_path: Path) -> None:
    assert location("s3://bucket/a b/plate/") == RemotePath("s3://bucket/a b/plate")
    assert location("a/b") == Path("a/b")
    assert location(tmp_path) == tmp_path
    assert location(f"file://{tmp_path.as_posix()}") == tmp_path
    path = RemotePath("s3://bucket/plate/images")
    assert (path.name, path.parent.name, str(path / "x.tif")) == ("images", "plate", "s3://bucket/plate/images/x.tif")
    assert [str(above) for above in path.parents] == ["s3://bucket/plate", "s3://bucket"]
    with pytest.raises(InputError, match="lacks a slash"):
        read_plate(Path("s3://bucket/plate"))
    assert storage.join("s3://bucket/plate/", "../x/y.tif") == "s3://bucket/x/y.tif"


@pytest.mark.parametrize(
    "url",
    [f"sftp://me:{SECRET}@host/plate", f"s3://me:{SECRET}@bucket/plate", f"https://host/plate?signature={SECRET}"],
)
def test_secrets_in_a_url_are_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    for attempt in (lambda: read_plate(url), lambda: analyse(str(tmp_path), url)):
        with pytest.raises(InputError, match=r"password|no image in|AWS_PROFILE") as caught:
            attempt()
        assert SECRET not in str(caught.value)
    assert SECRET not in storage.without_secrets(f"403 at '{url}' and ({url})")


def test_a_user_without_password_may_be_in_a_url() -> None:
    assert str(location("sftp://me@host/plate")) == "sftp://me@host/plate"
    assert str(location("abfs://box@account.dfs.core.windows.net/p")) == "abfs://box@account.dfs.core.windows.net/p"


# Plates


def as_on_the_disk(plate: Plate, root: str) -> list[Any]:
    """Return the fields of a plate with paths relative to its root."""
    assert str(plate.root) == root
    return [
        (
            f.key,
            f.number,
            {name: [(r.path.removeprefix(root), r.index) for r in refs] for name, refs in f.images.items()},
        )
        for f in plate.fields
    ]


def test_a_plate_is_the_same_as_on_the_disk(bucket: str, memory: str, plate: Path, requests: Counter[str]) -> None:
    local = read_plate(plate)
    for url in (f"{bucket}/plate", f"{memory}/plate/"):
        store(url).pipe_file(f"{url.rstrip('/')}2/C05_s1_DNA.tif", b"of another plate")
        requests.clear()
        found = read_plate(url)
        assert as_on_the_disk(found, url.rstrip("/")) == as_on_the_disk(local, str(plate))
        assert (found.name, found.layout, found.channels) == (local.name, local.layout, local.channels)
        assert (requests["ls"], requests["find"]) == (0, 1)
        assert requests.total() < 15  # whether it is a Zarr store; the descriptions of a few images
        here, there = inspect(plate).to_dict(), inspect(url).to_dict()
        assert there == here | {"root": url.rstrip("/")}


def test_an_image_is_one_request(bucket: str, plate: Path, requests: Counter[str]) -> None:
    image = draw_cells(3, (600, 700))["DNA"]
    file = io.BytesIO()
    tifffile.imwrite(file, image, rowsperstrip=1)
    store(bucket).pipe_file(f"{bucket}/strips.tif", file.getvalue())
    np.testing.assert_array_equal(read_plane(ImageRef(f"{bucket}/strips.tif")), image)
    assert requests == {"cat_file": 1}
    requests.clear()
    assert read_header(ImageRef(f"{bucket}/strips.tif")).shape == (600, 700)
    assert requests["info"] == 1
    assert requests["cat_file"] <= 2


def test_one_page_of_many_is_not_the_whole_file(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = np.random.default_rng(0).integers(0, 4096, (12, 300, 400)).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, stack, photometric="minisblack", metadata=None)
    store(bucket).pipe_file(f"{bucket}/stack.tif", file.getvalue())
    fetched = []
    readinto = storage._Ranges.readinto
    monkeypatch.setattr(storage._Ranges, "readinto", lambda s, b: fetched.append(n := readinto(s, b)) or n)
    np.testing.assert_array_equal(read_plane(ImageRef(f"{bucket}/stack.tif", (7,))), stack[7])
    assert 0 < sum(fetched) < len(file.getvalue()) / 1.5


def test_images_that_cannot_be_read_say_so(bucket: str) -> None:
    store(bucket).pipe_file(f"{bucket}/empty.tif", b"")
    with pytest.raises(ImageError, match="empty"):
        read_image(f"{bucket}/empty.tif")
    with pytest.raises(ImageError, match=r"no such file") as caught:
        read_image(f"{bucket}/absent.tif")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_zarr_plate(server: str, tmp_path: Path, requests: Counter[str], version: str) -> None:
    from tests.test_reader_ome_zarr import array, write_plate

    folder = tmp_path / "p.ome.zarr"
    write_plate(folder, version, wells=("A/1", "B/2"))
    if version == "0.5":  # many chunks to a file
        data = np.random.default_rng(5).integers(0, 999, (2, 3, 8, 9)).astype(np.uint16)
        array(folder / "A/1/0/0", data, chunks=(1, 1, 4, 5), shards=(1, 3, 8, 10))
    url = f"s3://zarr{next(_numbers)}"
    upload(folder, f"{url}/{folder.name}")
    requests.clear()
    local, found = read_plate(folder), read_plate(f"{url}/{folder.name}")
    assert as_on_the_disk(found, f"{url}/{folder.name}") == as_on_the_disk(local, str(folder))
    assert requests["find"] == 0  # the chunks are not listed
    for ours, theirs in zip(found.fields, local.fields, strict=True):
        for name, refs in ours.images.items():
            for ref, other in zip(refs, theirs.images[name], strict=True):
                np.testing.assert_array_equal(read_plane(ref), read_plane(other))
    ref = next(iter(found.fields[-1].images.values()))[0]
    before = fingerprint(found.fields[-1], "c")
    store(url).rm_file(files_of(ref)[-1])
    with pytest.raises(ImageError, match="lacks 1 of the 1 chunks"):
        read_plane(ref)
    assert fingerprint(found.fields[-1], "c") != before
    assert len(read_plate(url).fields) == 4  # from the folder above


def test_stacks_and_indexes_of_instruments(memory: str, tmp_path: Path) -> None:
    """Readers that open files: a list of images, names that only its metadata explain."""
    folder = tmp_path / "list"
    folder.mkdir()
    for well in ("B02", "C03"):
        tifffile.imwrite(folder / f"{well}x.tif", np.arange(12, dtype=np.uint16).reshape(3, 4))
    rows = "".join(f"{well}x.tif,P1,{well}\n" for well in ("B02", "C03"))
    (folder / "load.csv").write_text(f"FileName_DNA,Metadata_Plate,Metadata_Well\n{rows}")
    upload(folder, f"{memory}/list")
    found = read_plate(f"{memory}/list")
    assert found.layout == "load-data"
    assert as_on_the_disk(found, f"{memory}/list") == as_on_the_disk(read_plate(folder), str(folder))


def test_a_web_server_is_read_and_not_written(plate: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=plate.parent)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{served.server_port}/plate"
        found = read_plate(url)
        assert as_on_the_disk(found, url) == as_on_the_disk(read_plate(plate), str(plate))
        ref = found.fields[0].images["DNA"][0]
        np.testing.assert_array_equal(read_plane(ref), tifffile.imread(plate / "A01_s1_DNA.tif"))
        assert read_header(ref).shape == (110, 120)
        with pytest.raises(OutputError, match="could not be written"), owned(location(f"{url}-out")):
            pass
        served.shutdown()


# Runs


def test_a_run_leaves_the_same_bytes_and_goes_on(
    bucket: str, plate: Path, expected: dict[str, bytes], requests: Counter[str]
) -> None:
    url, out = f"{bucket}/plate", f"{bucket}/results"
    store(url).put_file(str(plate / "A01_s2_DNA.tif"), f"{url}/A01_s1_DNA.tif")
    result = analyse(url, out)
    assert result.complete
    assert contents(out) != expected
    assert (str(result.folder), str(result.overview)) == (out, f"{out}/overview.png")
    info = json.loads(store(out).cat_file(f"{out}/run.json"))
    assert info["input"]["folder"] == url
    names = {name.rpartition("/")[2] for name in store(out).find(out)}
    assert {"run.json", "overview.png", "journal.jsonl"} <= names
    assert SECRET not in json.dumps(info) + store(out).cat_file(f"{out}/journal.jsonl").decode()

    store(url).put_file(str(plate / "A01_s1_DNA.tif"), f"{url}/A01_s1_DNA.tif")
    assert analyse(url, out).reused == 3
    assert contents(out) == expected
    requests.clear()
    assert analyse(url, out).reused == 4
    assert requests["find"] == 4  # the plate, its state and that of the results; what to clear away
    assert requests["info"] <= 7  # is it a Zarr store, descriptions of three images; all else the listing tells
    assert contents(out) == expected


@pytest.mark.parametrize("way", ["to", "from"])
def test_one_end_may_be_local(memory: str, plate: Path, tmp_path: Path, expected: dict[str, bytes], way: str) -> None:
    start, out = (str(plate), f"{memory}/out") if way == "to" else (f"{memory}/plate", str(tmp_path / "out"))
    assert analyse(start, out).complete
    assert contents(out if way == "to" else Path(out)) == expected


@pytest.mark.filterwarnings("ignore")  # dask's own, on whatever ports and disks it finds
def test_worker_processes_and_a_cluster(bucket: str, expected: dict[str, bytes]) -> None:
    assert analyse(f"{bucket}/plate", f"{bucket}/processes", workers=2).complete
    assert contents(f"{bucket}/processes") == expected
    with dask_cluster(1) as cluster:
        assert analyse(f"{bucket}/plate", f"{bucket}/dask", scheduler=cluster.scheduler_address).complete
    assert contents(f"{bucket}/dask") == expected


def test_memory_is_for_one_process(memory: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No other process sees memory"):
        analyse(f"{memory}/plate", str(tmp_path), workers=2)


def test_a_killed_run_goes_on_to_the_same_bytes(bucket: str, expected: dict[str, bytes]) -> None:
    url, out = f"{bucket}/plate", f"{bucket}/out"
    script = (
        "import sys\n"
        "from cellinfer import journal\n"
        "journal.UPLOAD_EVERY, journal.UPLOAD_SHARE = 0.0, float('inf')\n"
        "from tests.test_storage import analyse\n"
        f"analyse({url!r}, {out!r}, threads=1, progress=lambda s: print(s.done, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 2:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert store(out).exists(f"{out}/.lock")
    assert not store(out).exists(f"{out}/run.json")
    result = analyse(url, out)  # and takes over the lock of a process that is gone
    assert 1 <= result.reused <= 3
    assert contents(out) == expected
    assert not store(out).exists(f"{out}/.lock")


def test_what_was_done_before_an_interrupt_is_noted(bucket: str) -> None:
    def interrupt(state: State) -> None:
        if state.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(f"{bucket}/plate", f"{bucket}/out", progress=interrupt)
    assert analyse(f"{bucket}/plate", f"{bucket}/out").reused >= 2


def test_exports_are_for_the_disk(bucket: str, plate: Path) -> None:
    from cellinfer.exporting import export

    with pytest.raises(InputError, match="leave out --export"):
        analyse(f"{bucket}/plate", f"{bucket}/out", exports="geojson")
    with pytest.raises(InputError, match="copy the results"):
        export(f"{bucket}/out", "geojson")


def test_the_plate_itself_is_no_place_for_results(bucket: str) -> None:
    with pytest.raises(InputError, match="is the plate itself"):
        analyse(f"{bucket}/plate", f"{bucket}/plate/")


def test_the_command_line(bucket: str, tmp_path: Path) -> None:
    from cellinfer.cli import app
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, ["inspect", f"{bucket}/plate", "--json"])
    assert json.loads(shown.stdout)["root"] == f"{bucket}/plate"
    options = ["--diameter", "22", "--features", "Intensity", "--workers", "1", "--threads", "2"]
    done = CliRunner().invoke(app, ["run", f"{bucket}/plate", *options])
    assert done.exit_code == 0, done.output
    assert f"{bucket}/plate-cellinfer/Nuclei.parquet" in done.stdout.replace("\n", "")


# Journal, lock, files


ENTRY = Entry("A01", "f", "ok", "", "d", {})


def test_a_journal_in_a_store_is_uploaded_at_intervals_and_at_the_end(memory: str, requests: Counter[str]) -> None:
    path = RemotePath(f"{memory}/journal.jsonl")
    with Journal(path) as book:
        book.begin({"plate": "p"})
        assert Journal(path).header == {"plate": "p"}
        book.add(ENTRY)
        assert Journal(path).entries == {}
        book._due = 0.0
        book.add(Entry("A02", "f", "failed", "why", "", {}))
        assert set(Journal(path).entries) == {"A01", "A02"}
        assert requests["pipe_file"] == 2
    assert requests["pipe_file"] == 2
    with pytest.raises(KeyboardInterrupt), Journal(path) as book:
        book.begin({"plate": "p"})
        book.add(Entry("A03", "f", "ok", "", "d", {}))
        raise KeyboardInterrupt
    assert set(Journal(path).entries) == {"A01", "A02", "A03"}


def test_the_journal_takes_a_small_part_of_the_time(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(journal.time, "monotonic", lambda: float(next(clock)))
    book = Journal(RemotePath(f"{memory}/journal.jsonl"))
    book.begin({})
    assert book._due >= 100  # an upload took 5 s


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        ({"pid": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}, False),
        ({"pid": os.getppid(), "host": socket.gethostname()}, False),
        ({"pid": os.getpid(), "host": socket.gethostname()}, True),  # a container that was started again
        ({"pid": 2**22 + 1, "host": socket.gethostname()}, True),
        ("torn", True),
    ],
)
def test_a_lock_in_a_store(memory: str, owner: Any, free: bool) -> None:
    lock = RemotePath(f"{memory}/out/.lock")
    storage.write(lock, json.dumps(owner).encode())
    if free:
        with owned(RemotePath(f"{memory}/out")):
            assert json.loads(storage.read(lock.url))["pid"] == os.getpid()
        assert not lock.exists()
    else:
        with (
            pytest.raises(OutputError, match=rf"in use by process {owner['pid']} on .*delete {lock}"),
            owned(RemotePath(f"{memory}/out")),
        ):
            pass
        assert json.loads(storage.read(lock.url)) == owner


def test_two_runs_of_one_process_do_not_share_a_folder(bucket: str) -> None:
    folder = RemotePath(f"{bucket}/out")
    with owned(folder), pytest.raises(OutputError, match="in use by process"), owned(folder):
        pass
    with pytest.raises(FileExistsError):  # where the store can tell, in one step
        storage.write(RemotePath(f"{bucket}/plate/A01_s1_DNA.tif"), b"", new=True)


def test_half_a_file_is_never_uploaded(memory: str) -> None:
    path = RemotePath(f"{memory}/x.txt")
    with pytest.raises(ZeroDivisionError), durable(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert not path.exists()
    with durable(path) as partial:
        partial.write_text("whole")
    assert storage.read(path.url) == b"whole"
    assert not partial.exists()


def test_a_shard_that_somebody_altered_is_not_taken(memory: str) -> None:
    storage.write(path := RemotePath(f"{memory}/x.arrows"), b"something else")
    with pytest.raises(OutputError, match="not what this run wrote"):
        read_shard(path, "digest")


# What goes wrong


def test_writing_is_tried_again_and_reading_of_images_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    calls: list[str] = []

    class Shaky:
        def _strip_protocol(self, url: str) -> str:
            return url

        def pipe_file(self, path: str, content: bytes) -> None:
            calls.append("write")
            if len(calls) < 3:
                raise RuntimeError("503 Slow Down")

        def cat_file(self, path: str) -> bytes:
            calls.append("read")
            raise RuntimeError("503 Slow Down")

    monkeypatch.setattr(storage, "_store", lambda protocol, host: Shaky())
    storage.write(RemotePath("s3://b/x"), b"")
    assert calls == ["write"] * 3
    with pytest.raises(ImageError) as caught:
        read_image("s3://b/x.tif")
    assert calls[3:] == ["read"]
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno  # without a number it would not be tried again


def test_a_bucket_or_folder_that_is_not_there(bucket: str, plate: Path) -> None:
    for url in ("s3://no-such-bucket/plate", f"{bucket}/other"):
        with pytest.raises(InputError, match=r"no such file, folder or bucket|there is no folder"):
            read_plate(url)
    with pytest.raises(InputError, match="is a file"):
        read_plate(f"{bucket}/plate/A01_s1_DNA.tif")
    with pytest.raises(OutputError, match="s3://no-such-bucket/out could not be written: there is no such"):
        analyse(str(plate), "s3://no-such-bucket/out")


def test_no_permission(server: str, bucket: str, plate: Path) -> None:
    def authorise_after(requests: bytes) -> None:
        plain = {"Content-Type": "text/plain"}
        with urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset-auth", requests, plain)) as answer:
            answer.read()

    authorise_after(b"0")
    try:
        with pytest.raises(InputError, match="the store denies access") as caught:
            read_plate(f"{bucket}/plate")
        with pytest.raises(OutputError, match="the store denies access"):
            analyse(str(plate), f"{bucket}/out")
    finally:
        authorise_after(b"1e9")
    assert SECRET not in str(caught.value)


def test_a_wrong_endpoint(bucket: str, plate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "PAUSES", ())
    forget_stores()
    try:
        with pytest.raises(InputError, match="Could not connect to the endpoint"):
            read_plate(f"{bucket}/plate")
        with pytest.raises(OutputError, match="Could not connect to the endpoint"):
            analyse(str(plate), f"{bucket}/out")
    finally:
        forget_stores()


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    forget_stores()
    try:
        with pytest.raises(InputError, match=r"denies access .*credentials"):
            read_plate(f"{bucket}/plate")
    finally:
        forget_stores()


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Protocol not known"):
        read_plate("nonsense://bucket/plate")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"pip install 'cellinfer\[remote\]' gcsfs"):
        read_plate("gs://bucket/plate")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    storage._store.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'cellinfer\[remote\]'`"):
        read_plate("s3://bucket/plate")


def test_local_work_does_not_import_fsspec(plate: Path) -> None:
    script = f"import sys\nimport cellinfer\ncellinfer.inspect({str(plate)!r})\nsys.exit('fsspec' in sys.modules)\n"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_an_image_that_the_store_fails_to_give_once_is_asked_for_again(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellinfer import patience
    from cellinfer.engine import _dispatch

    monkeypatch.setattr(_dispatch, "SETTLE", 0.1)
    monkeypatch.setattr(patience, "PAUSES", (0.0, 0.0))
    fetched, failed = storage._fetched, Counter[str]()

    def shaky(url: str) -> bytes:
        failed[url] += 1
        if failed[url] == 1 and url.endswith("DNA.tif"):
            raise OSError(errno.EIO, "503 Slow Down", url)
        if "B02_s2" in url:
            raise OSError(errno.EIO, "503 Slow Down", url)
        return fetched(url)

    monkeypatch.setattr(storage, "_fetched", shaky)
    result = analyse(f"{memory}/plate", str(tmp_path / "out"))
    assert list(result.failed) == ["plate_B02_s2_t1"]
    monkeypatch.setattr(storage, "_fetched", fetched)
    assert analyse(
        f"{memory}/plate", str(tmp_path / "out")
    ).complete  # such a failure is tried again without being told
