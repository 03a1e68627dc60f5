"""Four-parameter logistic dose response of one feature, with an honest interval for the EC50.

The model is y = bottom + (top - bottom) / (1 + (EC50 / dose) ** hill) with hill > 0: `bottom` is the response at dose
zero, `top` the one at an endless dose, and a falling curve has top < bottom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # its parts are read when they are first used: they take a second

Array = npt.NDArray[np.float64]

MIN_DOSES = 4
"""Different doses above zero that a fit needs."""
CONFIDENCE = 0.95
ALPHA = 0.05
"""A curve counts as a response if it beats a constant with a smaller p-value and has the smaller AICc."""

_PARAMETERS = 4
_HILL = (0.1, 20.0)
_BEYOND = 2.0  # decades outside the tested doses where the EC50 is searched
_ASYMPTOTE = 100.0  # spans of the data by which an asymptote may leave their range; fewer would feign a sharp EC50
_START_HILLS = (0.7, 1.5, 4.0)
_START_FITS = 4


class Monotonicity(NamedTuple):
    """How steadily the dose medians go one way."""

    spearman: float
    """Rank correlation of dose and median response; NaN if all medians are equal."""
    deviation: float
    """Largest distance of a median to the best monotone curve, as a share of the medians' range."""
    monotone: bool
    """Whether that distance is within two standard errors of a median."""


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """A fitted dose response; doses in the units of the plate map, responses in those of the feature."""

    feature: str
    wells: int
    doses: int
    """Different doses, zero included."""
    responds: bool
    """Whether a curve explains the data better than a constant."""
    p_value: float
    """F-test of the curve against a constant."""
    aicc_gain: float
    """AICc of the constant minus that of the curve; infinite for a perfect curve."""
    ec50: float | None
    """None without a response."""
    ec50_low: float | None
    """Lower end of the 95 % interval (profile likelihood); None: open."""
    ec50_high: float | None
    """Upper end; None: open."""
    hill: float
    bottom: float
    top: float
    r_squared: float
    residual_sd: float
    monotonicity: Monotonicity
    flags: tuple[str, ...]

    def predict(self, dose: npt.ArrayLike) -> Array:
        """Response of the fitted curve at doses >= 0; the constant mean where there is no response."""
        dose = np.asarray(dose, dtype=np.float64)
        if self.ec50 is None:
            return np.full(dose.shape, self.bottom)
        return _logistic(np.array([self.bottom, self.top, math.log10(self.ec50), math.log10(self.hill)]), _log10(dose))

    def sentence(self) -> str:
        """Say the result in one line."""
        flags = f" [{'; '.join(self.flags)}]" if self.flags else ""
        if self.ec50 is None:
            return f"no dose response (p = {self.p_value:.2g}, {self.wells} wells){flags}"
        low = "open" if self.ec50_low is None else f"{self.ec50_low:.3g}"
        high = "open" if self.ec50_high is None else f"{self.ec50_high:.3g}"
        return (
            f"EC50 {self.ec50:.3g} (95 % {low} to {high}), Hill {self.hill:.2g}, {self.bottom:.3g} to {self.top:.3g}, "
            f"R² {self.r_squared:.3f}, Spearman {self.monotonicity.spearman:.2f}{flags}"
        )


def fit_dose_response(feature: str, dose: npt.ArrayLike, response: npt.ArrayLike) -> DoseResponse | None:
    """Fit a dose response.

    The fit is least squares on log10 dose from several starts, within bounds: hill 0.1 to 20, the EC50 two decades
    around the tested doses, each asymptote within a hundred spans of the data. Wells with dose zero enter as the
    model's limit, so they settle `bottom`. The interval of the EC50 is that of the profile likelihood (all EC50 at
    which the best other parameters fit not significantly worse); an end is open where it leaves the searched range.

    Parameters
    ----------
    feature
        Its name.
    dose
        One per well; below zero or missing: the well is left out.
    response
        One per well; missing or infinite: the well is left out.

    Returns
    -------
    DoseResponse or None
        None with fewer than four different doses above zero, or no more wells than parameters plus one.
    """
    x, y = np.asarray(dose, dtype=np.float64), np.asarray(response, dtype=np.float64)
    usable = np.isfinite(x) & (x >= 0) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(np.unique(x[x > 0])) < MIN_DOSES or len(y) < _PARAMETERS + 2:
        return None
    centre, span = float(y.mean()), float(np.ptp(y))
    if span <= 1e-12 * float(np.abs(y).max()):  # constant but for rounding
        return _no_response(feature, x, y, p_value=1.0, gain=-math.inf)
    problem = _Problem.of(x, (y - centre) / span)
    best = problem.fit()
    rss, constant_rss = problem.rss(best), float(np.sum((problem.y - problem.y.mean()) ** 2))
    p_value, gain = _against_constant(rss, constant_rss, len(y))
    if p_value >= ALPHA or gain <= 0:
        return _no_response(feature, x, y, p_value=p_value, gain=gain)
    low, high = problem.interval(best, rss)
    bottom, top = centre + span * best[0], centre + span * best[1]
    residual_sd = span * math.sqrt(rss / (len(y) - _PARAMETERS))
    ec50 = float(10 ** best[2])
    return DoseResponse(
        feature=feature,
        wells=len(y),
        doses=len(np.unique(x)),
        responds=True,
        p_value=p_value,
        aicc_gain=gain,
        ec50=ec50,
        ec50_low=low,
        ec50_high=high,
        hill=float(10 ** best[3]),
        bottom=bottom,
        top=top,
        r_squared=1 - rss / constant_rss,
        residual_sd=residual_sd,
        monotonicity=monotonicity(x, y, residual_sd),
        flags=_flags(x, ec50, low, high, float(10 ** best[3])),
    )


def monotonicity(dose: Array, response: Array, residual_sd: float) -> Monotonicity:
    """Judge how steadily the medians per dose go one way.

    Parameters
    ----------
    dose, response
        One per well, finite.
    residual_sd
        Spread of wells of one dose, used where doses have single wells only.
    """
    levels, index = np.unique(dose, return_inverse=True)
    groups = [response[index == k] for k in range(len(levels))]
    medians = np.array([np.median(group) for group in groups])
    span = float(np.ptp(medians))
    if span == 0:
        return Monotonicity(math.nan, 0.0, True)
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    distances = [
        np.abs(medians - scipy.optimize.isotonic_regression(medians, weights=sizes, increasing=up).x)
        for up in (True, False)
    ]
    distance = min(distances, key=lambda each: float(each.max()))
    freedom = len(response) - len(levels)
    within = sum(float(np.sum((group - group.mean()) ** 2)) for group in groups)
    sd = math.sqrt(within / freedom) if freedom > 0 else residual_sd
    error = sd * np.where(sizes > 2, math.sqrt(math.pi / 2), 1.0) / np.sqrt(sizes)  # of a median of normal values
    rho = float(scipy.stats.spearmanr(levels, medians).statistic)
    return Monotonicity(rho, float(distance.max()) / span, bool(np.all(distance <= 2 * error + 1e-12 * span)))


def _log10(dose: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log10(dose))


def _logistic(theta: Array, log_dose: Array) -> Array:
    """Model on log10 dose (minus infinity: dose zero); theta = bottom, top, log10 EC50, log10 hill."""
    exponent = 10 ** theta[3] * (theta[2] - log_dose)
    return np.asarray(theta[0] + (theta[1] - theta[0]) / (1 + 10 ** np.minimum(exponent, 300.0)))


class _Problem(NamedTuple):
    """Responses scaled to mean 0 and range 1 on log10 dose, and the bounds of the four parameters."""

    x: Array
    y: Array
    lower: Array
    upper: Array

    @classmethod
    def of(cls, dose: Array, y: Array) -> _Problem:
        x = _log10(dose)
        tested = x[np.isfinite(x)]
        low, high = float(y.min()) - _ASYMPTOTE, float(y.max()) + _ASYMPTOTE
        hill = np.log10(_HILL)
        return cls(
            x,
            y,
            np.array([low, low, tested.min() - _BEYOND, hill[0]]),
            np.array([high, high, tested.max() + _BEYOND, hill[1]]),
        )

    def rss(self, theta: Array) -> float:
        return float(np.sum((_logistic(theta, self.x) - self.y) ** 2))

    def fit(self) -> Array:
        """Return the best of several fits; starts come from a grid on which the asymptotes are solved exactly."""
        tested = self.x[np.isfinite(self.x)]
        starts = [
            self._start(ec50, math.log10(hill))
            for ec50 in np.linspace(tested.min() - 0.5, tested.max() + 0.5, 12)
            for hill in _START_HILLS
        ]
        starts.sort(key=self.rss)
        return min((self._least_squares(start, slice(0, 4)) for start in starts[:_START_FITS]), key=self.rss)

    def _start(self, log_ec50: float, log_hill: float) -> Array:
        rise = _logistic(np.array([0.0, 1.0, log_ec50, log_hill]), self.x)
        bottom, slope = np.linalg.lstsq(np.column_stack([np.ones_like(rise), rise]), self.y, rcond=None)[0]
        theta = np.array([bottom, bottom + slope, log_ec50, log_hill])
        inside = 1e-6 * (self.upper - self.lower)
        return np.asarray(np.clip(theta, self.lower + inside, self.upper - inside))

    def _least_squares(self, start: Array, free: slice | list[int]) -> Array:
        """Fit the free parameters from a start."""
        theta = start.copy()

        def residuals(values: Array) -> Array:
            theta[free] = values
            return _logistic(theta, self.x) - self.y

        found = scipy.optimize.least_squares(
            residuals, start[free], bounds=(self.lower[free], self.upper[free]), max_nfev=200, xtol=1e-10, ftol=1e-10
        )
        theta[free] = found.x
        return theta

    def interval(self, best: Array, rss: float) -> tuple[float | None, float | None]:
        """Profile-likelihood interval of the EC50; None where an end is open."""
        freedom = len(self.y) - _PARAMETERS
        limit = rss * (1 + float(scipy.stats.f.ppf(CONFIDENCE, 1, freedom)) / freedom) + 1e-18

        def end(bound: float) -> float | None:
            """Walk from the best fit towards a bound until the profile exceeds the limit, then close in on it."""
            at = best
            for log_ec50 in np.linspace(best[2], bound, 41)[1:]:
                new = self._profile(at, float(log_ec50))
                if self.rss(new) > limit:
                    return float(10 ** self._cross(at, new, limit))
                at = new
            return None

        return end(self.lower[2]), end(self.upper[2])

    def _profile(self, near: Array, log_ec50: float) -> Array:
        """Best fit with a fixed EC50, from a neighbouring fit and from a few hills."""
        moved = near.copy()
        moved[2] = log_ec50
        inside = 1e-9 * (self.upper - self.lower)
        moved[[0, 1, 3]] = np.clip(moved, self.lower + inside, self.upper - inside)[[0, 1, 3]]
        hills = [self._start(log_ec50, math.log10(hill)) for hill in _START_HILLS]
        starts = [moved, min(hills, key=self.rss)]
        for start in starts:
            start[2] = log_ec50
        return min((self._least_squares(start, [0, 1, 3]) for start in starts), key=self.rss)

    def _cross(self, inside: Array, outside: Array, limit: float) -> float:
        """Return the log10 EC50 between two profile fits at which the residuals reach the limit, by bisection."""
        low, high, at = float(inside[2]), float(outside[2]), inside
        while abs(high - low) > 1e-3:
            middle = self._profile(at, (low + high) / 2)
            if self.rss(middle) > limit:
                high = float(middle[2])
            else:
                low, at = float(middle[2]), middle
        return (low + high) / 2


def _against_constant(rss: float, constant_rss: float, n: int) -> tuple[float, float]:
    """p-value of the F-test, and the gain in AICc, of the curve over a constant."""
    if rss <= 1e-20 * constant_rss:
        return 0.0, math.inf
    freedom, extra = n - _PARAMETERS, _PARAMETERS - 1
    f = max(constant_rss - rss, 0.0) / extra / (rss / freedom)

    def aicc(residual: float, mean_parameters: int) -> float:
        k = mean_parameters + 1  # and the variance
        return n * math.log(residual / n) + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf)

    return float(scipy.stats.f.sf(f, extra, freedom)), aicc(constant_rss, 1) - aicc(rss, _PARAMETERS)


def _flags(dose: npt.NDArray[Any], ec50: float, low: float | None, high: float | None, hill: float) -> tuple[str, ...]:
    tested = dose[dose > 0]
    flags = []
    if not tested.min() <= ec50 <= tested.max():
        flags.append("EC50 outside tested doses")
    if low is None or high is None:
        flags.append("EC50 interval open " + ("on both sides" if low is high else "below" if low is None else "above"))
    if hill > 0.99 * _HILL[1]:
        flags.append("steeper than the doses resolve")
    if hill < 1.01 * _HILL[0]:
        flags.append("no plateau within the tested doses")
    return tuple(flags)


def _no_response(feature: str, x: Array, y: Array, *, p_value: float, gain: float) -> DoseResponse:
    mean, sd = float(y.mean()), float(y.std(ddof=1))
    return DoseResponse(
        feature=feature,
        wells=len(y),
        doses=len(np.unique(x)),
        responds=False,
        p_value=p_value,
        aicc_gain=gain,
        ec50=None,
        ec50_low=None,
        ec50_high=None,
        hill=math.nan,
        bottom=mean,
        top=mean,
        r_squared=0.0,
        residual_sd=sd,
        monotonicity=monotonicity(x, y, sd),
        flags=("no response",),
    )
