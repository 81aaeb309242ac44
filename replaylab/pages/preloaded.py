"""What several pages show, read and judged once: the book's kernels are forked from a process that has imported this module.

Decision: only pages that are computed together import it; any other program computes what it needs, when it needs it.
"""

from __future__ import annotations

from contextlib import suppress

from replaylab.pages import second_edition
from replaylab.sweeps.presets import newest_edition

if newest_edition() == "second":
    with suppress(Exception):  # the page that needs it says what is wrong
        _ = second_edition.read().found
