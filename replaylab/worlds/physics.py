"""Rigid bodies that fall, bounce, collide and roll: panda3d's Bullet, with a static camera.

Decision: this is replay *far* from driving. Neither appearance nor motion resembles traffic. Because collisions are
sensitive to initial conditions, three context frames need not determine the future: this world is evaluated by fidelity
alone (and by how well it is retained).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from replaylab.spec import WorldSpec
from replaylab.util.extras import needs
from replaylab.worlds import renderer
from replaylab.worlds.appearance import hsv
from replaylab.worlds.meshes import ball, round_shadow
from replaylab.worlds.renderer import GROUND, SOLID, Camera, Floats, Layers, Light, Mesh, Scene

STEP_S = 1 / 120
SHAPES = ("box", "ball", "plank")
LOOKS, MOTIONS = ("any",), ("bodies",)


def _paint(rng: np.random.Generator) -> Floats:
    return hsv(rng.uniform(), rng.uniform(0.2, 1.0), rng.uniform(0.4, 1.0))


def _body(shape: str, size: float, rng: np.random.Generator, light: Light) -> tuple[Mesh, tuple[float, float, float]]:
    """A mesh around its centre of mass and its half extents in m."""
    if shape == "ball":
        return ball(size, np.stack([_paint(rng), _paint(rng)]), light), (size, size, size)
    sides = (size, size, size) if shape == "box" else (size * 1.7, size * 0.6, size * 0.6)
    lower, upper = _paint(rng), _paint(rng)
    width, length, height = (2 * side for side in sides)
    halves = [
        renderer.box((0, 0, -height / 2), (width, length, height / 2), lower, light),
        renderer.box((0, 0, 0), (width, length, height / 2), upper, light),
        renderer.box((0, 0, -height / 2), (width * 0.99, length * 0.99, 0.001), lower * 0.6, light),  # the underside
    ]
    return renderer.join(halves), sides


def draw(spec: WorldSpec, look_rng: np.random.Generator, motion_rng: np.random.Generator, number: int) -> Scene:
    """The scene of one video; raises RuntimeError if none of a hundred shows its bodies."""
    times = np.arange(spec.frames) / spec.frames_per_second
    for _ in range(100):
        scene = _draw_once(look_rng, motion_rng, times)
        if renderer.shows_its_agents(scene):
            return scene
    raise RuntimeError("no physics scene in 100 shows its bodies")


def _draw_once(look_rng: np.random.Generator, motion_rng: np.random.Generator, times: Floats) -> Scene:
    sun = (look_rng.uniform(-1, 1), look_rng.uniform(-1, 0), 1.0)
    light = Light(sun, look_rng.uniform(0.4, 0.7), look_rng.uniform(0.3, 0.5))
    distance = look_rng.uniform(5.5, 8.0)
    camera = Camera(look_rng.uniform(40, 55), look_rng.uniform(1.6, 3.2), look_rng.uniform(0.15, 0.30))
    floor, sky = _paint(look_rng) * 0.8, _paint(look_rng)
    shapes = [str(look_rng.choice(SHAPES)) for _ in range(look_rng.integers(2, 5))]
    bodies = [_body(shape, look_rng.uniform(0.35, 0.8), look_rng, light) for shape in shapes]
    cuts = np.arange(-2.0, 40.0, 1.5)
    tiles = [
        renderer.strip(x, x + 1.5, cuts, np.clip(floor * (1 + look_rng.normal(0, 0.06, (len(cuts) - 1, 1))), 0, 1))
        for x in np.arange(-21.0, 21.0, 1.5)
    ]
    layers: Layers = [(GROUND, renderer.join(tiles))]
    if look_rng.uniform() < 0.5:  # a wall to bounce off, behind
        size = (40, 0.5, look_rng.uniform(0.8, 3.0))
        layers.append((SOLID, renderer.box((0, distance + 3.5, 0), size, _paint(look_rng), light)))
    shadows = [round_shadow(max(sides), floor, 8) for _, sides in bodies]
    return Scene(
        cameras=(camera,) * len(times), layers=layers, agents=[mesh for mesh, _ in bodies], shadows=shadows,
        sky_horizon=np.clip(sky * 0.6 + 0.4, 0, 1), sky_top=sky, kinds=tuple(shapes), event="bodies",
        poses=_simulate(shapes, [sides for _, sides in bodies], motion_rng, times, distance, len(layers) > 1),
        ego=np.zeros((len(times), 3)),
    )  # fmt: skip


def _simulate(
    shapes: list[str], sides: list[tuple[float, float, float]], rng: np.random.Generator, times: Floats,
    distance: float, wall: bool,
) -> Floats:  # fmt: skip
    """Poses (A, T, 4, 4) of bodies that start in the air with a random velocity."""
    with needs("worlds"):
        from panda3d import bullet
        from panda3d import core as p3

    world = bullet.BulletWorld()
    world.set_gravity(p3.Vec3(0, 0, -9.81))
    floor = bullet.BulletPlaneShape(p3.Vec3(0, 0, 1), 0)
    _add_still(world, bullet.BulletRigidBodyNode("still"), floor, p3.TransformState.make_identity())
    if wall:
        place = p3.TransformState.make_pos(p3.Point3(0, distance + 3.5, 1.5))
        _add_still(world, bullet.BulletRigidBodyNode("still"), bullet.BulletBoxShape(p3.Vec3(20, 0.25, 1.5)), place)
    nodes = []
    for number, (shape, half) in enumerate(zip(shapes, sides, strict=True)):
        node = bullet.BulletRigidBodyNode(f"body {number}")
        node.add_shape(bullet.BulletSphereShape(half[0]) if shape == "ball" else bullet.BulletBoxShape(p3.Vec3(*half)))
        node.set_mass(float(np.prod(half)) * 8)
        node.set_restitution(float(rng.uniform(0.3, 0.9)))
        node.set_friction(float(rng.uniform(0.3, 0.9)))
        x, ahead, up = rng.uniform(-2.2, 2.2), rng.uniform(-1.5, 2.0), rng.uniform(0.0, 2.2)
        place = p3.Point3(float(x), float(distance + ahead), float(half[2] + up))
        turn = rng.uniform(-180, 180, 3) if rng.uniform() < 0.6 else (rng.uniform(-180, 180), 0, 0)
        node.set_transform(p3.TransformState.make_pos_hpr(place, p3.Vec3(*map(float, turn))))
        node.set_linear_velocity(p3.Vec3(*map(float, rng.normal(0, 1.6, 2)), float(rng.uniform(-1, 2))))
        node.set_angular_velocity(p3.Vec3(*map(float, rng.normal(0, 2.0, 3))))
        node.set_deactivation_enabled(False)
        world.attach(node)
        nodes.append(node)
    poses = np.zeros((len(nodes), len(times), 4, 4))
    clock = 0
    for frame, time in enumerate(times):
        while clock < round(float(time) / STEP_S):
            world.do_physics(STEP_S, 0)
            clock += 1
        for agent, node in enumerate(nodes):
            matrix: Any = node.get_transform().get_mat()
            poses[agent, frame] = np.array([[matrix.get_cell(row, column) for row in range(4)] for column in range(4)])
    return poses


def _add_still(world: Any, node: Any, shape: Any, transform: Any) -> None:
    node.add_shape(shape)
    node.set_restitution(0.7)
    node.set_transform(transform)
    world.attach(node)
