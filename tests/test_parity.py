"""Back-ends are compared by the objects they find: figures, limits, and the bundled model against torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cellinfer_models
import numpy as np
import pytest
from cellinfer.sessions import Session
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the [train] extra")

from cellinfer_training import parity  # noqa: E402
from cellinfer_training.data import Sample, normalise  # noqa: E402
from cellinfer_training.parity import LIMITS, Agreement, agreement, contract, torch_session  # noqa: E402

from tests.conftest import draw_cells  # noqa: E402


def sample(seed: int = 3) -> Sample:
    field = draw_cells(seed, (160, 192))
    return Sample(f"field{seed}", "drawn", normalise(field["DNA"]), np.asarray(field["truth"], np.int32))


class Threshold(torch.nn.Module):  # type: ignore[misc]
    """A network of one step: bright is foreground, and the distance is the brightness."""

    def __init__(self, level: float = 0.4) -> None:
        super().__init__()
        self.level = level

    def forward(self, image: Any) -> Any:
        foreground = torch.sigmoid(20 * (image - self.level))
        return torch.cat([foreground, torch.clamp(image, 0, 1)], dim=1)


def answering(session: Session, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Session:
    """The session with its answers changed."""

    def run(names: Any, feed: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [change(session.run(*feed.values()))]

    engine = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="image")], run=run)
    return dataclasses.replace(session, _engine=engine)


def test_a_back_end_agrees_with_itself(session: Session) -> None:
    found = agreement(session, session, [sample()])
    assert (found.images, found.matched_50, found.matched_90, found.map_dsb) == (1, 1.0, 1.0, 1.0)
    assert (found.area, found.intensity) == (0.0, 0.0)
    assert found.objects == sample().labels.max()


def test_a_bolder_back_end_drifts_in_area_and_keeps_its_objects(session: Session) -> None:
    bolder = answering(session, lambda fields: np.sqrt(fields))
    found = agreement(session, bolder, [sample()])
    assert found.matched_50 == 1.0
    assert found.area > 0.01
    assert found.intensity > 0
    with pytest.raises(RuntimeError, match=r"torch and bolder disagree: .* it must be"):
        found.check(LIMITS["torch"], "torch and bolder")


def test_a_blind_back_end_matches_nothing(session: Session) -> None:
    found = agreement(session, answering(session, lambda fields: 0 * fields), [sample()])
    assert (found.matched_50, found.map_dsb) == (0.0, 0.0)
    with pytest.raises(RuntimeError, match="matched_50 is 0, it must be at least"):
        found.check(LIMITS["int8"], "blind")


def test_where_nothing_is_found_back_ends_agree_and_an_invented_object_shows(session: Session) -> None:
    empty = Sample("empty", "drawn", np.zeros((96, 96), np.float32), np.zeros((96, 96), np.int32))
    blind = answering(session, lambda fields: 0 * fields)
    found = agreement(blind, blind, [empty])
    assert (found.objects, found.matched_50, found.matched_90, found.map_dsb) == (0, 1.0, 1.0, 1.0)
    found.check(LIMITS["torch"], "torch and onnxruntime")
    with pytest.raises(RuntimeError, match="map_dsb is 0"):
        agreement(blind, session, [sample()]).check(LIMITS["torch"], "torch and onnxruntime")


def test_on_a_users_images_a_departure_is_noted_not_refused(session: Session) -> None:
    path = cellinfer_models.folder() / "nuclei.onnx"
    with pytest.raises(RuntimeError, match="torch and onnxruntime disagree"):
        contract(Threshold(0.9), path, [sample()])
    found = contract(Threshold(0.9), path, [sample()], strict=False)
    assert "torch and onnxruntime disagree" in found["torch"]["breach"]
    assert found["torch"]["map_dsb"] < LIMITS["torch"].map_dsb


def test_figures_that_are_no_numbers_are_refused() -> None:
    odd = Agreement(1, 1, 1.0, 1.0, 1.0, float("nan"), 0.0)
    with pytest.raises(RuntimeError, match="area is nan"):
        odd.check(LIMITS["int8"], "odd")


def test_torch_runs_in_place_of_its_export(session: Session) -> None:
    network = Threshold()
    batch = np.random.default_rng(0).random((2, 1, 32, 48), np.float32)
    np.testing.assert_array_equal(torch_session(network, session).run(batch), network(torch.from_numpy(batch)).numpy())


def test_an_export_keeps_the_contract(tmp_path: Path, session: Session) -> None:
    from cellinfer_training.export import export_model

    path = tmp_path / "threshold.onnx"
    export_model(Threshold(), session.card.description_file, path, torch.nn.Identity())
    found = contract(Threshold(), path, [sample()])
    assert found["torch"]["matched_90"] == 1.0
    assert found["torch"]["objects"] > 10
    assert "skipped" in found["cuda"] or found["cuda"]["matched_50"] >= parity.LIMITS["cuda"].matched_50
    with pytest.raises(RuntimeError, match="torch and onnxruntime disagree"):
        contract(Threshold(0.7), path, [sample()])
