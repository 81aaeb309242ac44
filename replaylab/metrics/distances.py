"""Fréchet and kernel distance between two sets of feature vectors.

Decision: everything here is a function of feature arrays, independent of networks. The source of the features is
described by an `Extractor` and stored with the value in a `Distance`. d is the number of dimensions of a feature
vector; n and m are numbers of vectors, one vector per row.

The kernel distance of independent vectors is unbiased: its expectation does not depend on their number, and between two
samples of one distribution it is zero on average, so single values may be negative. Frames of one clip are not independent.
With v vectors per clip, a share (v − 1) / (n − 1) of the pairs within a set comes from one clip and is more similar than the
others; the distance is too large by that share of the difference, in each set. It therefore decreases as clips are added:
compare only values of equal numbers of clips and frames. The mean of `kernel_pseudo_values`, which leave out whole clips,
has almost none of this bias from the first set. The Fréchet distance decreases with n: compare only values of the same n.

Refused, with the set's name: sets of fewer than N_MIN vectors, for which both distances are mostly noise, NaN and infinity,
and features of different lengths. `between` also refuses repeated clips; the basic functions cannot, since a still video
legitimately gives the same features for several frames.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from replaylab.spec import generator
from replaylab.util.checks import checked_at_least, checked_numbers

N_MIN = 20
"""Minimum number of feature vectors in each set; with fewer, both distances are mostly noise."""

ROWS_AT_A_TIME = 1024

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Extractor:
    """The source of the features, stored with every distance."""

    name: str
    layer: str
    weights_sha256: str
    package: str
    resize: str  # kernel by which frames are resized before the network, or "none"
    frame_size_px: int
    dimensions: int
    frames: int = 1  # that one feature vector sees: 1 for an image network, a clip's length for a video network


@dataclass(frozen=True)
class Distance:
    """A distance with its settings: compare only distances that agree in every field but the value."""

    name: str
    value: float
    n: int  # feature vectors in the smaller set
    frames: int  # that one feature vector sees
    size_px: int
    resize: str
    extractor: str
    extractor_digest: str  # SHA-256 of its weights


@dataclass(frozen=True)
class _Gaussian:
    """The Gaussian fitted to n feature vectors.

    Instead of the scatter S (d, d) a factor F with F'F = S is stored: nothing is squared, and few vectors in many
    dimensions cost little.
    """

    name: str
    n: int
    mean: Features
    factor: Features  # (n, d), the vectors minus their mean

    @classmethod
    def fitted(cls, features: ArrayLike, name: str) -> _Gaussian:
        """The Gaussian of the features; ValueError names the set and the reason."""
        rows = _rows(features, name)
        mean = rows.mean(0)
        return cls(name, len(rows), mean, rows - mean)

    @property
    def trace(self) -> float:
        """The trace of the scatter: the sum of the squared distances of the vectors from their mean."""
        rows = self.factor.ravel()
        # scipy's BLAS, as in all that follows: numpy has one of its own, whose threads wait busily for more work
        return float(scipy.linalg.blas.ddot(rows, rows))

    def root(self) -> Features | None:
        """Lower triangular L (d, d) with L L' the scatter.

        None if there are no more vectors than dimensions, or if they are linearly dependent.
        """
        if self.n <= len(self.mean):
            return None
        scatter = scipy.linalg.blas.dsyrk(1.0, self.factor.T, lower=1)
        lower, failed = scipy.linalg.lapack.dpotrf(scatter, lower=1, overwrite_a=1)
        return None if failed else lower  # a feature that never varies, or follows from others


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6).

    features_a (n, d) and features_b (m, d); n and m at least N_MIN and not necessarily equal. Returns
    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) with the unbiased covariances A and B, at least 0, in the features'
    unit squared. It is exact for the sample covariances also with fewer vectors than dimensions. ValueError names the set
    that has a wrong shape, too few rows, or holds NaN.
    """
    a, b = _Gaussian.fitted(features_a, "features_a"), _Gaussian.fitted(features_b, "features_b")
    _same_length(a.name, len(a.mean), b.name, len(b.mean))
    traces = sum(each.trace / (each.n - 1) for each in (a, b))
    shared = _trace_of_root(a, b) / np.sqrt((a.n - 1.0) * (b.n - 1.0))
    return max(0.0, float(((a.mean - b.mean) ** 2).sum() + traces - 2 * shared))


def kernel_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, section 4).

    features_a (n, d) and features_b (m, d); n and m at least N_MIN. All vectors are used at once, without subsets.
    Unbiased if they are independent, as with one frame per clip; with several frames per clip it is too large, as the module
    explains. May be negative. Errors as in `frechet_distance`.
    """
    a, b = _rows(features_a, "features_a"), _rows(features_b, "features_b")
    _same_length("features_a", a.shape[1], "features_b", b.shape[1])
    return _kernel_within(a) + _kernel_within(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def kernel_pseudo_values(features_a: ArrayLike, features_b: ArrayLike) -> Features:
    """Jackknife pseudo-values (N,) of `kernel_distance`, one for each of N clips, from one pass over the kernel.

    features_a (N, v, d), v vectors of each clip, and features_b (m, d). N times the distance of all clips, minus N − 1
    times that without the clip (Tukey; Efron & Stein 1981). Their mean is the distance, for v > 1 without the contribution
    of pairs within clips, and their spread estimates its variation over clips. ValueError as in `kernel_distance`, and for
    fewer than two clips.
    """
    clips = np.asarray(features_a, dtype=np.float64)
    if clips.ndim != 3 or len(clips) < 2:
        raise ValueError(f"features_a: shape {clips.shape}, expected (clips, vectors of each, d), 2 clips or more")
    size, each, d = clips.shape
    a, b = _rows(clips.reshape(-1, d), "features_a"), _rows(features_b, "features_b")
    _same_length("features_a", d, "features_b", b.shape[1])
    m = len(b)
    within_b = _kernel_within(b)
    to_all, to_own, to_b = np.empty((3, size))
    for number, clip in enumerate(clips):
        to_all[number], to_own[number] = _kernel_sum(clip, a), _kernel_sum(clip, clip)
        to_b[number] = _kernel_sum(clip, b)
    diagonal = np.array([_kernel_diagonal(clip) for clip in clips])

    def distance(pairs: Any, to_others: Any, n: int) -> Any:
        return pairs / (n * (n - 1)) + within_b - 2 * to_others / (n * m)

    pairs = to_all.sum() - diagonal.sum()
    whole = distance(pairs, to_b.sum(), size * each)
    pairs_without = pairs - 2 * (to_all - diagonal) + (to_own - diagonal)
    without = distance(pairs_without, to_b.sum() - to_b, (size - 1) * each)
    return np.asarray(size * whole - (size - 1) * without)


def between(
    name: str, of: Callable[..., float], features_a: ArrayLike, features_b: ArrayLike, extractor: Extractor, *,
    names: tuple[str, str] = ("features_a", "features_b"), clips_a: Sequence[Hashable] | None = None,
    clips_b: Sequence[Hashable] | None = None,
) -> Distance:  # fmt: skip
    """The distance `of(a, b)`, such as `kernel_distance`, with all settings needed to compare it.

    features_a and features_b come from the extractor, with d dimensions: (clips, d), or (clips, vectors of each, d).
    clips_a and clips_b name the clips or their scenes, and `names` are the names of the sets in errors. ValueError names
    the set that has too few vectors, a wrong shape or NaN; two clips with the same name or a bit-identical vector (a still
    clip may repeat its own); or a clip or vector that is also in the other set.
    """
    a, owners_a = _clips(features_a, clips_a, names[0], extractor)
    b, owners_b = _clips(features_b, clips_b, names[1], extractor)
    if shared := owners_a.keys() & owners_b.keys():
        clip = owners_b[min(shared)]
        raise ValueError(f"{names[1]}: clip {clip!r} has a feature vector of {names[0]}; no clip may be in both")
    if clips_a is not None and clips_b is not None and (both := set(clips_a) & set(clips_b)):
        raise ValueError(f"{names[1]}: clip {min(map(repr, both))} is in {names[0]} too; no clip may be in both")
    value = of(a, b)
    if not np.isfinite(value):
        raise ValueError(f"{name}: {value} between {names[0]} and {names[1]}")
    return Distance(
        name, value, min(len(a), len(b)), extractor.frames, extractor.frame_size_px, extractor.resize,
        extractor.name, extractor.weights_sha256,
    )  # fmt: skip


def _clips(
    features: ArrayLike, clips: Sequence[Hashable] | None, name: str, extractor: Extractor
) -> tuple[Features, dict[bytes, Hashable]]:
    """All vectors (n, d) of a set, and the one clip to which each vector's bits belong."""
    array = np.asarray(features, dtype=np.float64)
    if array.ndim not in (2, 3):
        raise ValueError(f"{name}: shape {array.shape}, expected (clips, d) or (clips, vectors, d)")
    rows = _rows(array.reshape(-1, array.shape[-1]) if array.size else np.zeros((0, 1)), name)
    _same_length(extractor.name, extractor.dimensions, name, rows.shape[1])
    clips = range(len(array)) if clips is None else clips
    if len(clips) != len(array) or len(set(clips)) < len(clips):
        raise ValueError(f"{name}: {len(set(clips))} different names for {len(array)} clips, expected one each")
    owners: dict[bytes, Hashable] = {}
    clip_of_row = (clip for clip in clips for _ in range(len(rows) // len(array)))
    for row, clip in zip(rows + 0.0, clip_of_row, strict=True):  # + 0.0: the bits of -0 are those of 0
        if (first := owners.setdefault(row.tobytes(), clip)) != clip:
            raise ValueError(f"{name}: clips {first!r} and {clip!r} share a feature vector; add clips, do not repeat them")
    return rows, owners


def _trace_of_root(a: _Gaussian, b: _Gaussian) -> float:
    """tr (A B)^(1/2) for A = Fa'Fa and B = Fb'Fb, the scatters of two sets, without a matrix square root.

    The eigenvalues of A B are those of the symmetric (Fa L)'(Fa L) with B = L L', which needs a positive definite B. They
    are also the squared singular values of Fa Fb', which is smaller for few vectors and has no such condition
    (Mathiasen & Hvilshøj 2020, arXiv 2009.14075).
    """
    if min(a.n, b.n) > len(a.mean) and (root := b.root()) is not None:
        product = scipy.linalg.blas.dtrmm(1.0, root, a.factor.T, lower=1, trans_a=1)  # L'Fa'
        squared = scipy.linalg.eigvalsh(scipy.linalg.blas.dsyrk(1.0, product, lower=1), overwrite_a=True, check_finite=False)
        return float(np.sqrt(np.maximum(squared, 0)).sum())
    return float(np.linalg.svd(_condensed(a.factor) @ _condensed(b.factor).T, compute_uv=False).sum())


def _condensed(factor: Features) -> Features:
    """R of F = Q R: it has the same R'R, and no more rows than columns."""
    return np.asarray(np.linalg.qr(factor, mode="r")) if len(factor) > factor.shape[1] else factor


def _rows(features: ArrayLike, name: str) -> Features:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{name}: shape {rows.shape}, expected (n, d), one feature vector a row")
    if len(rows) == 0:
        raise ValueError(f"{name}: empty, expected at least one feature vector")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    if len(rows) < N_MIN:
        raise ValueError(f"{name}: {len(rows)} feature vectors, at least {N_MIN} are needed; add clips, do not repeat them")
    return rows


def _same_length(name_a: str, d_a: int, name_b: str, d_b: int) -> None:
    if d_a != d_b:
        raise ValueError(f"{name_b}: {d_b} dimensions, {name_a} has {d_a}; use one extractor for both")


def _kernel(dots: Features, d: int) -> Features:
    return np.asarray((dots / d + 1) ** 3)


def _kernel_sum(a: Features, b: Features) -> float:
    starts = range(0, len(a), ROWS_AT_A_TIME)
    return float(sum(_kernel(a[i : i + ROWS_AT_A_TIME] @ b.T, a.shape[1]).sum() for i in starts))


def _kernel_within(a: Features) -> float:
    """Mean of the kernel over the pairs of different rows."""
    return (_kernel_sum(a, a) - _kernel_diagonal(a)) / (len(a) * (len(a) - 1))


def _kernel_diagonal(a: Features) -> float:
    return float(_kernel((a**2).sum(1), a.shape[1]).sum())


def extrapolated_distances(
    distance: Callable[[Any, Any], float], features_a: ArrayLike, features_b: ArrayLike, sizes: Sequence[int],
    repeats: int = 20, seed: int = 0,
) -> Features:  # fmt: skip
    """A distance that decreases with n, extrapolated to infinite n by lines in 1/n (Chong & Forsyth 2020): (repeats,).

    features_a (n, ...) and features_b (m, ...), one row per clip, so that a clip's frames stay together. At every size and
    repeat, `distance` receives that many rows of each, sampled without replacement; each repeat gives one line and its value
    at 1/n = 0, which may be below 0. The spread over repeats reflects the choice of subsets, not the sampling of clips.
    ValueError for fewer than two sizes or repeats, a size beyond either set, or a distance that is not a number.
    """
    a, b = checked_numbers(features_a, "features_a"), checked_numbers(features_b, "features_b")
    smaller = min(len(a), len(b))
    checked_at_least(2, len(set(sizes)), "sizes", "different sizes", "a line needs two")
    checked_at_least(2, repeats, "repeats", "repeats", "a spread needs two")
    if min(sizes) < 1 or max(sizes) > smaller:
        raise ValueError(
            f"sizes: {list(sizes)}, expected from 1 to {smaller}, the rows of the smaller of features_a and features_b; "
            "no clip is sampled twice, so add clips or give smaller sizes"
        )
    table = np.empty((repeats, len(sizes)))
    for repeat in range(repeats):
        random = generator(seed, "subsampled distance", repeat)
        for column, size in enumerate(sizes):
            table[repeat, column] = distance(*(rows[random.choice(len(rows), size, replace=False)] for rows in (a, b)))
    checked_numbers(table, "distance", 2)
    return np.asarray(np.polynomial.polynomial.polyfit(1 / np.asarray(sizes, np.float64), table.T, 1)[0])
