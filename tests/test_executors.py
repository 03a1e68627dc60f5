"""Threads, processes and a cluster: the same results, whoever dies, hangs or runs out of memory."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile
from cellinfer.batching import Batcher
from cellinfer.engine import RunResult, State, _dispatch, _ledger, _plan, run
from cellinfer.engine._memory import BASE, Room, field_bytes, parse_memory, usable_memory
from cellinfer.errors import EngineError, ImageError, InputError, ModelError
from cellinfer.patience import PAUSES, Patience
from cellinfer.pipeline import Pipeline, Settings
from cellinfer.plate import Field, FieldKey, ImageRef, Plate
from cellinfer.sessions import Session
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import dask_cluster, draw_cells

TABLES = ("Nuclei", "Cells", "Cytoplasm", "Image", "Well")
SETTINGS = Settings(diameter=22)
WELLS = ("A01", "A02", "A03", "B01", "B02", "B03")


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six wells, two sites, two channels."""
    folder = tmp_path_factory.mktemp("plates") / "plate"
    folder.mkdir()
    for number, well in enumerate(WELLS):
        for site in (1, 2):
            field = draw_cells(10 * number + site, (130, 150))
            for channel in ("DNA", "GFP"):
                tifffile.imwrite(folder / f"{well}_s{site}_{channel}.tif", field[channel])
    return folder


def analyse(plate: Path | Plate, out: Path, **options: Any) -> RunResult:
    options = {"settings": SETTINGS, "device": "cpu", "precision": "float32", "threads": 2} | options
    return run(plate, out, **options)


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def expected(plate: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of a run on one thread."""
    out = tmp_path_factory.mktemp("expected")
    assert analyse(plate, out, threads=1).complete
    return contents(out)


def children() -> list[psutil.Process]:
    """Worker processes of this one."""
    return [p for p in psutil.Process().children() if "cellinfer.engine._child" in " ".join(p.cmdline())]


@pytest.mark.parametrize("options", [{"threads": 3}, {"workers": 2}, {"batch": 4, "threads": 3}, {"memory": "700M"}])
def test_however_a_run_is_spread_its_tables_are_the_same(
    plate: Path, tmp_path: Path, expected: dict[str, bytes], options: dict[str, Any]
) -> None:
    assert analyse(plate, tmp_path / "out", **options).complete
    assert contents(tmp_path / "out") == expected
    assert not children()


def test_a_worker_process_that_dies_costs_nothing(
    plate: Path, tmp_path: Path, expected: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[int] = []

    def kill(state: State) -> None:
        if state.done in (2, 6) and len(killed) < (1 if state.done == 2 else 2):
            killed.append(children()[0].pid)
            os.kill(killed[-1], signal.SIGKILL)

    assert analyse(plate, tmp_path / "out", workers=2, progress=kill).complete
    assert len(set(killed)) == 2
    assert contents(tmp_path / "out") == expected


SABOTAGE = """
import os
if any(word in " ".join(os.sys.orig_argv) for word in {processes}):
    from cellinfer.pipeline import Pipeline
    analyse = Pipeline.analyse
    def die_in_a02(self, field, *images):
        if field.key.well == "A02" and field.key.site == 1:
            os._exit(9)
        return analyse(self, field, *images)
    Pipeline.analyse = die_in_a02
"""


def sabotage(folder: Path, monkeypatch: pytest.MonkeyPatch, *processes: str) -> None:
    """Let processes with one of these words in their command die in the first field of A02."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SABOTAGE.format(processes=processes))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.skipif(os.name == "nt", reason="PYTHONPATH separators")
@pytest.mark.filterwarnings("ignore")
def test_on_a_cluster_only_the_field_that_kills_is_quarantined(
    plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    sabotage(tmp_path / "sabotage", monkeypatch, "nanny", "spawn")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        dask_cluster(1, threads=2) as cluster,
    ):
        result = analyse(plate, tmp_path / "out", scheduler=cluster.scheduler_address)
    assert list(result.failed) == ["plate_A02_s1_t1"]


@pytest.mark.skipif(os.name == "nt", reason="PYTHONPATH separators")
def test_a_field_that_ends_three_processes_is_quarantined(
    plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(tmp_path / "sabotage", monkeypatch, "_child")
    result = analyse(plate, tmp_path / "out", workers=2)
    assert list(result.failed) == ["plate_A02_s1_t1"]
    assert "3 worker processes ended" in result.failed["plate_A02_s1_t1"]
    monkeypatch.undo()
    assert analyse(plate, tmp_path / "out").reused == 12
    again = analyse(plate, tmp_path / "out", retry_failed=True)
    assert again.complete
    assert again.reused == 11


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_worker_processes_end_with_the_run_that_started_them(plate: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cellinfer", "run", str(plate), "--out", str(tmp_path / "out"), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        workers: list[psutil.Process] = []
        while len(workers) < 2:
            assert process.poll() is None
            workers = psutil.Process(process.pid).children()
            time.sleep(0.01)
        process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert len(gone) == 2
    assert not alive


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two dask workers, each a process."""
    with dask_cluster(2) as cluster:
        yield cluster


@pytest.mark.filterwarnings("ignore")  # dask's own, on whatever ports and disks it finds
def test_a_cluster_that_loses_workers_gives_the_same_tables(
    plate: Path, tmp_path: Path, expected: dict[str, bytes], cluster: Any
) -> None:
    killed: list[int] = []

    def kill(state: State) -> None:
        if state.done in (2, 7) and len(killed) < (1 if state.done == 2 else 2):
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[-1], signal.SIGKILL)

    assert analyse(plate, tmp_path / "out", scheduler=cluster.scheduler_address, progress=kill).complete
    assert len(set(killed)) == 2
    assert contents(tmp_path / "out") == expected
    nuclei = pd.read_parquet(tmp_path / "out" / "Nuclei.parquet")
    assert not nuclei.duplicated(["Metadata_Well", "Metadata_Site", "ObjectNumber"]).any()


def test_a_cluster_that_is_not_there_is_said_so(plate: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="No dask cluster"):
        analyse(plate, tmp_path / "out", scheduler="nonsense://nowhere:1")
    with pytest.raises(InputError, match="no scheduler file"):
        analyse(plate, tmp_path / "out", scheduler=str(tmp_path / "scheduler.json"))


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_writes_where_the_user_is_whatever_its_own_folder(
    plate: Path, tmp_path: Path, expected: dict[str, bytes], cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert analyse(plate, Path("out"), scheduler=cluster.scheduler_address).complete
    assert contents(tmp_path / "here" / "out") == expected


def test_another_version_elsewhere_is_refused(plate: Path, tmp_path: Path, session: Session) -> None:
    from cellinfer._version import __version__
    from cellinfer.engine._job import Job, Worker

    job = Job("nuclei", session.sha256, "cpu", "float32", SETTINGS, plate, tmp_path, None, "0.0.1", "")
    with pytest.raises(ModelError, match=f"cellinfer is {__version__} here and 0.0.1"):
        Worker.open(job, 1)
    with pytest.raises(ModelError, match="another file"):
        Worker.open(replace(job, version=__version__, sha256="0" * 64), 1)


def test_a_file_still_being_written_is_waited_for(plate: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    growing = tmp_path / "plate"
    growing.mkdir()
    for path in plate.iterdir():
        (growing / path.name).write_bytes(path.read_bytes())
    late = growing / "A01_s1_DNA.tif"
    whole = late.read_bytes()
    late.write_bytes(whole[:1000])

    def finish(state: State) -> None:
        if state.done == 11:  # all but this one
            late.write_bytes(whole)

    assert analyse(growing, tmp_path / "out", progress=finish).complete
    assert contents(tmp_path / "out") == expected


def test_a_file_that_is_cut_off_for_good_is_quarantined(plate: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "A01_s1_DNA.tif").write_bytes((plate / "A01_s1_DNA.tif").read_bytes()[:1000])
    started = time.monotonic()
    result = analyse(cut, tmp_path / "out")
    assert "cut off or still being written" in result.failed["cut_A01_s1_t1"]
    assert time.monotonic() - started > _dispatch.SETTLE  # it was given the time to change


def test_a_file_that_keeps_changing_is_not_waited_for_for_ever(
    plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "SETTLE", 0.01)
    monkeypatch.setattr(_dispatch, "_LONGEST_PAUSE", 0.05)
    growing = tmp_path / "growing"
    growing.mkdir()
    (growing / "A01_s1_DNA.tif").write_bytes((plate / "A01_s1_DNA.tif").read_bytes())
    read, sizes = Pipeline.read, iter(range(100, 10_000))

    def read_while_it_grows(self: Pipeline, field: Field) -> Any:
        try:
            return read(self, field)
        finally:
            (growing / "A01_s1_DNA.tif").write_bytes(b"II*\0" + bytes(next(sizes)))

    monkeypatch.setattr(Pipeline, "read", read_while_it_grows)
    result = analyse(growing, tmp_path / "out")
    assert "not ready, its files keep changing" in result.failed["growing_A01_s1_t1"]
    assert next(sizes) == 100 + _dispatch._TRIES
    monkeypatch.undo()
    (growing / "A01_s1_DNA.tif").write_bytes((plate / "A01_s1_DNA.tif").read_bytes())
    assert analyse(growing, tmp_path / "out").complete


def test_pixels_of_files_that_changed_while_they_were_read_are_not_trusted(
    plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dispatch, "SETTLE", 0.01)
    changing = tmp_path / "changing"
    changing.mkdir()
    image = changing / "A01_s1_DNA.tif"
    image.write_bytes((plate / "A01_s1_DNA.tif").read_bytes())
    later = (plate / "B02_s2_DNA.tif").read_bytes()
    read = Pipeline.read

    def read_then_change(self: Pipeline, field: Field) -> Any:
        images = read(self, field)
        if image.read_bytes() != later:
            image.write_bytes(later + b"\0")
            image.write_bytes(later)
        return images

    monkeypatch.setattr(Pipeline, "read", read_then_change)
    assert analyse(changing, tmp_path / "out").complete
    nuclei = pd.read_parquet(tmp_path / "out" / "Nuclei.parquet")
    monkeypatch.undo()
    analyse(plate, tmp_path / "all")
    whole = pd.read_parquet(tmp_path / "all" / "Nuclei.parquet").query("Metadata_Well == 'B02' and Metadata_Site == 2")
    column = "Nuclei_Intensity_IntegratedIntensity_DNA"
    assert nuclei[column].tolist() == whole[column].tolist()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_reading_that_never_ends_is_given_up(plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellinfer.patience.STALL", 1.0)
    monkeypatch.setattr("cellinfer.patience.STALL_PER_PLANE", 0.5)
    monkeypatch.setattr(_ledger, "_LONGEST_LOOK", 0.5)
    os.mkfifo(tmp_path / "hangs")

    def field(number: int, path: Path) -> Field:
        return Field(FieldKey("plate", f"A{number:02d}", 1, 1), {"DNA": (ImageRef(str(path)),)}, number)

    paths = [tmp_path / "hangs", plate / "A01_s1_DNA.tif", tmp_path / "hangs", plate / "A02_s1_DNA.tif"]
    fields = tuple(field(number, path) for number, path in enumerate(paths, start=1))
    made_up = Plate("plate", plate, "by hand", ("DNA",), fields, 96)
    result = analyse(made_up, tmp_path / "out", readers=1)
    assert set(result.failed) == {"plate_A01_s1_t1", "plate_A03_s1_t1"}
    assert "did not end within 1.5 s" in result.failed["plate_A01_s1_t1"]
    assert result.cells > 0
    (tmp_path / "hangs").unlink()
    (tmp_path / "hangs").write_bytes((plate / "A01_s1_DNA.tif").read_bytes())
    again = analyse(made_up, tmp_path / "out")  # without being asked: such failures may pass
    assert again.complete
    assert again.reused == 2


def gone(code: int) -> ImageError:
    error = ImageError("cannot open x")
    error.__cause__ = OSError(code, os.strerror(code))
    return error


def test_storage_that_comes_back_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pauses: list[float] = []
    answers: list[Any] = [gone(errno.EIO), gone(errno.ESTALE), "pixels"]

    def work() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Patience(tmp_path).call(work, pauses.append) == "pixels"
    assert pauses == list(PAUSES[:2])
    assert "trying again in 0.5 s" in caplog.text


@pytest.mark.parametrize("error", [gone(errno.ENOENT), gone(errno.EACCES), ImageError("damaged"), ValueError("bug")])
def test_what_waiting_does_not_mend_is_not_waited_for(tmp_path: Path, error: Exception) -> None:
    def work() -> None:
        raise error

    pauses: list[float] = []
    with pytest.raises(type(error)):
        Patience(tmp_path).call(work, pauses.append)
    assert pauses == []


def test_a_share_that_is_gone_for_good_does_not_cost_every_field_the_wait(tmp_path: Path) -> None:
    patience, pauses = Patience(tmp_path / "unmounted"), []

    def work() -> None:
        raise gone(errno.ENOENT)  # without the plate's folder no file is missed

    for _ in range(10):
        with pytest.raises(ImageError):
            patience.call(work, pauses.append)
    assert len(pauses) == 3 * len(PAUSES)
    patience.call(lambda: None)
    with pytest.raises(ImageError):
        patience.call(work, pauses.append)
    assert len(pauses) == 4 * len(PAUSES)


def test_a_field_that_does_not_fit_is_refused_and_the_rest_runs(plate: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in ("A01_s1_DNA.tif", "A01_s1_GFP.tif"):
        (mixed / name).write_bytes((plate / name).read_bytes())
        tifffile.imwrite(mixed / name.replace("A01", "A02"), np.zeros((3000, 3000), np.uint16))
    result = analyse(mixed, tmp_path / "out", memory=BASE + 100 * 2**20)
    assert list(result.failed) == ["mixed_A02_s1_t1"]
    assert "--memory" in result.failed["mixed_A02_s1_t1"]
    assert analyse(mixed, tmp_path / "out").complete  # with all the memory there is


def test_too_little_memory_for_anything_is_refused(plate: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--memory"):
        analyse(plate, tmp_path / "out", memory="100M")


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 2**32), ("800m", 800 * 2**20), ("1.5 GiB", 3 * 2**29), ("512", 512), (7, 7)]
)
def test_memory_is_read_as_people_write_it(text: str | int, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-4G", "0", "4X"])
def test_memory_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--memory 4G"):
        parse_memory(text)


def test_there_is_some_memory() -> None:
    assert 2**20 < usable_memory() <= psutil.virtual_memory().total


def test_a_field_that_cannot_be_read_needs_no_memory(plate: Path) -> None:
    def need(name: str) -> int:
        return field_bytes(Field(FieldKey("p", "A01", 1, 1), {"DNA": (ImageRef(str(plate / name)),)}))

    assert need("missing.tif") == 0
    assert need("A01_s1_DNA.tif") > 130 * 150 * 8


@given(st.lists(st.integers(0, 10), min_size=1, max_size=30))
def test_room_is_never_given_twice(needs: list[int]) -> None:
    room, held, most, lock = Room(10), [0], [0], threading.Lock()

    def take(need: int) -> None:
        room.take(need)
        with lock:
            held[0] += need
            most[0] = max(most[0], held[0])
        with lock:
            held[0] -= need
        room.give_back(need)

    threads = [threading.Thread(target=take, args=(need,)) for need in needs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 10


def test_fields_for_which_memory_was_short_are_tried_again_alone(
    plate: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, inside, lock = Pipeline.analyse, [0], threading.Lock()
    both = threading.Barrier(2)

    def analyse_or_run_out(self: Pipeline, field: Any, *images: Any) -> Any:
        if not getattr(field, "number", 0):  # the template of the tables
            return real(self, field, *images)
        with lock:
            inside[0] += 1
        try:
            if not both.broken:
                both.wait(5)
            if inside[0] > 1:
                raise MemoryError("Unable to allocate 5 GiB")
            return real(self, field, *images)
        except threading.BrokenBarrierError:
            return real(self, field, *images)
        finally:
            with lock:
                inside[0] -= 1

    monkeypatch.setattr(Pipeline, "analyse", analyse_or_run_out)
    threading.Timer(8, both.abort).start()
    assert analyse(plate, tmp_path / "out").complete
    assert contents(tmp_path / "out") == expected


class ShortOfMemory:
    """A network engine that fails on tiles larger than it has memory for, as onnxruntime does."""

    def __init__(self, engine: Any, most: int) -> None:
        self._engine, self._most = engine, most
        self.sizes: list[int] = []

    def run(self, names: Any, feeds: dict[str, Any]) -> Any:
        (batch,) = feeds.values()
        self.sizes.append(batch.shape[0] * batch.shape[2] * batch.shape[3])
        if self.sizes[-1] > self._most:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1073741824")
        return self._engine.run(names, feeds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_a_network_short_of_memory_takes_smaller_tiles(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    field = draw_cells(3, (700, 760))
    whole = Pipeline(session, Settings(diameter=22)).analyse({"DNA": field["DNA"]})
    short = ShortOfMemory(session._engine, 600 * 600)
    tiled = Pipeline(replace(session, _engine=short), Settings(diameter=22)).analyse({"DNA": field["DNA"]})
    assert min(short.sizes) <= 600 * 600 < max(short.sizes)
    assert "trying tiles of" in caplog.text
    assert np.array_equal(tiled.labels["Nuclei"], whole.labels["Nuclei"])
    nothing = ShortOfMemory(session._engine, 10)
    with pytest.raises(EngineError, match="Failed to allocate"):
        Pipeline(replace(session, _engine=nothing), Settings(diameter=22)).analyse({"DNA": field["DNA"]})


def test_batches_give_every_thread_its_own_tiles() -> None:
    sizes: list[int] = []

    def network(tiles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sizes.append(len(tiles))
        time.sleep(0.002)
        return np.stack([tiles.sum(axis=1), tiles.max(axis=1)], axis=1)

    batcher, problems = Batcher(network, 4, fill=True), []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(20):
            tiles = random.random((random.integers(1, 7), 2, *(8 * random.integers(1, 3, 2)))).astype(np.float32)
            if not np.array_equal(batcher.run(tiles), np.stack([tiles.sum(axis=1), tiles.max(axis=1)], axis=1)):
                problems.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert set(sizes) == {4}


def test_a_batch_that_cannot_be_made_leaves_nobody_waiting() -> None:
    def network(tiles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        time.sleep(0.005)
        if len(tiles) == 3:
            raise MemoryError("no room for a batch of three")
        return tiles[:1] if len(tiles) == 2 else tiles  # and an engine that loses one

    batcher, ends = Batcher(network, 3), []

    def work() -> None:
        for _ in range(20):
            try:
                ends.append(batcher.run(np.zeros((1, 1, 8, 8), np.float32)).shape)
            except (MemoryError, ValueError) as error:
                ends.append(type(error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(ends) == 100
    assert MemoryError in ends


def test_an_error_reaches_the_thread_whose_tile_it_was() -> None:
    def network(tiles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if tiles.shape[2] == 16:
            raise EngineError("too large")
        return tiles

    batcher = Batcher(network, 4)
    small, large = np.zeros((3, 1, 8, 8), np.float32), np.zeros((1, 1, 16, 16), np.float32)
    with pytest.raises(EngineError, match="too large"):
        batcher.run(large)
    assert batcher.run(small).shape == small.shape


def test_the_network_gives_the_same_for_a_tile_in_any_batch(session: Session) -> None:
    tiles = np.random.default_rng(0).random((5, 1, 96, 128)).astype(np.float32)
    alone = np.concatenate([session.run(tile[None]) for tile in tiles])
    assert np.array_equal(session.run(tiles), alone)
    assert np.array_equal(session.shared(2).run(tiles), alone)


@pytest.mark.parametrize(
    ("cores", "fields", "workers", "analysts"), [(2, 1000, 1, 2), (16, 1000, 4, 4), (16, 30, 1, 16), (64, 17280, 16, 4)]
)
def test_a_plan_suits_the_machine(cores: int, fields: int, workers: int, analysts: int) -> None:
    plan = _plan.make_plan("cpu", fields, threads=cores, memory="64G")
    assert (plan.workers, plan.analysts, plan.batch, plan.network_threads) == (workers, analysts, 1, 1)


@pytest.mark.parametrize(("memory", "need", "workers"), [("4G", 0, 5), ("1500M", 0, 1), ("8G", 1_500 * 2**20, 2)])
def test_no_more_processes_are_taken_than_fit(memory: str, need: int, workers: int) -> None:
    plan = _plan.make_plan("cpu", 10_000, threads=64, memory=memory, need=need)
    assert plan.workers == workers
    assert plan.memory >= need


def test_a_gpu_gets_one_process_and_batches() -> None:
    plan = _plan.make_plan("cuda", 1000, threads=16, memory="64G")
    assert (plan.workers, plan.analysts, plan.batch) == (1, 16, 8)


@pytest.mark.parametrize("option", ["workers", "threads", "readers", "batch"])
def test_numbers_below_zero_are_refused(plate: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(InputError, match=option):
        analyse(plate, tmp_path / "out", **{option: -1})
