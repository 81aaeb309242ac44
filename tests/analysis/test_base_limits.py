"""What a base should reach is a share of what others reach on the same clips."""

import pandas as pd

from replaylab.analysis import base_limits

DOMAINS = {bar.domain for bar in base_limits.BARS}


def test_bars_are_shares_of_references_and_point_the_right_way():
    def curve():
        values = {
            ("base", "recall"): 0.97,
            ("base", "ade_px"): 1.0,
            ("base", "effnet_kd"): 4.0,
            ("copy-last-frame", "ade_px"): 2.5,
            ("constant-velocity", "ade_px"): 1.5,
            ("autoencoder", "effnet_kd"): 2.5,
        }
        rows = [{"model": model, "measure": measure, "domain": domain, "value": value,
                 "step": 5 if model == "base" else -1}
                for (model, measure), value in values.items() for domain in DOMAINS]  # fmt: skip
        return pd.DataFrame(rows)

    table = base_limits.bars(curve())
    assert table["reached"].all() and len(table) == len(base_limits.BARS)
    worse = curve()
    worse.loc[(worse["model"] == "base") & (worse["domain"] == "driving"), "value"] = 1.3
    missed = base_limits.bars(worse).query("not reached")
    assert list(zip(missed["measure"], missed["domain"], strict=True)) == [("ade_px", "driving")]
    worse.loc[worse["measure"] == "recall", "value"] = 0.9
    assert set(base_limits.bars(worse).query("not reached")["measure"]) == {"ade_px", "recall"}
