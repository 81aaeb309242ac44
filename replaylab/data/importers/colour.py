"""Conversion of images with a wide gamut or a high dynamic range, as phones record them, to BT.709, as used everywhere else.

Decision: luminances are those of a reference display of 1000 cd/m2: PQ by SMPTE ST 2084, HLG by BT.2100's inverse OETF and
its OOTF with a gamma of 1.2, all others by BT.1886's gamma of 2.4. The white of BT.709 is 203 cd/m2, the diffuse white of
BT.2408. Brighter values are compressed by the curve of BT.2390 from 1000 to 203 cd/m2, applied to the largest of the three
components; values below 88 cd/m2 do not change. Colours outside the gamut of BT.709 are clipped.

Refused: other transfer curves and colour matrices (`unknown`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

Floats = NDArray[np.float32]

WHITE_CD_M2, PEAK_CD_M2, PQ_PEAK_CD_M2 = 203.0, 1000.0, 10_000.0
HLG_GAMMA, DISPLAY_GAMMA = 1.2, 2.4
LEVELS = 4096  # of the tables: 12 bits
PQ, HLG = int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)
UNKNOWN_CURVES = {
    int(ColorTrc.LINEAR): "linear", int(ColorTrc.LOG): "log", int(ColorTrc.LOG_SQRT): "log", int(ColorTrc.SMPTE428): "DCI",
}  # fmt: skip
KNOWN_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9}  # RGB, BT.709, unspecified, FCC, BT.470, BT.601, SMPTE 240M, BT.2020; H.273
CHROMATICITIES = {  # x, y of red, green and blue; H.273
    int(ColorPrimaries.BT2020): ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    int(ColorPrimaries.SMPTE432): ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
D65 = (0.3127, 0.3290)


def unknown(transfer: int, matrix: int) -> str:
    """The unsupported property of a frame's colours, in words; empty if there is none. Arguments: code points of H.273."""
    if transfer in UNKNOWN_CURVES:
        return f"its curve ({UNKNOWN_CURVES[transfer]})"
    return "" if matrix in KNOWN_MATRICES else f"its colour matrix (number {matrix} of H.273)"


def name(transfer: int, primaries: int) -> str:
    """The reason why `to_bt709` is needed: "PQ", "HLG" or "wide gamut"; empty for images in BT.709 or similar spaces."""
    curve = {PQ: "PQ", HLG: "HLG"}.get(transfer, "")
    return curve or ("wide gamut" if primaries in CHROMATICITIES else "")


def to_bt709(frame: Any) -> NDArray[np.uint8]:
    """A decoded frame (PyAV's), for which `name` is not empty, as uint8 (H, W, 3) in BT.709."""
    deep = frame.to_ndarray(format="rgb48le") >> 4
    light = _light(frame.color_trc)[deep]
    if frame.color_trc == HLG:  # scene light: the OOTF scales it by its luminance
        luminance = light @ _to_xyz(CHROMATICITIES.get(frame.color_primaries, BT709))[1].astype(np.float32)
        light = light * (PEAK_CD_M2 * luminance[..., None] ** (HLG_GAMMA - 1))
    if frame.color_trc in (PQ, HLG):
        brightest = light.max(-1)
        light = light * _compression()[_level(brightest / PEAK_CD_M2)][..., None]
    if frame.color_primaries in CHROMATICITIES:
        light = light @ _to_bt709(frame.color_primaries).T
    return _encoded()[_level(light / WHITE_CD_M2)]


@cache
def _light(transfer: int) -> Floats:
    """(LEVELS,): the luminance in cd/m2 of each signal on a display; for HLG the scene light, from 0 to 1."""
    signal = np.linspace(0, 1, LEVELS)
    if transfer == PQ:
        return _from_pq(signal).astype(np.float32)
    if transfer == HLG:  # BT.2100, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)
    return (WHITE_CD_M2 * signal**DISPLAY_GAMMA).astype(np.float32)


@cache
def _compression() -> Floats:
    """(LEVELS,): the factor by which each luminance up to PEAK_CD_M2, spaced as in `_level`, is compressed."""
    bright = PEAK_CD_M2 * np.linspace(0, 1, LEVELS) ** 2
    peak, white = _to_pq(np.array([PEAK_CD_M2, WHITE_CD_M2]))
    signal, top = _to_pq(bright) / peak, white / peak
    knee = 1.5 * top - 0.5  # BT.2390, annex 5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * top
    after = _from_pq(np.where(signal < knee, signal, bent) * peak)
    return np.divide(after, bright, out=np.ones_like(bright), where=signal >= knee).astype(np.float32)


@cache
def _encoded() -> NDArray[np.uint8]:
    """(LEVELS,): the 8-bit signal of each luminance up to white, spaced as in `_level`."""
    return np.round(255 * np.linspace(0, 1, LEVELS) ** (2 / DISPLAY_GAMMA)).astype(np.uint8)


def _level(share: Floats) -> NDArray[np.uint16]:
    """The table index for a share of the maximum: by its square root, for sufficient resolution of dark values."""
    return np.round(np.sqrt(share.clip(0, 1)) * (LEVELS - 1)).astype(np.uint16)


def _from_pq(signal: NDArray[Any]) -> NDArray[Any]:
    """cd/m2 of a signal from 0 to 1; SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return PQ_PEAK_CD_M2 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _to_pq(light: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `_from_pq`."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = (light / PQ_PEAK_CD_M2) ** m1
    return ((c1 + c2 * root) / (1 + c3 * root)) ** m2


@cache
def _to_bt709(primaries: int) -> Floats:
    """(3, 3): linear colours of the given primaries as linear BT.709."""
    return (np.linalg.inv(_to_xyz(BT709)) @ _to_xyz(CHROMATICITIES[primaries])).astype(np.float32)


def _to_xyz(chromaticities: tuple[tuple[float, float], ...]) -> NDArray[Any]:
    """(3, 3): linear colours as CIE XYZ, whose second component is the luminance; white is D65."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*chromaticities, D65)]).T
    return xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
