"""Sphering (whitening): make what controls vary in, mostly batches, as small as everything else.

From centred controls X (n x d): Sigma = X^T X / n = V diag(s) V^T, and with regularisation lambda

    ZCA:  W = V diag((s + lambda)^-1/2) V^T        PCA:  W = V diag((s + lambda)^-1/2)

so that controls have mean 0 and the eigenvalues of their covariance become s / (s + lambda). `ZCA-cor` and `PCA-cor`
divide features by their standard deviation among controls first. With fewer controls than features, s is 0 in the
directions in which controls do not vary; W multiplies these by lambda^-1/2, and so the controls themselves, which lie
in the others, come out smaller than any other well: compare wells with held-out controls only (`held_out.hold_out`). No
d x d matrix is made: by the singular values of X,

    (x - mu) W = lambda^-1/2 (x - mu) + ((x - mu) V) (diag((s + lambda)^-1/2) - lambda^-1/2) V^T

Sources: Kessy, Lewin and Strimmer (2018), The American Statistician 72, 309 (whitening); Ando, McLean and Berndl
(2017), bioRxiv 161422 (typical variation normalisation); Moshkov et al. (2024), Nature Communications 15, 1594.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import linalg

from cellinfer.errors import InputError
from cellinfer.files import durable
from cellinfer.profiling.columns import feature_columns
from cellinfer.profiling.rows import Rows, choose_rows, examples, group_rows, with_numbers

Array = npt.NDArray[np.float64]
Method = Literal["ZCA", "ZCA-cor", "PCA", "PCA-cor"]
Convention = Literal["eigenvalues", "pycytominer"]

METHODS: tuple[str, ...] = ("ZCA", "ZCA-cor", "PCA", "PCA-cor")
REGULARIZATION = 1e-1
"""Default lambda, in units of the mean eigenvalue. Controls are seldom many more than features, and their smallest
eigenvalues come out far too small then: what is divided by them is noise."""
_FORMAT = 1
_GRAM = 1e-5
"""Smallest lambda over largest eigenvalue at which X^T X will do: rounding changes W by some 1e-10 then."""


@dataclass(frozen=True, slots=True)
class Sphering:
    """A sphering transformation learnt from controls; see `Sphering.fit`."""

    features: tuple[str, ...]
    mean: Array
    """(features,) mean of the controls."""
    scale: Array
    """(features,) what features are divided by before: ones without `-cor`."""
    vectors: Array
    """(features, rank) directions in which controls vary, largest first."""
    eigenvalues: Array
    """(rank,) variance of the controls along them."""
    method: str
    regularization: float
    """Lambda as it is added to the eigenvalues; with pycytominer's convention what is added to singular values."""
    exponent: float
    controls: int
    """How many rows it was learnt from."""
    convention: str = "eigenvalues"

    @classmethod
    def fit(
        cls,
        controls: pd.DataFrame,
        *,
        method: str = "ZCA",
        regularization: float | None = None,
        relative: bool = True,
        exponent: float = -0.5,
        features: Sequence[str] | None = None,
        convention: Convention = "eigenvalues",
    ) -> Sphering:
        """Learn the transformation from control profiles.

        Parameters
        ----------
        controls
            Profiles of control wells, mostly of all plates; features should be on one scale.
        method
            `ZCA` (stays closest to the features), `PCA` (principal components), and both with `-cor`.
        regularization
            Lambda; None: `REGULARIZATION`, or 1e-6 with pycytominer's convention.
        relative
            Lambda is in units of the mean eigenvalue (mean variance of the features among controls); False: in units of
            the features squared.
        exponent
            -1/2, or -1 as printed in a thesis; the code published with it has -1/2.
        features
            Names; None: see `feature_columns`.
        convention
            `eigenvalues`: as above. `pycytominer`: its `Spherize`, which divides by singular values + epsilon (not
            relative), times sqrt(n - 1), and takes the smallest singular value where controls do not vary.

        Raises
        ------
        InputError
            If there are fewer than two controls, a value is missing, a feature to be divided by its standard deviation
            is constant among controls, or lambda is 0 (or the convention pycytominer's) and the controls do not
            determine the transformation.
        """
        if method not in METHODS:
            raise InputError(f"There is no sphering {method!r}: choose {', '.join(METHODS)}.")
        if convention not in ("eigenvalues", "pycytominer"):
            raise InputError(f"There is no convention {convention!r}: choose eigenvalues or pycytominer.")
        theirs = convention == "pycytominer"
        if theirs and exponent != -0.5:
            raise InputError("pycytominer's sphering has the exponent -1/2.")
        if regularization is None:
            regularization = 1e-6 if theirs else REGULARIZATION
        if not (np.isfinite(regularization) and regularization >= 0):
            raise InputError(f"The regularisation must be a number from 0 on, and is {regularization}.")
        if not (np.isfinite(exponent) and exponent < 0):
            raise InputError(f"The exponent must be negative, such as -0.5, and is {exponent}.")
        names = feature_columns(controls, features)
        values = _whole(controls, names, "controls")
        if len(values) < 2:
            raise InputError(f"Sphering is learnt from the variation of controls: {len(values)} control is too few.")
        mean = values.mean(axis=0)
        centred = values - mean
        flat = np.abs(centred).max(axis=0) <= len(values) * np.finfo(np.float64).eps * np.abs(mean)
        centred[:, flat] = 0.0  # what rounding left of features that are the same in all controls
        scale = np.ones(len(names))
        if method.endswith("-cor"):
            _refuse_flat(flat, names)
            scale = np.sqrt(np.square(centred).mean(axis=0))
            centred /= scale
        variance = float(np.square(centred).mean())  # the mean eigenvalue
        if not variance > 0:
            raise InputError("The controls are all the same: there is no variation to learn sphering from.")
        amount = regularization * variance if relative and not theirs else regularization
        vectors, eigenvalues = _directions(centred, 0.0 if theirs else amount, whole=method.startswith("ZCA"))
        fitted = cls(tuple(names), mean, scale, vectors, eigenvalues, method, amount, exponent, len(values), convention)
        fitted._refuse_undetermined()
        return fitted

    @property
    def mean_eigenvalue(self) -> float:
        """Mean over all features' directions, those in which controls do not vary included."""
        return float(self.eigenvalues.sum()) / len(self.features)

    def regularised(self, value: float) -> Sphering:
        """Return the transformation of the same controls with a larger lambda, relative to the mean eigenvalue."""
        amount = value * self.mean_eigenvalue
        if self.convention == "pycytominer" or amount < self.regularization * (1 - 1e-9):
            raise ValueError(f"{value} is no larger regularisation of the convention eigenvalues")
        return replace(self, regularization=amount)

    def factors(self) -> tuple[Array, float]:
        """Return by what (rank,) directions are multiplied, and by what those in which controls do not vary."""
        if self.convention == "pycytominer":
            singular = np.sqrt(self.eigenvalues * self.controls)
            along = np.sqrt(self.controls - 1) / (singular + self.regularization)
            return along, float(along[-1])
        along = (self.eigenvalues + self.regularization) ** self.exponent
        return along, self.regularization**self.exponent if self.regularization > 0 else 0.0

    def apply_to(self, values: Array) -> Array:
        """Sphere a matrix.

        Parameters
        ----------
        values
            (rows, features).

        Returns
        -------
        (rows, features) or, with PCA, (rows, rank) float64
        """
        centred = np.asarray(values, dtype=np.float64) - self.mean
        if self.method.endswith("-cor"):
            centred /= self.scale
        along, rest = self.factors()
        size, rank = self.vectors.shape
        if self.method.startswith("ZCA") and len(centred) * (2 * rank - size) >= size * rank * (rank < size):
            return np.asarray(centred @ self.matrix())  # fewer multiplications than by directions
        projected = centred @ self.vectors
        if self.method.startswith("PCA"):
            projected *= along
            return projected
        centred *= rest
        centred += (projected * (along - rest)) @ self.vectors.T
        return centred

    def apply(self, profiles: pd.DataFrame) -> pd.DataFrame:
        """Sphere profiles.

        Parameters
        ----------
        profiles
            Has all features that it was learnt from.

        Returns
        -------
        DataFrame
            With ZCA the features under their names; with PCA `PC1`, `PC2`, ... at the end instead. Other columns stay.

        Raises
        ------
        InputError
            If a feature is not there or a value is missing.
        """
        sphered = self.apply_to(_whole(profiles, feature_columns(profiles, self.features), "profiles"))
        names = self.output_features if self.method.startswith("PCA") else None
        return with_numbers(profiles, self.features, sphered, names)

    @property
    def output_features(self) -> list[str]:
        """Names of the features that come out."""
        if not self.method.startswith("PCA"):
            return list(self.features)
        return [f"PC{number}" for number in range(1, self.vectors.shape[1] + 1)]

    def matrix(self) -> Array:
        """Return W, (features, features) or with PCA (features, rank), without the division by `scale`."""
        along, rest = self.factors()
        if self.method.startswith("PCA"):
            return np.asarray(self.vectors * along)
        whole = (self.vectors * (along - rest)) @ self.vectors.T
        whole[np.diag_indices_from(whole)] += rest
        return np.asarray((whole + whole.T) / 2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as `.npz`, of numbers and text only.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        with durable(Path(path)) as partial, partial.open("wb") as handle:
            np.savez(
                handle,
                format=np.array(_FORMAT),
                features=np.array(self.features, dtype=np.str_),
                mean=self.mean,
                scale=self.scale,
                vectors=self.vectors,
                eigenvalues=self.eigenvalues,
                method=np.array(self.method),
                regularization=np.array(self.regularization),
                exponent=np.array(self.exponent),
                controls=np.array(self.controls),
                convention=np.array(self.convention),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sphering:
        """Read what `save` wrote; nothing in the file is ever run.

        Raises
        ------
        InputError
            If the file is not a sphering transformation.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            if int(found.pop("format")) > _FORMAT:
                raise InputError(f"{path} was written by a newer cellinfer: update cellinfer.")
            return cls(**_checked(found))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a sphering transformation of cellinfer.") from error

    def _refuse_undetermined(self) -> None:
        rank, size = self.vectors.shape[1], len(self.features)
        if self.convention == "pycytominer":
            if rank not in (size, self.controls - 1):
                raise InputError(
                    f"pycytominer's sphering needs controls without linear dependencies: {self.controls} controls of "
                    f"{size} features vary in {rank} directions. Drop features, or take the convention eigenvalues."
                )
        elif self.regularization == 0 and rank < size and self.method.startswith("ZCA"):
            raise InputError(
                f"Without regularisation the controls must vary in all {size} directions, and do so in {rank}: choose "
                "a regularisation above 0, or fewer features."
            )


def sphere(
    profiles: pd.DataFrame,
    controls: Rows,
    *,
    by: Sequence[str] | str = (),
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, Sphering]]:
    """Learn sphering from the controls of a table and apply it to the table.

    Parameters
    ----------
    profiles
        Wells of all plates.
    controls
        Which rows are controls: a query or a mask.
    by
        Scope: `()` learns one transformation from the controls of all plates; columns such as `Metadata_Batch` learn
        one for each group from its own controls (for ZCA only: components of several PCAs mean different things).
    options
        Of `Sphering.fit`.

    Returns
    -------
    table : DataFrame
    transformations : dict
        By the group's name (`all rows` if there is but one).

    Raises
    ------
    InputError
        See `Sphering.fit`; names the group.
    """
    mask = choose_rows(profiles, controls, what="controls")
    if not mask.any():
        raise InputError("No row is a control: sphering is learnt from controls. Check the query.")
    groups = group_rows(profiles, by)
    if len(groups.keys) > 1 and str(options.get("method", "ZCA")).startswith("PCA"):
        raise InputError("Sphering by PCA takes all rows as one group: components of different groups do not compare.")
    names = feature_columns(profiles, options.pop("features", None))
    parts, fitted = [], {}
    for code in range(len(groups.keys)):
        mine = groups.codes == code
        try:
            transformation = Sphering.fit(profiles[mine & mask], features=names, **options)
        except InputError as error:
            raise InputError(f"{groups.name(code)}: {error}") from error
        fitted[groups.name(code)] = transformation
        parts.append(transformation.apply(profiles[mine]))
    if len(parts) == 1:
        return parts[0], fitted
    order = np.argsort(np.concatenate([np.flatnonzero(groups.codes == code) for code in range(len(parts))]))
    return pd.concat(parts).iloc[order], fitted


def _whole(table: pd.DataFrame, names: Sequence[str], what: str) -> Array:
    """Return features as numbers; refuse missing ones."""
    values = table[list(names)].to_numpy(dtype=np.float64, na_value=np.nan)
    if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=0))):
        raise InputError(
            f"Sphering needs a value in every well: {len(bad)} features of the {what} have missing or infinite ones, "
            f"such as {examples([names[index] for index in bad.tolist()])}. Select features with na_cutoff=0 first."
        )
    return values


def _refuse_flat(flat: npt.NDArray[np.bool_], names: Sequence[str]) -> None:
    if flat.any():
        listed = examples([names[index] for index in np.flatnonzero(flat).tolist()])
        raise InputError(
            f"{int(flat.sum())} features are the same in all controls and cannot be divided by their standard "
            f"deviation: {listed}. Drop them, or choose a method without -cor."
        )


def _directions(centred: Array, regularization: float, *, whole: bool) -> tuple[Array, Array]:
    """Return the eigenvectors (features, rank) and eigenvalues of X^T X / n, largest first.

    They come from the singular values of X; those that rounding alone may make (as in `numpy.linalg.matrix_rank`) are
    left out. The eigenvectors of X^T X, or with fewer rows than columns of X X^T, come much faster, and lose nothing
    but digits that are far below the regularisation; `whole` says that all directions are put together again, as the
    latter needs: single ones of small eigenvalues would lose more. The largest entry of each vector is positive.
    """
    count, size = centred.shape
    by_products = _of_gram if count >= size else _of_small_gram if whole else None
    if by_products and (result := by_products(centred, regularization)):
        vectors, eigenvalues = result
    else:
        if count > size:  # R of X = Q R has the same right singular vectors, and Q is not needed
            centred = np.asarray(linalg.qr(centred, mode="r", overwrite_a=True, check_finite=False)[0][:size])
        _, singular, transposed = linalg.svd(centred, full_matrices=False, overwrite_a=True, check_finite=False)
        smallest = singular.max(initial=0.0) * max(count, size) * np.finfo(np.float64).eps
        rank = int((singular > smallest).sum())
        vectors, eigenvalues = np.ascontiguousarray(transposed[:rank].T), np.square(singular[:rank]) / count
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return vectors * signs, eigenvalues


def _of_gram(centred: Array, regularization: float) -> tuple[Array, Array] | None:
    """Return eigenvectors and eigenvalues by X^T X, or None if that would cost digits that matter."""
    eigenvalues, vectors = linalg.eigh(centred.T @ centred, overwrite_a=True, check_finite=False, driver="evd")
    eigenvalues = eigenvalues[::-1] / len(centred)
    if regularization < _GRAM * eigenvalues[0]:
        return None
    return np.ascontiguousarray(vectors[:, ::-1]), np.maximum(eigenvalues, 0.0)


def _of_small_gram(centred: Array, regularization: float) -> tuple[Array, Array] | None:
    """Return eigenvectors and eigenvalues of X^T X by X X^T, or None if that would cost digits that matter.

    An eigenvector u of X X^T gives X^T u / sqrt(eigenvalue). Its relative error is rounding times the largest over its
    own eigenvalue, and its weight in W no more than the latter over lambda.
    """
    squares, left = linalg.eigh(centred @ centred.T, overwrite_a=True, check_finite=False, driver="evd")
    count, size = centred.shape
    if regularization < _GRAM * squares[-1] / count:
        return None
    rank = int((squares > squares[-1] * size * np.finfo(np.float64).eps).sum())
    squares, left = squares[::-1][:rank], left[:, ::-1][:, :rank]
    return centred.T @ (left / np.sqrt(squares)), squares / count


def _checked(found: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    names = tuple(found["features"].tolist())
    vectors, method = np.asarray(found["vectors"], dtype=np.float64), str(found["method"])
    arrays = {name: np.asarray(found[name], dtype=np.float64) for name in ("mean", "scale", "eigenvalues")}
    sizes = (len(names), len(names), vectors.shape[1])
    if (
        vectors.ndim != 2
        or len(vectors) != len(names)
        or method not in METHODS
        or any(array.shape != (size,) for array, size in zip(arrays.values(), sizes, strict=True))
        or not all(np.isfinite(array).all() for array in (vectors, *arrays.values()))
    ):
        raise ValueError("its parts do not fit together")
    return {
        "features": names,
        "vectors": vectors,
        **arrays,
        "method": method,
        "regularization": float(found["regularization"]),
        "exponent": float(found["exponent"]),
        "controls": int(found["controls"]),
        "convention": str(found["convention"]),
    }
