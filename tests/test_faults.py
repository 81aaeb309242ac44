"""Nothing goes wrong silently: each short fault of the campaign (`make faults`) is clear or harmless."""

from pathlib import Path

import kills
import pytest
from fault_campaign import Fault, all_faults

SHORT = [fault for fault in all_faults() if fault.is_short]


@pytest.mark.parametrize("fault", SHORT, ids=str)
def test_a_fault_is_clear_or_harmless(fault: Fault, tmp_path: Path) -> None:
    fault.happen(tmp_path)


LONG = [fault for fault in all_faults() if not fault.is_short and fault.kind != kills.AT_RANDOM]


@pytest.mark.slow
@pytest.mark.parametrize("fault", LONG, ids=str)
def test_a_long_fault_is_clear_or_harmless(fault: Fault, tmp_path: Path) -> None:
    fault.happen(tmp_path)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Three of the moments: `make faults` has them all."""
    kills.at_random("one process", 3, tmp_path)


def test_the_campaign_has_every_reader_with_every_damage() -> None:
    """Formats that are read, times what can be wrong with a file of each."""
    from bad_inputs import DAMAGES, HARMLESS, READERS

    tried = [fault.name for fault in SHORT if fault.kind == "bad inputs"]
    of_readers = sum(len(DAMAGES[reader.format]) for reader in READERS)
    assert len(tried) == of_readers + sum(len(damages) for _, damages in HARMLESS.values()) > 250
    print(f"{len(READERS)} readers, {len(tried)} bad inputs")
