"""What tells that a field has to be done again."""

from __future__ import annotations

import numpy as np
import zarr
from cellinfer.journal import fingerprint
from cellinfer.plate import Field, FieldKey, ImageRef


def test_a_plane_of_an_array_counts_by_its_own_chunks(tmp_path):
    pixels = np.arange(2 * 64 * 64, dtype=np.uint16).reshape(2, 64, 64)
    array = zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=(1, 32, 32))
    first, second = (
        Field(FieldKey("p", "A01", 1, 1), {"DNA": (ImageRef(str(tmp_path / "a.zarr"), (c,)),)}) for c in range(2)
    )
    before = [fingerprint(field, "c") for field in (first, second)]
    assert before[0] != before[1]
    assert before == [fingerprint(field, "c") for field in (first, second)]
    array[0, 0, 0] = 9
    after = [fingerprint(field, "c") for field in (first, second)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_file_counts_by_its_bytes_and_the_configuration(tmp_path):
    path = tmp_path / "a.tif"
    field = Field(FieldKey("p", "A01", 1, 1), {"DNA": (ImageRef(str(path)),)})
    missing = fingerprint(field, "c")
    path.write_bytes(b"1" * 300_000)
    there = fingerprint(field, "c")
    path.write_bytes(b"1" * 299_999 + b"2")
    assert len({missing, there, fingerprint(field, "c"), fingerprint(field, "d")}) == 4
