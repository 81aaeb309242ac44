"""`domain add` of a data set by the command line, as its readers call it, and what every domain must then give."""

from pathlib import Path

import pytest

from replaylab.cli import main
from replaylab.data import clips
from replaylab.data.domain import Domain, open_domain

FRAMES = 8


def made_by_command(
    kind: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str], size_px: tuple[int, int] = (32, 64),
    said: str = "agent-frames of truth",
) -> Domain:  # fmt: skip
    """The domain that the command makes in `out`, all for training, at 5 frames/s: it says so, and feeds clips."""
    size = "x".join(map(str, size_px))
    command = ["domain", "add", kind, str(root), "--out", str(out), "--size", size, "--dev", "0", "--test", "0"]
    assert main.main([*command, "--processes", "1"]) == 0
    assert said in capsys.readouterr().out
    domain = open_domain(out)
    assert next(clips.read(domain, clips.clips_of(domain, "train", FRAMES), FRAMES)).shape == (FRAMES, *size_px, 3)
    assert domain.frames_per_second == 5
    return domain
