"""Progress says the truth, in whole lines, seldom enough for a log."""

import io
import re
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from replaylab.util import progress
from replaylab.util import text as text_module


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(durations: list[float], total: int | None = None) -> list[tuple[float, str]]:
    """(second, line) of everything written while `track` goes through items that take these seconds."""
    clock, log = Clock(), []

    class Log(io.StringIO):
        def write(self, text: str) -> int:
            log.append((clock.now, text))
            return len(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", clock)
        patch.setattr(sys, "stderr", Log())
        for duration in progress.track(durations, "rendering driving", total, "videos"):
            clock.now += duration
    return log


@given(some.lists(some.floats(0, 30), max_size=60))
def test_lines_are_whole_rare_and_the_last_one_counts_everything(durations: list[float]) -> None:
    log = lines_of(durations)
    assert all(re.fullmatch(r"rendering driving: [^\n]+\n", text) for _, text in log)
    on_the_way = [0.0] + [second for second, _ in log[:-1]]
    least = progress.SECONDS_BETWEEN_LINES - 1e-9  # sums of seconds round
    assert all(later - earlier >= least for earlier, later in pairwise(on_the_way))
    assert log[-1][1].startswith(f"rendering driving: {len(durations)} videos in ")


@given(some.lists(some.integers(), max_size=30))
def test_every_item_comes_once_and_in_order(items: list[int]) -> None:
    assert list(progress.track(iter(items), "reading", None, "clips")) == items


def test_a_line_gives_the_count_the_rate_and_the_time_left() -> None:
    log = lines_of([0.5] * 30)
    assert log[0] == (10.0, "rendering driving: 20/30 videos, 2.0 videos/s, 5.0 s left\n")
    assert log[-1] == (15.0, "rendering driving: 30 videos in 15 s\n")


def test_without_a_length_no_time_left_is_claimed() -> None:
    assert progress.progress_line("reading", 20, None, "clips", 10) == "reading: 20 clips, 2.0 clips/s"


def test_slow_items_are_timed_one_by_one() -> None:
    line = progress.progress_line("training", 2, 5, "runs", 120)
    assert line == "training: 2/5 runs, 60.0 s each, 3 min 0 s left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_duration_in_words(seconds: float, words: str) -> None:
    assert text_module.duration(seconds) == words


def test_a_loop_that_is_left_claims_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    for item in progress.track(range(5), "reading", None, "clips"):
        if item == 2:
            break
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_the_same_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress.track(range(3), "reading", None, "clips")) == [0, 1, 2]
    progress.report("done")
    assert "/3 [" in terminal.getvalue()
    assert re.search(r"reading: 3 clips in 0\.\d s\ndone\n$", terminal.getvalue())


def test_nothing_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress.track(range(3), "reading", None, "clips"))
    progress.report("done")
    assert capsys.readouterr().out == ""


# Several things at once


def told(looks: list[dict[str, tuple[str, str]]], seconds: float = 1.0) -> list[str]:
    """What a log gets of a board that is shown these, one after the other."""
    clock, log = Clock(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", clock)
        patch.setattr(sys, "stderr", log)
        board = progress.StatusBoard("runs")
        for things in looks:
            board.show(things)
            clock.now += seconds
        board.close()
    return log.getvalue().splitlines()


def test_a_log_has_every_change_of_state_once_and_now_and_then_how_far_all_are() -> None:
    looks = [{"a": ("queued", ""), "b": ("done", "")}]
    looks += [{"a": ("running", f"step {step}"), "b": ("done", "")} for step in range(25)]
    looks += [{"a": ("failed", "no space"), "b": ("done", "")}] * 30
    log = told(looks)
    assert [line for line in log if not line.startswith("runs: ")] == [
        "a: queued", "a: running, step 0", "a: failed, no space",
    ]  # fmt: skip
    assert [line for line in log if line.startswith("runs: ")] == [
        "runs: 1 running, 1 done; a: step 9", "runs: 1 running, 1 done; a: step 19", "runs: 1 failed, 1 done",
    ]  # fmt: skip


def test_a_terminal_has_one_block_that_is_redrawn_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "6")
    board = progress.StatusBoard("runs")
    many = {f"run {number}": ("running", "a long story " * 9) for number in range(9)}
    board.show(many)
    board.show(dict.fromkeys(many, ("done", "")))
    first, second = screen.getvalue().split("\x1b[5F\x1b[J")
    assert len(first.splitlines()) == 5 and all(len(line) < 20 for line in first.splitlines())
    assert second == "runs: 9 done\n"
