"""Projection of 3-D boxes to a camera on a car: boxes in px of the domain, and positions in m relative to the camera.

Decision: the camera's axes are OpenCV's (x to the right, y downwards, z ahead); the car's are x ahead, y to the left, z up
from the ground. A 2-D box bounds the projection of the part of the cuboid in front of the camera. Lens distortion follows
OpenCV's model, if the calibration has it. Far outside the image, where the radial factor leaves LEAST_RADIAL to MOST_RADIAL
and the polynomial is no longer monotonic, points are projected without distortion (Waymo's camera model has the same
limits). Not modelled: rolling shutter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replaylab.data.importers import sources
from replaylab.data.importers.sources import Fit, Floats

NEAR_M = 0.1
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])
CORNERS = np.array([[1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1], [-1, 1, 1], [-1, -1, 1], [-1, -1, -1], [-1, 1, -1]]) / 2
LEAST_RADIAL, MOST_RADIAL = 0.8, 1.2


@dataclass(frozen=True)
class CarCamera:
    """A camera on a car, and the fit of its images to the domain."""

    in_car: Floats  # (4, 4): from the camera's axes to the car's
    intrinsics: Floats  # (3, 3)
    fit: Fit
    distortion: tuple[float, ...] = ()  # k1, k2, p1, p2, k3; none: a pinhole

    @property
    def focal_px(self) -> float:
        """Focal length along x, in px of the source."""
        return float(self.intrinsics[0, 0])

    @property
    def height_m(self) -> float:
        """Height above the ground."""
        return float(self.in_car[2, 3])

    @property
    def pitch_rad(self) -> float:
        """Downward angle of the ray through the centre of the domain's image."""
        ray = self.in_car[:3, :3] @ np.linalg.solve(self.intrinsics, [*self.fit.middle, 1.0])
        return float(-np.arcsin(ray[2] / np.linalg.norm(ray)))

    def pixels(self, points: Floats) -> Floats:
        """(N, 2): the projection in px of the source of points (N, 3) in the camera's axes, in front of it."""
        flat = points[:, :2] / points[:, 2:]
        if self.distortion:
            flat = _distorted(flat, *self.distortion)
        return flat @ self.intrinsics[:2, :2].T + self.intrinsics[:2, 2]


class CameraPose:
    """The camera of a car at a pose (4, 4) in the world, whose z axis points up."""

    def __init__(self, camera: CarCamera, car: Floats) -> None:
        self.lens = camera
        whole = car @ camera.in_car
        self.rotation, self.position = whole[:3, :3], whole[:3, 3]  # camera to world
        ahead = self.rotation[:, 2]
        self.camera = np.array([*self.position[:2], np.arctan2(-ahead[0], ahead[1])])  # x, y, heading: 0 along +y

    def seen(self, points: Floats) -> Floats:
        """Points (N, 3) of the world in the camera's axes."""
        return (points - self.position) @ self.rotation

    def box(self, corners: Floats) -> Floats | None:
        """(4,): the box in px of the domain of a cuboid (8, 3) in the world; None if no part is in front of the camera."""
        seen = self.seen(corners)
        ends = seen[EDGES]
        near, far = ends[:, 0], ends[:, 1]
        cut = (near[:, 2] > NEAR_M) != (far[:, 2] > NEAR_M)
        share = (NEAR_M - near[cut, 2]) / (far[cut, 2] - near[cut, 2])
        points = np.concatenate([seen[seen[:, 2] > NEAR_M], near[cut] + share[:, None] * (far[cut] - near[cut])])
        if not len(points):
            return None
        pixels = self.lens.pixels(points)
        return self.lens.fit.boxes(np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])[None])[0]

    def place(self, centre: Floats, along: Floats) -> dict[str, float]:
        """x_m, y_m and heading_rad of an agent at `centre` that faces `along`, both in the world."""
        right, ahead = sources.seen_from(self.camera, np.asarray(centre)[None, :2])[0]
        heading = (np.arctan2(-along[0], along[1]) - self.camera[2] + np.pi) % (2 * np.pi) - np.pi
        return {"x_m": float(right), "y_m": float(ahead), "heading_rad": float(heading)}


def corners_of(centre: Floats, size: Floats, rotation: Floats) -> Floats:
    """The corners (8, 3) of a cuboid whose `size` is its length along its own x, its width along y, its height along z."""
    return (CORNERS * size) @ rotation.T + centre


def transform(rotation: Floats, translation: Floats) -> Floats:
    """The matrix (4, 4) of a rotation (3, 3) followed by a translation (3,)."""
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = rotation, translation
    return whole


def _distorted(flat: Floats, k1: float, k2: float, p1: float, p2: float, k3: float) -> Floats:
    """Normalised image points (N, 2) with lens distortion; OpenCV's model (calib3d, "Camera Calibration")."""
    x, y = flat.T
    square = x**2 + y**2
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    bent = np.stack([
        x * radial + 2 * p1 * x * y + p2 * (square + 2 * x**2),
        y * radial + p1 * (square + 2 * y**2) + 2 * p2 * x * y,
    ], axis=1)  # fmt: skip
    return np.where(((radial >= LEAST_RADIAL) & (radial <= MOST_RADIAL))[:, None], bent, flat)
