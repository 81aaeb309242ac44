"""Rendering a scene to frames with panda3d's software renderer, and the boxes of its agents.

Decision: meshes are plain numpy arrays with light and texture baked into vertex colours; panda3d (`p3tinydisplay`: only its
wheel, no display, no GPU) projects, fogs and rasterises them. The camera is a pinhole of this module as well, so the boxes
of the truth come from the same vertices that were rendered.

World axes: x right, y ahead, z up, metres. Headings are radians, 0 along +y, positive to the left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from replaylab.data.boxes import is_eligible, uncovered_shares
from replaylab.util.extras import needs

Floats = NDArray[np.floating[Any]]

SUPERSAMPLING = 4  # rendered this many times larger and averaged down: antialiasing without a GPU
NEAR_M, FAR_M = 0.4, 160.0
BACKDROP, GROUND, MARKS, SOLID = range(4)  # rendered in this order; only solids test depth


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour a vertex: vertices (N, 3) in m, colours (N, 3) in 0..1, triangles (M, 3)."""

    vertices: Floats
    colours: Floats
    triangles: NDArray[np.int64]

    def moved(self, x: float, y: float, heading: float = 0.0, z: float = 0.0) -> Mesh:
        """The mesh turned by `heading` (radians) and then moved (m)."""
        return Mesh(placed(self.vertices, np.array([x, y, z]), heading), self.colours, self.triangles)


def join(meshes: list[Mesh]) -> Mesh:
    """One mesh of many, for one draw call instead of hundreds."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.colours for mesh in meshes]),
        np.concatenate([mesh.triangles + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
    )


Layers = list[tuple[int, Mesh]]  # with the order of rendering


@dataclass(frozen=True)
class Light:
    """Sun from `direction` (to the sun), with ambient light; baked into colours, face by face."""

    direction: tuple[float, float, float]
    ambient: float
    sun: float

    def shade(self, normals: Floats) -> Floats:
        """Brightness (N,) of faces with unit normals (N, 3)."""
        towards = np.asarray(self.direction) / np.linalg.norm(self.direction)
        return self.ambient + self.sun * np.clip(normals @ towards, 0.0, None)

    @cached_property
    def box_shade(self) -> Floats:
        """Shade (20, 1) of the vertices of a box."""
        return np.repeat(self.shade(_FACE_NORMALS), 4)[:, None]


_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)])
_FACES = [  # corner indices, counter-clockwise from outside, and the normal
    ((0, 4, 5, 1), (0, -1, 0)),
    ((6, 2, 3, 7), (0, 1, 0)),
    ((2, 0, 1, 3), (-1, 0, 0)),
    ((4, 6, 7, 5), (1, 0, 0)),
    ((1, 5, 7, 3), (0, 0, 1)),
]
_FACE_CORNERS = np.array([corners for corners, _ in _FACES]).ravel()
_FACE_NORMALS = np.array([normal for _, normal in _FACES], dtype=float)
_BOX_TRIANGLES = np.concatenate([4 * np.arange(5)[:, None] + [0, 1, 2], 4 * np.arange(5)[:, None] + [0, 2, 3]])


def box(centre: tuple[float, float, float], size: tuple[float, float, float], colour: Any, light: Light) -> Mesh:
    """An upright box: `centre` is the middle of its floor, `size` (width, length, height) in m; no bottom face."""
    corners = _CORNERS * np.asarray(size) + np.asarray(centre)
    colours = np.minimum(light.box_shade * np.asarray(colour, dtype=float), 1.0)
    return Mesh(corners[_FACE_CORNERS], colours, _BOX_TRIANGLES)


def quads(corners: Floats, colours: Floats) -> Mesh:
    """Flat patches: corners (N, 4, 3), counter-clockwise seen from above; colours (N, 3) or (N, 4, 3)."""
    corners = np.asarray(corners, dtype=float)
    colours = np.asarray(colours, dtype=float)
    if colours.ndim == 2:
        colours = np.repeat(colours[:, None], 4, axis=1)
    first = np.arange(len(corners))[:, None] * 4
    triangles = np.concatenate([np.add(first, [0, 1, 2]), np.add(first, [0, 2, 3])])
    return Mesh(corners.reshape(-1, 3), np.clip(colours.reshape(-1, 3), 0, 1), triangles)


def strip(x0: float, x1: float, cuts: Floats, colours: Floats) -> Mesh:
    """Ground between two x, cut along y at `cuts` (N + 1): colours (N, 3), one per piece."""
    near, far = cuts[:-1], cuts[1:]
    corners = np.zeros((len(near), 4, 3))
    corners[:, [0, 3], 0], corners[:, [1, 2], 0] = x0, x1
    corners[:, :2, 1], corners[:, 2:, 1] = near[:, None], far[:, None]
    return quads(corners, colours)


def placed(vertices: Floats, position: Floats, heading: float) -> Floats:
    """Vertices (N, 3) turned by `heading` about z and moved to `position` (3,)."""
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return vertices @ turn.T + position


def rigid(x: Floats, y: Floats, heading: Floats) -> Floats:
    """Poses on the ground as rigid motions (T, 4, 4)."""
    poses = np.tile(np.eye(4), (len(x), 1, 1))
    poses[:, 0, 0] = poses[:, 1, 1] = np.cos(heading)
    poses[:, 1, 0] = np.sin(heading)
    poses[:, 0, 1] = -poses[:, 1, 0]
    poses[:, 0, 3], poses[:, 1, 3] = x, y
    return poses


def heading_of(pose: Floats) -> float:
    """The heading of a pose's matrix, in radians."""
    return float(np.arctan2(pose[1, 0], pose[0, 0]))


@dataclass(frozen=True)
class Camera:
    """A pinhole. `height_m` above the ego position, pitched down by `pitch_rad`; square image, square pixels."""

    field_of_view_deg: float
    height_m: float
    pitch_rad: float = 0.0

    def focal_px(self, size_px: int) -> float:
        """The focal length in pixels of an image `size_px` wide."""
        return size_px / 2 / np.tan(np.deg2rad(self.field_of_view_deg) / 2)

    def project(self, points: Floats, position: Floats, heading: float, size_px: int) -> tuple[Floats, Floats]:
        """World points (N, 3) to pixels (N, 2), x right and y down, and depth (N,) in m (not positive: behind)."""
        ahead = placed(points - [*position[:2], self.height_m + position[2]], np.zeros(3), -heading)
        cos, sin = np.cos(self.pitch_rad), np.sin(self.pitch_rad)
        depth = ahead[:, 1] * cos - ahead[:, 2] * sin
        up = ahead[:, 1] * sin + ahead[:, 2] * cos
        safe = np.maximum(depth, 1e-6)
        focal = self.focal_px(size_px)
        pixels = np.stack([size_px / 2 + focal * ahead[:, 0] / safe, size_px / 2 - focal * up / safe], axis=1)
        return pixels, depth


@dataclass(frozen=True)
class Rain:
    """Streaks that fall at one speed, so that the past determines the future; all in shares of the image's side."""

    starts: Floats  # (N, 2): x, y of each streak in the first frame
    fall: tuple[float, float]  # from one frame to the next
    streak: tuple[float, float]  # from its head to its tail
    strength: float  # 0 to 1, how much a streak whitens what is behind it

    def veil(self, frame: int, size_px: int) -> Floats:
        """The share (H, W) of each pixel that streaks cover."""
        large = size_px * SUPERSAMPLING
        picture = Image.new("L", (large, large))
        brush = ImageDraw.Draw(picture)
        for x, y in (self.starts + frame * np.asarray(self.fall)) % 1.2 - 0.1:
            tail = (x + self.streak[0], y + self.streak[1])
            brush.line([(x * large, y * large), (tail[0] * large, tail[1] * large)], fill=255, width=2)
        return np.asarray(picture.reduce(SUPERSAMPLING), dtype=float) * (self.strength / 255)


@dataclass(frozen=True)
class Lens:
    """Vignette, headlights and rain, fixed to the camera."""

    vignette: float = 0.0  # how much the corners are darkened, 0 to 1
    headlights: float = 0.0  # how much the ego car's lamps brighten the road ahead
    rain: Rain | None = None

    def through(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames (T, H, W, 3) through the lens."""
        if not (self.vignette or self.headlights or self.rain):
            return frames
        size = frames.shape[1]
        place = (np.arange(size) + 0.5) / size * 2 - 1
        gain = 1 - self.vignette * (place[:, None] ** 2 + place[None, :] ** 2) / 2
        below = np.clip(place[:, None] * 3, 0, 1)  # the horizon lies near the middle
        gain += self.headlights * below * np.exp(-((place[None, :] / 0.55) ** 2))
        seen = frames * gain[None, :, :, None]
        if self.rain is not None:
            veil = np.stack([self.rain.veil(frame, size) for frame in range(len(frames))])[..., None]
            seen = seen * (1 - veil) + 225 * veil
        return np.clip(seen + 0.5, 0, 255).astype(np.uint8)


@dataclass
class Scene:
    """The content of one video: still layers, moving agents, cameras, sky, fog and lens."""

    cameras: tuple[Camera, ...]  # one per frame
    ego: Floats  # (frame, 3): x, y, heading of the camera
    poses: Floats  # (agent, frame, 4, 4): rigid motions
    layers: Layers
    agents: list[Mesh]  # each around its own origin
    shadows: list[Mesh]
    kinds: tuple[str, ...]  # one per agent
    sky_horizon: Floats
    sky_top: Floats
    fog_m: tuple[float, float] | None = None
    event: str = ""
    lens: Lens = field(default_factory=lambda: Lens())
    road_m: Floats | None = None  # (agent, frame): to the right of the middle of the road; None: no road


def boxes_of(scene: Scene, frame: int, size_px: int) -> tuple[Floats, Floats]:
    """Full boxes (A, 4) of one frame in px, not cut at the image's edge, and depths (A,) of the centres in m.

    An agent partly behind the camera has the box of its part in front of the near plane; one wholly behind it has NaN.
    """
    ego_position = np.array([*scene.ego[frame, :2], 0.0])
    boxes, depths = np.full((len(scene.agents), 4), np.nan), np.full(len(scene.agents), np.nan)
    for agent, mesh in enumerate(scene.agents):
        pose = scene.poses[agent, frame]
        vertices = mesh.vertices @ pose[:3, :3].T + pose[:3, 3]
        seen_from = ego_position, scene.ego[frame, 2], size_px
        pixels, depth = scene.cameras[frame].project(vertices, *seen_from)
        depths[agent] = depth.mean()
        if depth.max() > NEAR_M:
            if depth.min() <= NEAR_M:
                pixels, _ = scene.cameras[frame].project(_in_front(mesh, vertices, depth), *seen_from)
            boxes[agent] = [*pixels.min(axis=0), *pixels.max(axis=0)]
    return boxes, depths


def _in_front(mesh: Mesh, vertices: Floats, depth: Floats) -> Floats:
    """The vertices in front of the near plane, and the points where edges pass through it."""
    ends = mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    ends = ends[(depth[ends] > NEAR_M).sum(axis=1) == 1]
    first, second = vertices[ends[:, 0]], vertices[ends[:, 1]]
    share = (NEAR_M - depth[ends[:, 0]]) / (depth[ends[:, 1]] - depth[ends[:, 0]])
    return np.concatenate([vertices[depth > NEAR_M], first + share[:, None] * (second - first)])


def visible_shares(boxes: Floats, depths: Floats, size_px: int) -> Floats:
    """Share (A,) of each full box in the image and not occluded by a nearer agent's box; 0 where there is no box."""
    return uncovered_shares(boxes, depths, size_px, size_px)


def eligible(boxes: Floats, visible: Floats, size_px: int) -> NDArray[np.bool_]:
    """Which agents are eligible (`boxes.is_eligible`); one without a box is not."""
    known = np.asarray(np.isfinite(boxes).all(axis=-1))
    return known & is_eligible(np.where(known[:, None], boxes, 0.0), visible, size_px)


def shown_throughout(is_eligible_in: NDArray[np.bool_]) -> bool:
    """Whether, in (frame, agent), the first (acting) agent is eligible in two thirds of the frames, and any in all."""
    return bool(is_eligible_in[:, 0].mean() >= 2 / 3 and is_eligible_in.any(axis=1).all())


def shows_its_agents(scene: Scene) -> bool:
    """Whether the agents are visible to the scene's own cameras throughout."""
    counts = []
    for frame in range(len(scene.ego)):
        boxes, depths = boxes_of(scene, frame, 64)
        counts.append(eligible(boxes, visible_shares(boxes, depths, 64), 64))
    return shown_throughout(np.stack(counts))


class Renderer:
    """A renderer of scenes at one size. One per process: `Renderer.shared(size_px)`."""

    def __init__(self, size_px: int) -> None:
        with needs("worlds"):
            import panda3d.core as p3

        p3.load_prc_file_data(
            "",
            "load-display p3tinydisplay\nwindow-type offscreen\naudio-library-name null\n"
            "sync-video false\nnotify-level-display fatal\ngarbage-collect-states false\n",
        )
        self.size_px, self.large_px = size_px, size_px * SUPERSAMPLING
        self.engine = p3.GraphicsEngine.get_global_ptr()
        pipe = p3.GraphicsPipeSelection.get_global_ptr().make_module_pipe("p3tinydisplay")
        if pipe is None:
            raise RuntimeError("panda3d has no p3tinydisplay: reinstall it with `pip install --force-reinstall panda3d`")
        properties = p3.FrameBufferProperties(p3.FrameBufferProperties.get_default())
        properties.set_rgb_color(True)
        properties.set_depth_bits(24)
        self.buffer = self.engine.make_output(
            pipe, "stage", 0, properties, p3.WindowProperties.size(self.large_px, self.large_px),
            p3.GraphicsPipe.BF_refuse_window, None, None,
        )  # fmt: skip
        self.picture = p3.Texture()
        self.buffer.add_render_texture(self.picture, p3.GraphicsOutput.RTM_copy_ram, p3.GraphicsOutput.RTP_color)
        self.buffer.set_clear_color_active(True)
        self.lens = p3.PerspectiveLens()
        self.lens.set_near_far(NEAR_M, FAR_M)
        self.region = self.buffer.make_display_region()
        self.p3 = p3

    @staticmethod
    @lru_cache(maxsize=2)
    def shared(size_px: int) -> Renderer:
        """This process's renderer of that size, made once."""
        return Renderer(size_px)

    def _node(self, mesh: Mesh, order: int) -> Any:
        p3 = self.p3
        data = p3.GeomVertexData("mesh", p3.GeomVertexFormat.get_v3c4(), p3.Geom.UH_static)
        data.unclean_set_num_rows(len(mesh.vertices))
        packed = np.zeros(len(mesh.vertices), dtype=[("place", "<f4", 3), ("colour", "u1", 4)])
        packed["place"] = mesh.vertices
        packed["colour"][:, :3] = np.round(mesh.colours * 255)
        packed["colour"][:, 3] = 255
        memoryview(data.modify_array(0)).cast("B")[:] = packed.tobytes()
        triangles = p3.GeomTriangles(p3.Geom.UH_static)
        triangles.set_index_type(p3.Geom.NT_uint32)
        indices = triangles.modify_vertices()
        indices.unclean_set_num_rows(mesh.triangles.size)
        memoryview(indices).cast("B")[:] = mesh.triangles.astype("<u4").tobytes()
        geometry = p3.Geom(data)
        geometry.add_primitive(triangles)
        node = p3.GeomNode("mesh")
        node.add_geom(geometry)
        path = p3.NodePath(node)
        path.set_two_sided(True)
        # always in the order of the scene: by itself panda3d takes addresses in memory for it, and of two solids that are
        # equally far it would be chance which one is seen
        path.set_bin("fixed", order)
        if order != SOLID:  # so that marks on the road never flicker with it in depth
            path.set_depth_test(False)
            path.set_depth_write(False)
        return path

    def render(self, scene: Scene) -> NDArray[np.uint8]:
        """Every frame of a scene, uint8 (T, H, W, 3)."""
        p3 = self.p3
        root = p3.NodePath("scene")
        for order, mesh in scene.layers:
            self._node(mesh, order).reparent_to(root)
        if scene.fog_m is not None:
            fog = p3.Fog("fog")
            fog.set_color(*map(float, scene.sky_horizon))
            fog.set_linear_range(*scene.fog_m)
            root.set_fog(fog)
        camera = root.attach_new_node(p3.Camera("camera", self.lens))  # one used again gets slower with every scene
        sky = self._node(_sky(scene), BACKDROP)
        sky.reparent_to(root)
        sky.set_fog_off()
        moving = []
        for mesh, shadow in zip(scene.agents, scene.shadows, strict=True):
            body = self._node(mesh, SOLID)
            body.reparent_to(root)
            flat = self._node(shadow, MARKS)
            flat.reparent_to(root)
            moving.append((body, flat))
        self.buffer.set_clear_color((*map(float, scene.sky_horizon), 1.0))
        self.region.set_camera(camera)
        frames = np.stack([self._frame(scene, camera, sky, moving, frame) for frame in range(len(scene.ego))])
        self.region.set_camera(p3.NodePath())
        root.remove_node()
        return scene.lens.through(frames)

    def _frame(self, scene: Scene, camera: Any, sky: Any, moving: list[Any], frame: int) -> NDArray[np.uint8]:
        x, y, heading = scene.ego[frame]
        pinhole = scene.cameras[frame]
        self.lens.set_fov(pinhole.field_of_view_deg, pinhole.field_of_view_deg)
        camera.set_pos(float(x), float(y), pinhole.height_m)
        camera.set_hpr(float(np.rad2deg(heading)), -float(np.rad2deg(pinhole.pitch_rad)), 0)
        sky.set_pos(float(x), float(y), pinhole.height_m)
        sky.set_h(float(np.rad2deg(heading)))
        for (body, flat), pose in zip(moving, scene.poses[:, frame], strict=True):
            body.set_mat(self.p3.LMatrix4(*map(float, pose.T.ravel())))  # panda3d multiplies rows
            flat.set_pos(float(pose[0, 3]), float(pose[1, 3]), 0.0)
            flat.set_h(float(np.rad2deg(heading_of(pose))))
        self.engine.render_frame()
        large = np.frombuffer(self.picture.get_ram_image(), np.uint8).reshape(self.large_px, self.large_px, 4)
        small = np.asarray(Image.fromarray(large, "RGBX").reduce(SUPERSAMPLING))  # a box filter, in C
        return small[::-1, :, 2::-1]  # panda3d gives rows from the bottom, blue first


def _sky(scene: Scene) -> Mesh:
    """A wall with a gradient far behind everything, turned with the camera; horizon colour at and under the horizon."""
    far = FAR_M * 0.9
    half = far * np.tan(np.deg2rad(max(camera.field_of_view_deg for camera in scene.cameras)) / 2) * 1.3
    heights = np.array([-half, 0.0, half * 0.5, half * 2])
    between = (scene.sky_horizon + scene.sky_top) / 2
    shades = np.stack([scene.sky_horizon, scene.sky_horizon, between, scene.sky_top])
    corners, colours = [], []
    for low, high, dark, bright in zip(heights, heights[1:], shades, shades[1:], strict=False):
        corners.append([[-half, far, low], [half, far, low], [half, far, high], [-half, far, high]])
        colours.append([dark, dark, bright, bright])
    return quads(np.array(corners), np.array(colours))
