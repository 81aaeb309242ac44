"""The roads of SUMO's networks as meshes: lanes, junctions, crossings, lane markings, and the objects beside the road.

Decision: the simulated network itself is rendered, in the frame of the camera's first pose, so that every agent is on its
lane. Traffic lights are not rendered: agents that wait at one appear as stationary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from replaylab.worlds.appearance import RoadAppearance
from replaylab.worlds.meshes import house, pole, rail, tree
from replaylab.worlds.renderer import GROUND, MARKS, SOLID, Floats, Layers, Mesh, join, placed, quads
from replaylab.worlds.sumo.simulation import NETWORKS

PIECE_M = 4.0  # length of the pieces of a road: longer ones are distorted near the camera
BEHIND_M, AHEAD_M, BESIDE_M = 15.0, 150.0, 110.0  # of the camera: the rendered area
BEYOND_M = 200.0  # by which roads are extended at the ends of the network
MOTORWAY_MIDDLE_M = 5.25  # x of the middle of its carriageway, which runs along y


@dataclass(frozen=True)
class Lane:
    """A lane: its centre line (N, 2), cut into pieces, and its width."""

    middle: Floats
    width: float
    on_foot: bool
    crossing: bool
    inside: bool  # of a junction
    left: bool  # whether it is the leftmost lane of its edge
    right: bool  # whether it is the rightmost
    stops: bool  # whether it ends at a junction


@dataclass(frozen=True)
class Roads:
    """The network of a place."""

    lanes: tuple[Lane, ...]
    junctions: tuple[Floats, ...]  # outlines (N, 2)
    pavements: tuple[Floats, ...]  # outlines of the walking areas at junctions
    plots: Floats  # (N, 4): places for a house or tree: x, y and heading of the road, and the offset to the right in m


@cache
def roads_of(place: str) -> Roads:
    """The roads of a place, from its network file."""
    root = ElementTree.parse(NETWORKS / f"{place}.net.xml").getroot()
    ends = {each.get("id") for each in root.iter("junction") if each.get("type") == "dead_end"}
    lanes, pavements, plots = [], [], []
    for edge in root.iter("edge"):
        function, found = edge.get("function", "normal"), list(edge.iter("lane"))
        if function == "walkingarea":
            pavements.append(_outline(found[0].get("shape", "")))
            continue
        edge_lanes = [_lane(edge, lane, found, ends) for lane in found]
        lanes += edge_lanes
        if function == "normal":
            plots.append(_plots(edge_lanes, place))
    outlines = [_outline(each.get("shape", "")) for each in root.iter("junction") if each.get("type") != "internal"]
    kept = np.concatenate(plots)
    return Roads(tuple(lanes), tuple(each for each in outlines if len(each) > 2), tuple(pavements), _free(kept, lanes))


def _outline(shape: str) -> Floats:
    return np.array([[float(value) for value in point.split(",")[:2]] for point in shape.split()]).reshape(-1, 2)


def _lane(
    edge: ElementTree.Element, lane: ElementTree.Element, others: list[ElementTree.Element], ends: set[str | None]
) -> Lane:
    middle, function = _outline(lane.get("shape", "")), edge.get("function", "normal")
    if edge.get("from") in ends:
        middle = np.concatenate([_beyond(middle[1], middle[0])[None], middle])
    if edge.get("to") in ends:
        middle = np.concatenate([middle, _beyond(middle[-2], middle[-1])[None]])
    on_foot = [other.get("allow") == "pedestrian" for other in others]
    index = others.index(lane)
    return Lane(
        _cut(middle), float(lane.get("width", "3.2")), on_foot[index], function == "crossing", function == "internal",
        left=index == len(others) - 1, right=index == 0 or on_foot[index - 1],
        stops=function == "normal" and edge.get("to") not in ends and not on_foot[index],
    )  # fmt: skip


def _beyond(before: Floats, end: Floats) -> Floats:
    return end + (end - before) / np.linalg.norm(end - before) * BEYOND_M


def _cut(middle: Floats) -> Floats:
    """A line with a point at least every PIECE_M, its own points included."""
    points = [middle[:1]]
    for start, end in pairwise(middle):
        pieces = max(1, int(np.ceil(np.linalg.norm(end - start) / PIECE_M)))
        points.append(start + (end - start) * (np.arange(1, pieces + 1) / pieces)[:, None])
    return np.concatenate(points)


def _normals(middle: Floats) -> Floats:
    """Unit vectors (N, 2) to the right of a line at its points."""
    along = np.gradient(middle, axis=0)
    along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    return np.stack([along[:, 1], -along[:, 0]], axis=1)


def _plots(lanes: list[Lane], place: str) -> Floats:
    """Plots along the right of an edge, and of a motorway along its left as well."""
    outer = lanes[0]
    right = _normals(outer.middle)
    heading = np.arctan2(right[:, 1], right[:, 0])
    at = slice(1, -1, 3)
    sides = [(outer, outer.width / 2)]
    if place == "motorway":
        sides.append((lanes[-1], -lanes[-1].width / 2))
    return np.concatenate([
        np.column_stack([lane.middle[at], heading[at], np.full(len(lane.middle[at]), offset)]) for lane, offset in sides
    ])  # fmt: skip


def _free(plots: Floats, lanes: list[Lane]) -> Floats:
    """The plots whose house, 11 m from the kerb, would not stand on a road."""
    reach = plots[:, 3] + np.sign(plots[:, 3]) * 11.0
    places = plots[:, :2] + reach[:, None] * np.stack([np.cos(plots[:, 2]), np.sin(plots[:, 2])], axis=1)
    road = np.concatenate([lane.middle for lane in lanes])
    apart = np.array([np.hypot(*(road - place).T).min() for place in places])
    return plots[apart > 9.0]


# --------------------------------------------------------------------------------------------------------------- meshes
def surroundings(place: str, origin: Floats, look: RoadAppearance, rng: np.random.Generator) -> Layers:
    """The static part of the scene, in the frame of the pose `origin` (x, y, heading)."""
    roads = roads_of(place)
    near = [lane for lane in roads.lanes if _is_near(lane.middle, origin)]
    paved = np.clip(look.road * 0.75 + 0.22, 0, 1)
    ground: list[Mesh] = [_verge(look, rng)]
    marks: list[Mesh] = []
    ground += [_strip(lane, origin, paved, rng) for lane in near if lane.on_foot and not lane.crossing]
    ground += [_fan(outline, origin, look.road) for outline in roads.junctions if _is_near(outline, origin)]
    ground += [_strip(lane, origin, look.road, rng) for lane in near if not lane.on_foot and not lane.inside]
    ground += [_fan(outline, origin, paved) for outline in roads.pavements if _is_near(outline, origin)]
    for lane in near:
        marks += _marks(lane, place, origin, look)
    return [
        (GROUND, join(ground)),
        (MARKS, join(marks)),
        *((SOLID, each) for each in _beside(roads, place, origin, look, rng)),
    ]


def _local(points: Floats, origin: Floats) -> Floats:
    """Points (N, 2) of the network as (N, 2) in the frame of a pose."""
    flat = np.concatenate([points - origin[:2], np.zeros((len(points), 1))], axis=1)
    return placed(flat, np.zeros(3), -origin[2])[:, :2]


def _in_reach(points: Floats, origin: Floats) -> NDArray[np.bool_]:
    right, ahead = _local(points, origin).T
    return (ahead > -BEHIND_M) & (ahead < AHEAD_M) & (np.abs(right) < BESIDE_M)


def _is_near(points: Floats, origin: Floats) -> bool:
    return bool(_in_reach(points, origin).any())


def _band(middle: Floats, left: float, right: float, origin: Floats, colours: Floats, every: int = 1) -> Mesh:
    """Each `every`th piece of a line (N, 2) that is in reach, as a band from `left` to `right` (m); colours (N - 1, 3)."""
    aside = _normals(middle)
    edges = [_local(middle + aside * offset, origin) for offset in (left, right)]
    kept = _in_reach(middle, origin)
    kept = (kept[:-1] | kept[1:]) & (np.arange(len(middle) - 1) % every == 0)
    corners = np.zeros((len(middle) - 1, 4, 3))
    corners[:, 0, :2], corners[:, 1, :2] = edges[0][:-1], edges[1][:-1]
    corners[:, 2, :2], corners[:, 3, :2] = edges[1][1:], edges[0][1:]
    return quads(corners[kept], colours[kept])


def _strip(lane: Lane, origin: Floats, colour: Floats, rng: np.random.Generator) -> Mesh:
    worn = np.clip(colour * (1 + rng.normal(0, 0.03, (len(lane.middle) - 1, 1))), 0, 1)
    return _band(lane.middle, -lane.width / 2, lane.width / 2, origin, worn)


def _fan(outline: Floats, origin: Floats, colour: Floats) -> Mesh:
    """An area as a fan of quadrilaterals around its centre."""
    rim = _local(outline, origin)
    middle = np.broadcast_to(rim.mean(axis=0), rim.shape)
    halfway = (rim + np.roll(rim, -1, axis=0)) / 2
    corners = np.zeros((len(rim), 4, 3))
    for index, points in enumerate((middle, rim, halfway, np.roll(rim, -1, axis=0))):
        corners[:, index, :2] = points
    return quads(corners, np.repeat(colour[None], len(rim), axis=0))


def _verge(look: RoadAppearance, rng: np.random.Generator) -> Mesh:
    size = 10.0
    rights, aheads = np.arange(-BESIDE_M, BESIDE_M, size), np.arange(-BEHIND_M - 5, AHEAD_M, size)
    colours = look.textured(look.verge, (len(rights), len(aheads)), rng).reshape(-1, 3)
    left, near = (each.ravel() for each in np.meshgrid(rights, aheads, indexing="ij"))
    corners = np.zeros((len(left), 4, 3))
    corners[:, [0, 3], 0], corners[:, [1, 2], 0] = left[:, None], left[:, None] + size
    corners[:, :2, 1], corners[:, 2:, 1] = near[:, None], near[:, None] + size
    return quads(corners, colours)


def _marks(lane: Lane, place: str, origin: Floats, look: RoadAppearance) -> list[Mesh]:
    """Edge lines, dashed lines between lanes, stop lines and zebra crossings."""
    half, pieces = lane.width / 2, len(lane.middle) - 1
    white = np.repeat(look.marks[None], pieces, axis=0)
    if lane.crossing:
        return [_zebra(lane, origin, look)]
    if lane.on_foot or (lane.inside and place == "town"):
        return []
    lines = []
    if lane.right:
        lines.append(_band(lane.middle, half - 0.25, half - 0.08, origin, white))
    if lane.left:
        lines.append(_band(lane.middle, -half, -half + 0.17, origin, white))
    elif not lane.inside:
        lines.append(_band(lane.middle, -half - 0.09, -half + 0.09, origin, white, every=2))
    if lane.stops and place == "town":
        last = lane.middle[-2:]
        lines.append(_band(last[1] + (last - last[1]) * 0.12, -half, half, origin, white[:1]))
    return [line for line in lines if len(line.vertices)]


def _zebra(lane: Lane, origin: Floats, look: RoadAppearance) -> Mesh:
    start, end = lane.middle[0], lane.middle[-1]
    length = np.linalg.norm(end - start)
    stripes = []
    for at in np.arange(0.4, length - 0.5, 1.0):
        ends = start + (end - start) / length * np.array([[at], [at + 0.5]])
        stripes.append(_band(ends, -lane.width / 2, lane.width / 2, origin, look.marks[None]))
    return join(stripes)


def _beside(roads: Roads, place: str, origin: Floats, look: RoadAppearance, rng: np.random.Generator) -> list[Mesh]:
    """Houses and trees of the town; rails, lamp posts and trees of the motorway. Each is a mesh, for culling."""
    things = []
    share = (look.houses, look.trees) if place == "town" else (0.0, look.trees)
    for x, y, heading, offset in roads.plots[_in_reach(roads.plots[:, :2], origin)]:
        side, chosen = np.sign(offset), rng.uniform()
        right, ahead = _local(np.array([[x, y]]), origin)[0]
        turned = heading - origin[2]
        if chosen < share[0]:
            thing = house(look, side * (abs(offset) + rng.uniform(9, 11)), 0.0, rng)
        elif chosen < share[0] + share[1] * (1 - share[0]):
            thing = tree(look, side * (abs(offset) + rng.uniform(6, 12)), 0.0, rng)
        else:
            thing = None
        if thing is not None:
            things.append(thing.moved(right, ahead, turned))
        if place == "motorway":
            things.append(rail(look, 3 * PIECE_M).moved(*_aside(right, ahead, turned, offset + side * 1.6), turned))
            if rng.uniform() < 0.25:
                things.append(pole(look).moved(*_aside(right, ahead, turned, offset + side * 2.4), turned))
    return things


def _aside(right: float, ahead: float, turned: float, offset: float) -> tuple[float, float]:
    return right + offset * np.cos(turned), ahead + offset * np.sin(turned)
