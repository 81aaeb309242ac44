"""Running Doom without a window: one vizdoom process for each of Freedoom's two games, started when first needed.

Decision: an episode is a function of (map, seed) and of the actions in it, independent of earlier episodes. The only random
effect of the renderer (the fuzz of partly invisible monsters) is switched off, as is everything that the other worlds do not
have: weapon, crosshair, status bar, messages, the red flash of pain. Files are written only to a temporary folder, and the
game ends with its Python process.

Doom's units: 32 per metre; angles in degrees, 0 along +x, positive to the left; 35 tics per second.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from replaylab.util.extras import needs

TICS_PER_SECOND, UNITS_PER_METRE = 35, 32.0
MAPS = {
    "freedoom1.wad": tuple(f"E{episode}M{number}" for episode in range(1, 5) for number in range(1, 10)),
    "freedoom2.wad": tuple(f"MAP{number:02d}" for number in range(1, 33)),
}
VARIABLES = ("CAMERA_POSITION_X", "CAMERA_POSITION_Y", "CAMERA_POSITION_Z", "CAMERA_ANGLE", "VIEW_HEIGHT")
BUTTONS = ("MOVE_FORWARD_BACKWARD_DELTA", "MOVE_LEFT_RIGHT_DELTA", "TURN_LEFT_RIGHT_DELTA")
HIDDEN = ["hud", "weapon", "crosshair", "decals", "particles", "messages", "effects_sprites", "screen_flashes"]
ARGUMENTS = "-nosound +sv_cheats 1 +movebob 0 +r_drawfuzz 0 +r_quakeintensity 0 +cl_showsecretmessage 0 +con_midtime 0"
# otherwise it creates a sound server's folder in the home folder
SILENT = {"ALSOFT_DRIVERS": "null", "SDL_AUDIODRIVER": "dummy"}
# if its Python process was killed, the engine waits forever, and ignores weaker signals
GUARD = """#!/bin/sh
for word; do
  [ "$before" = +viz_instance_id ] && instance=$word
  before=$word
done
(
  while kill -0 "$PPID" && kill -0 $$; do sleep 1; done
  kill -0 "$PPID" || kill -9 $$
  rm -rf /dev/shm/ViZDoom*"${{instance:?}}" "{folder}"
) >/dev/null 2>&1 &
exec "{engine}" "$@"
"""


def vizdoom() -> Any:
    """The package; raises MissingExtra, with the remedy, if it is not installed."""
    with needs("worlds"):
        import vizdoom as package
    return package


def wad_path(wad: str) -> Path:
    """The path of a game's file in vizdoom."""
    return Path(vizdoom().root_path) / wad


def started(wad: str, map_name: str, seed: int) -> Any:
    """A game at the first tic of a map: a vizdoom.DoomGame, the same object for the same `wad`."""
    game = _game(wad)
    game.set_seed(seed)
    game.set_doom_map(map_name)  # begins an episode
    game.send_game_command("god")  # applies to this episode only
    return game


@cache
def _game(wad: str) -> Any:
    package = vizdoom()
    game = package.DoomGame()
    game.set_doom_game_path(str(wad_path(wad)))
    game.set_doom_scenario_path("")
    game.set_doom_map(MAPS[wad][0])
    game.set_doom_skill(4)  # most monsters
    game.set_screen_resolution(package.ScreenResolution.RES_400X300)
    game.set_screen_format(package.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_labels_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    for part in HIDDEN:
        getattr(game, f"set_render_{part}")(False)
    game.set_render_corpses(True)
    for button in BUTTONS:
        game.add_available_button(getattr(package.Button, button))
    game.set_available_game_variables([getattr(package.GameVariable, name) for name in VARIABLES])
    game.add_game_args(ARGUMENTS)
    folder = tempfile.TemporaryDirectory(prefix="replaylab-doom-")
    game.set_doom_config_path(str(Path(folder.name) / "doom.ini"))
    guarded = _guarded(package.exe_path, Path(folder.name))
    if os.name == "posix" and os.access(guarded, os.X_OK):  # some clusters forbid executables in /tmp
        game.set_vizdoom_path(str(guarded))
    with _quietly(folder.name):
        game.init()
    atexit.register(folder.cleanup)
    atexit.register(game.close)  # before the folder goes: last registered, first called
    return game


@contextlib.contextmanager
def _quietly(folder: str) -> Iterator[None]:
    """A context in which a process starts in `folder` and without sound."""
    before = {name: os.environ.get(name) for name in SILENT}
    os.environ.update(SILENT)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _guarded(engine: str, folder: Path) -> Path:
    """A script that runs the engine, and that ends it and cleans up when its Python process has ended."""
    path = folder / "vizdoom"
    path.write_text(GUARD.format(engine=engine, folder=folder))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
