"""Figures, tables and sentences show the numbers that plain pandas finds, and never without their floors."""

import io
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from scipy import stats

from replaylab.analysis import tables
from replaylab.analysis.tables import last_step, per_configuration, per_run
from replaylab.pages import measures, replay_sweep, style, sweep_configurations
from replaylab.pages.style import csv_link

FRACTIONS, STEPS, CLIPS = (0.0, 0.25, 0.5), (50, 200), 5
DOMAINS = ("driving", "driving-eventful", "near")
PER_CLIP = ("ade_px", "fde_px", "ade_matched_px", "recall", "false_positives", "psnr_db")
OF_A_SET = ("effnet_fd", "effnet_kd")
FLOORS = ("real", "autoencoder", "copy-last-frame")


def rows_of(seeds: tuple[int, ...], replay: str = "near", fractions: tuple[float, ...] = FRACTIONS) -> pd.DataFrame:
    """A sweep of random numbers in the shape the library gives: nothing in it favours any claim."""
    random = np.random.default_rng(7)
    models: list[tuple[str, str, str, float, int, int]] = [(m, m, "", np.nan, -1, -1) for m in FLOORS]
    models.append(("base", "base", "", np.nan, -1, 0))
    for fraction in fractions:
        for seed in seeds:
            kind = replay if fraction else ""
            run = f"run{kind}{fraction}-{seed}"
            models += [(run, "fine-tuned", kind, fraction, seed, step) for step in STEPS]
    rows: list[tuple[Any, ...]] = []
    for model in models:
        for domain in DOMAINS:
            for measure in PER_CLIP:
                if (measure, model[1]) == ("psnr_db", "real"):
                    continue
                rows += [
                    (*model, domain, "dev", f"v{clip}", 0, str(clip), measure, random.uniform(0.1, 0.9), 9)
                    for clip in range(CLIPS)
                ]
            rows += [(*model, domain, "dev", "", -1, "", m, random.uniform(0.01, 0.1), 5 * CLIPS) for m in OF_A_SET]
    columns = "run model replay replay_fraction seed step domain split video start scene measure value n"
    return pd.DataFrame(rows, columns=columns.split())


def runs_of(rows: pd.DataFrame, missing: int = 0) -> pd.DataFrame:
    """The status of the runs in `rows`, and of some that are not."""
    done = rows[rows["model"] == "fine-tuned"].drop_duplicates("run")
    done = done[["run", "replay", "replay_fraction", "seed"]].assign(
        state="done", trained_now=True, seconds=12.3, realised_replay_fraction=done["replay_fraction"], reason=""
    )
    lost = pd.DataFrame(
        {"run": f"lost{i}", "replay": "near", "replay_fraction": 0.1, "seed": i, "state": "failed",
         "trained_now": False, "seconds": np.nan, "realised_replay_fraction": np.nan, "reason": "out of memory"}
        for i in range(missing)
    )  # fmt: skip
    return pd.concat([done, lost], ignore_index=True) if missing else done.reset_index(drop=True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return rows_of((0, 1, 2))


@pytest.fixture(scope="module")
def of_one_seed() -> pd.DataFrame:
    return rows_of((0,))


def plain(rows: pd.DataFrame, model: str, fraction: float, step: int, measure: str, domain: str) -> list[float]:
    """The value of every seed, the plain way: one filter, one mean over clips."""
    one = rows[(rows["model"] == model) & (rows["step"] == step)]
    one = one[(one["measure"] == measure) & (one["domain"] == domain)]
    if model == "fine-tuned":
        one = one[one["replay_fraction"] == fraction]
    return [float(one.loc[one["run"] == run, "value"].mean()) for run in dict.fromkeys(one["run"])]


# Numbers


def test_a_configuration_is_the_mean_over_seeds_of_the_mean_over_clips_with_a_t_interval(rows: pd.DataFrame) -> None:
    names = per_configuration(rows)
    for fraction in FRACTIONS:
        for measure in ("ade_px", "effnet_kd"):
            values = plain(rows, "fine-tuned", fraction, 200, measure, "near")
            low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
            here = names[(names["replay_fraction"] == fraction) & (names["step"] == 200)]
            here = here[(here["measure"] == measure) & (here["domain"] == "near")]
            np.testing.assert_allclose(here[["value", "low", "high"]].to_numpy(), [[np.mean(values), low, high]])
            assert here["seeds"].tolist() == [3]


def test_clips_count_alike_whatever_seed_has_more_of_them(rows: pd.DataFrame) -> None:
    """A clip without agents has no ADE; the mean over seeds must not tilt to the seed with more clips."""
    holes = rows.copy()
    gone = (holes["run"] == "run0.0-0") & (holes["measure"] == "ade_px") & (holes["video"] != "v0")
    holes.loc[gone, "value"] = np.nan
    names = last_step(per_configuration(holes))
    values = plain(holes, "fine-tuned", 0.0, 200, "ade_px", "driving")
    assert replay_sweep._value(names, "replay 0 %", "ade_px", "driving") == pytest.approx(np.mean(values))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_fewer_than_three_seeds_have_no_interval(seeds: tuple[int, ...]) -> None:
    assert per_configuration(rows_of(seeds))[["low", "high"]].isna().all(axis=None)


def test_runs_without_replay_are_one_configuration_whatever_is_not_replayed() -> None:
    both = pd.concat([rows_of((0,), "near"), rows_of((1,), "far").query("model == 'fine-tuned'")])
    both.loc[both["run"] == "run0.0-1", "replay"] = "far"
    names = sweep_configurations.tuned_configurations(per_configuration(both))
    assert sorted(names) == sorted(
        ["replay 0 %", "near replay 25 %", "near replay 50 %", "far replay 25 %", "far replay 50 %"]
    )
    assert sweep_configurations.chains_of(last_step(per_configuration(both))) == {
        "far": ["replay 0 %", "far replay 25 %", "far replay 50 %"],
        "near": ["replay 0 %", "near replay 25 %", "near replay 50 %"],
    }


def test_values_of_runs_stand_for_the_rows_that_they_are_means_of(rows: pd.DataFrame) -> None:
    values, runs = per_run(rows), runs_of(rows)
    assert per_run(values) is values
    assert replay_sweep.summary(values, runs) == replay_sweep.summary(rows, runs)
    assert replay_sweep.status_line("quick", values, runs) == replay_sweep.status_line("quick", rows, runs)
    assert replay_sweep.measures_table(values).to_html() == replay_sweep.measures_table(rows).to_html()


def of_two_kinds() -> pd.DataFrame:
    """Near and far replay, and everything replayed."""
    near, far = rows_of((0,), "near"), rows_of((0,), "far", (0.25, 0.5)).query("model == 'fine-tuned'")
    return pd.concat([near, far, rows_of((0,), "all", (1.0,)).query("model == 'fine-tuned'")])


def test_kinds_of_replay_have_a_line_a_colour_and_a_name_each() -> None:
    both = of_two_kinds()
    means = last_step(per_configuration(both))
    configurations = [f"{kind} replay {share} %" for kind in ("near", "far") for share in (25, 50)]
    assert sweep_configurations.tuned_configurations(means) == ["replay 0 %", *configurations, "all replay 100 %"]
    assert len(set(map(tuple, sweep_configurations.colours_of(means).values()))) == 6
    figure = replay_sweep.over_fractions(both, runs_of(both))
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert names.count("near") == names.count("far") == 1
    (near, far) = [legend_line.get_color() for legend_line in figure.legends[1].get_lines()[:2]]
    assert near != far


# The values behind a figure


def saved(link: Any) -> tuple[str, pd.DataFrame]:
    """What a click on a link saves: the file's name, and its table."""
    (name, address) = re.findall(r'<a download="([^"]+)" href="([^"]+)">', link.data)[0]
    kind, text = address.split(",", 1)
    assert kind == "data:text/csv;charset=utf-8"
    return name, pd.read_csv(io.StringIO(unquote(text)))


def test_a_link_saves_the_values_that_the_figure_draws(rows: pd.DataFrame) -> None:
    values = tables.drawn(rows, replay_sweep.TRADEOFF, at_the_end=True)
    name, table = saved(csv_link(values, "tradeoff"))
    assert name == "tradeoff.csv" and list(table) == list(values)
    np.testing.assert_allclose(table["value"], values["value"], rtol=1e-5)
    at = table[(table["configuration"] == "replay 25 %") & (table["measure"] == "ade_px")]
    np.testing.assert_allclose(at["value"], plain(rows, "fine-tuned", 0.25, 200, "ade_px", "driving-eventful"), rtol=1e-5)
    assert set(zip(table["measure"], table["domain"], strict=True)) == set(replay_sweep.TRADEOFF)
    assert set(tables.drawn(rows, replay_sweep.PANELS)["step"]) == {-1, 0, *STEPS}
    assert tables.drawn(pd.DataFrame(), replay_sweep.PANELS).empty


@given(some.lists(some.text(max_size=8), min_size=1, max_size=4), some.text(min_size=1, max_size=6))
def test_a_link_holds_whatever_stands_in_the_table(texts: list[str], name: str) -> None:
    texts = [text.replace("\r", "").replace("\0", "") for text in texts]
    link = csv_link(pd.DataFrame({"text": texts, "value": 0.1}), name)
    assert link.data.count("<") == link.data.count(">") == 6, "something escaped from an attribute"
    _, text = link.data.split('href="')[1].split('"')[0].split(",", 1)
    assert unquote(text) == pd.DataFrame({"text": texts, "value": 0.1}).to_csv(index=False, lineterminator="\n")


# Refusals


@pytest.mark.parametrize("missing", [*FLOORS, "base"])
def test_rows_without_a_reference_are_refused(rows: pd.DataFrame, missing: str) -> None:
    runs = runs_of(rows)
    without = rows[~((rows["model"] == missing) & (rows["measure"] == "ade_px") & (rows["domain"] == "near"))]
    for show in (replay_sweep.measures_table, replay_sweep.headline, lambda rows: replay_sweep.summary(rows, runs_of(rows))):
        with pytest.raises(ValueError, match=f"ade_px in domain near without its references {missing}"):
            show(without)
    for draw in (replay_sweep.tradeoff, replay_sweep.over_fractions, replay_sweep.over_steps):
        with pytest.raises(ValueError, match="without its references"):
            draw(without, runs)


def test_rows_of_two_splits_are_refused(rows: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"2 splits \(dev, test\)"):
        per_run(pd.concat([rows, rows.assign(split="test")]))


def test_runs_of_different_lengths_are_refused(rows: pd.DataFrame) -> None:
    cut = rows[~((rows["run"] == "runnear0.5-1") & (rows["step"] == 200))]
    with pytest.raises(ValueError, match="different steps"):
        per_run(cut)


def test_no_rows_at_all_say_so(rows: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="holds neither a finished run nor the references"):
        replay_sweep.status_line("quick", rows.iloc[:0], runs_of(rows).iloc[:0])


# Tables


def test_the_table_begins_with_the_floors_and_agrees_with_plain_pandas(rows: pd.DataFrame) -> None:
    table = replay_sweep.measures_table(rows).data
    configurations = ["real", "autoencoder", "copy last frame", "base", "replay 0 %", "replay 25 %", "replay 50 %"]
    names = ["ordinary driving", "eventful driving", "other appearances, free motion"]
    assert list(table.index) == [(domain, configuration) for domain in names for configuration in configurations]
    for domain, name in zip(DOMAINS, names, strict=True):
        for model, configuration, step in [("real", "real", -1), ("base", "base", 0), ("fine-tuned", "replay 25 %", 200)]:
            for measure, column in [("ade_px", "ADE (px)"), ("effnet_kd", "EffNet-KD"), ("recall", "recall (share)")]:
                values = plain(rows, model, 0.25, step, measure, domain)
                assert table.loc[(name, configuration), column] == pytest.approx(np.mean(values))
    counts = table[["seeds", "clips", "agent-frames", "frames"]]
    assert counts.loc[("ordinary driving", "replay 0 %")].tolist() == [3, CLIPS, 9 * CLIPS, 5 * CLIPS]
    assert counts.loc[("ordinary driving", "real")].tolist() == [1, CLIPS, 9 * CLIPS, 5 * CLIPS]


def test_the_infinite_psnr_of_real_frames_is_shown_as_such(of_one_seed: pd.DataFrame) -> None:
    real = of_one_seed[(of_one_seed["model"] == "autoencoder") & (of_one_seed["measure"] == "psnr_db")]
    rows = pd.concat([of_one_seed, real.assign(run="real", model="real", value=np.inf)])
    assert replay_sweep.measures_table(rows).to_html().count("∞") == len(DOMAINS)


def test_the_same_table_makes_the_same_page(rows: pd.DataFrame) -> None:
    assert replay_sweep.measures_table(rows).to_html() == replay_sweep.measures_table(rows).to_html()


def test_runs_that_are_not_there_are_lines_with_their_reason(rows: pd.DataFrame) -> None:
    page = replay_sweep.status_table(runs_of(rows, missing=2)).to_html()
    assert page.count("out of memory") == 2 and page.count("done") == 9 and "nan" not in page.lower()


# Sentences


def with_values(rows: pd.DataFrame, base: float, none: float, most: float) -> pd.DataFrame:
    """`rows` with one number for all measures of the base, of replay 0 % and of the most replay."""
    rows = rows.copy()
    rows.loc[rows["model"] == "base", "value"] = base
    rows.loc[rows["replay_fraction"] == 0, "value"] = none
    rows.loc[rows["replay_fraction"] == 0.5, "value"] = most
    return rows


@settings(max_examples=20, deadline=None)
@given(some.tuples(*3 * [some.integers(100, 999)]))
def test_direction_words_follow_the_numbers(numbers: tuple[int, int, int]) -> None:
    base, none, most = (number / 100 for number in numbers)
    said = replay_sweep.headline(with_values(ONE_SEED, base, none, most))
    first, second = said.split("; with 50 % replay")
    for part, after in ((first, none), (second, most)):
        words = {-1: "falls from {} to {}{} (better)", 0: "stays at {}{}", 1: "rises from {} to {}{} (worse)"}
        for what, unit in (("EffNet-KD on ordinary driving", ""), ("ADE on eventful driving", " px")):
            numbers_said = [f"{base:.2f}", f"{after:.2f}"] if base != after else [f"{base:.2f}"]
            assert f"{what} {words[int(np.sign(after - base))].format(*numbers_said, unit)}" in part
        assert "1 seed: no interval" in part


ONE_SEED = rows_of((0,))


def test_an_interval_that_holds_the_base_is_neither_better_nor_worse(rows: pd.DataFrame) -> None:
    names = last_step(per_configuration(rows))
    name = names[(names["configuration"] == "replay 0 %") & (names["measure"] == "ade_px")]
    low, high = name.loc[name["domain"] == "driving-eventful", ["low", "high"]].to_numpy()[0]
    inside, outside = rows.copy(), rows.copy()
    inside.loc[inside["model"] == "base", "value"] = low + 0.9 * (high - low)
    outside.loc[outside["model"] == "base", "value"] = high + 1
    for changed, words in ((inside, "contains the base's value"), (outside, "(better; 95 % interval")):
        without_replay = replay_sweep.headline(changed).split("; with 50 %")[0]
        assert words in without_replay.split(" and ADE on eventful driving ")[1]


def test_a_configuration_no_better_than_copying_is_named(of_one_seed: pd.DataFrame) -> None:
    rows = with_values(of_one_seed, base=2.0, none=5.0, most=1.0)
    rows.loc[rows["model"] == "copy-last-frame", "value"] = 5.0
    for line in replay_sweep.summary(rows, runs_of(rows)).splitlines()[2:]:
        assert line.endswith("No better than copying: replay 0 %.")


def test_a_sweep_without_a_finished_run_claims_nothing(of_one_seed: pd.DataFrame) -> None:
    references = of_one_seed[of_one_seed["model"] != "fine-tuned"]
    assert "No run of this sweep is finished" in replay_sweep.headline(references)


def test_the_status_says_how_far_to_trust(rows: pd.DataFrame, of_one_seed: pd.DataFrame) -> None:
    def said(rows: pd.DataFrame, missing: int = 0) -> str:
        return replay_sweep.status_line("quick", rows, runs_of(rows, missing))

    assert "9 runs, all of them finished" in said(rows)
    assert "exploratory" in said(rows) and "exploratory" in said(of_one_seed.assign(split="test"))
    assert "exploratory" not in said(rows.assign(split="test"))
    assert "11 runs, **9 of them finished" in said(rows, missing=2)


# Figures

DRAWINGS = (replay_sweep.tradeoff, replay_sweep.over_fractions, replay_sweep.over_steps)


@pytest.fixture(scope="module")
def drawn(of_one_seed: pd.DataFrame) -> dict[str, Figure]:
    return {draw.__name__: draw(of_one_seed, runs_of(of_one_seed)) for draw in DRAWINGS}


def lines_of(axes: Axes, marker: str) -> list[list[tuple[float, float]]]:
    """The points of every line of a panel that is drawn with this marker ("None" for a plain one)."""
    lines = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() == marker]
    return [[(float(x), float(y)) for x, y in line] for line in lines]


def single_points(axes: Axes) -> list[tuple[float, float]]:
    """Where the large points of a panel stand."""
    return sorted(line[0] for marker in "oD" for line in lines_of(axes, marker) if len(line) == 1)


def test_the_tradeoff_stands_where_the_numbers_are(rows: pd.DataFrame) -> None:
    (axes,) = replay_sweep.tradeoff(rows, runs_of(rows)).axes
    models = [("base", 0.0, 0), *(("fine-tuned", fraction, 200) for fraction in FRACTIONS)]
    expected = [
        tuple(np.mean(plain(rows, *model, measure, domain)) for measure, domain in replay_sweep.TRADEOFF) for model in models
    ]
    np.testing.assert_allclose(single_points(axes), sorted(expected))
    labels = {text.get_text() for text in axes.texts if isinstance(text, Annotation)}
    assert {"base", "0 %", "25 %", "50 %"} <= labels
    low_high = [axes.get_xlim(), axes.get_ylim()]
    assert all(low < at < high for point in expected for at, (low, high) in zip(point, low_high, strict=True))


def references_in(figure: Figure, axes: Axes, measure: str) -> dict[str, float]:
    """The reference baselines that a panel shows: those with a line, and those that the note below has, rounded."""
    named = [text for text in axes.texts if text.get_text() in tables.REFERENCES.values()]
    lines = {text.get_text(): float(text.xy[1]) for text in named if isinstance(text, Annotation)}
    note = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    label = replay_sweep.measure_of(measure).label
    beyond = re.findall(rf"{label} beyond the axis: ((?:[a-z -]+ -?[\d.]+(?:, )?)+)", note)
    return lines | {name: float(value) for name, value in re.findall(r"([a-z -]+?) (-?[\d.]+)", ", ".join(beyond))}


def test_reference_baselines_are_in_every_panel_or_in_its_note(drawn: dict[str, Figure], of_one_seed: pd.DataFrame) -> None:
    shown = {
        "tradeoff": [replay_sweep.TRADEOFF[1]], "over_steps": replay_sweep.TRADEOFF, "over_fractions": replay_sweep.PANELS
    }  # fmt: skip
    for name, panels in shown.items():
        for axes, (measure, domain) in zip(drawn[name].axes, panels, strict=True):
            levels = [line[0][1] for line in lines_of(axes, "None") if [x for x, _ in line] == [0, 1]]
            if name != "over_fractions":
                levels += references_in(drawn[name], axes, measure).values()
            for floor in FLOORS:
                value = plain(of_one_seed, floor, 0, -1, measure, domain)[0]
                # A note has the measure's two decimals.
                assert np.isclose(levels, value, rtol=0.01, atol=0.005).any(), (name, floor, measure, domain)


def test_lines_over_steps_start_at_the_base(drawn: dict[str, Figure], of_one_seed: pd.DataFrame) -> None:
    for axes, (measure, domain) in zip(drawn["over_steps"].axes, replay_sweep.TRADEOFF, strict=True):
        lines = lines_of(axes, "o")
        expected = [
            [(0, plain(of_one_seed, "base", 0, 0, measure, domain)[0])]
            + [(step, plain(of_one_seed, "fine-tuned", fraction, step, measure, domain)[0]) for step in STEPS]
            for fraction in (0.0, 0.25)
        ]
        assert np.allclose(lines, expected)
        names = [text.get_text() for text in axes.texts if isinstance(text, Annotation)]
        assert {"replay 0 %", "replay 25 %"} <= set(names)


def test_a_control_has_a_line_of_its_own(rows: pd.DataFrame) -> None:
    control = rows[(rows["model"] != "fine-tuned") | (rows["replay_fraction"] == 0)]
    figure = replay_sweep.over_steps(rows, runs_of(rows), control)
    for axes in figure.axes:
        names = [text.get_text() for text in axes.texts if isinstance(text, Annotation)]
        assert len(lines_of(axes, "o")) == 3 and replay_sweep.CONTROL in names


def test_names_at_the_ends_of_lines_keep_apart(rows: pd.DataFrame) -> None:
    for axes in replay_sweep.over_steps(rows, runs_of(rows)).axes:
        names = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text().startswith("replay")]
        places = sorted(axes.transData.transform((0, text.xy[1]))[1] for text in names)
        assert len(places) == 2 and np.diff(places).min() > 0.9 * style.SMALLEST_PT * axes.figure.dpi / 72


def test_lines_over_fractions_go_from_none_to_most(drawn: dict[str, Figure], of_one_seed: pd.DataFrame) -> None:
    for axes, (measure, domain) in zip(drawn["over_fractions"].axes, replay_sweep.PANELS, strict=True):
        (line,) = lines_of(axes, "o")
        expected = [
            (100 * fraction, plain(of_one_seed, "fine-tuned", fraction, 200, measure, domain)[0]) for fraction in FRACTIONS
        ]
        assert np.allclose(line, expected)


def test_a_sweep_that_measured_few_domains_has_the_panels_of_these(rows: pd.DataFrame) -> None:
    """As sweeps of the second edition, of other worlds, and of one's own."""
    few = rows[(rows["domain"] != "near") & (rows["measure"] != "recall")]
    figure = replay_sweep.over_fractions(few, runs_of(few))
    measured = [measure for measure, domain in replay_sweep.PANELS if domain != "near" and measure != "recall"]
    assert sum(axes.axison for axes in figure.axes) == len(measured) == 3 and len(figure.axes) == 4
    other = rows.assign(domain="country")
    for draw in DRAWINGS:
        assert draw(other, runs_of(other)).texts[0].get_text() == replay_sweep.NOT_MEASURED
    assert "did not measure" in measures.ceilings(other)


def test_axes_have_a_name_and_a_unit(drawn: dict[str, Figure]) -> None:
    for figure in drawn.values():
        assert all(axes.get_ylabel().endswith(")") for axes in figure.axes)
        assert figure.axes[-1].get_xlabel().endswith(")") or figure.axes[-1].get_xlabel() == "fine-tuning step"


def test_no_figure_stays_open(drawn: dict[str, Figure]) -> None:
    """A notebook would show it a second time."""
    assert drawn and plt.get_fignums() == []


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_partial_sweep_says_so_in_its_title_and_a_whole_one_does_not(
    draw: Callable[..., Figure], drawn: dict[str, Figure], of_one_seed: pd.DataFrame
) -> None:
    assert "3 of 5 runs" in draw(of_one_seed, runs_of(of_one_seed, missing=2)).get_suptitle()
    assert "runs" not in drawn[draw.__name__].get_suptitle()


@pytest.mark.parametrize("draw", DRAWINGS)
def test_without_a_finished_run_the_references_still_show(draw: Callable[..., Figure], of_one_seed: pd.DataFrame) -> None:
    references = of_one_seed[of_one_seed["model"] != "fine-tuned"]
    lost = runs_of(of_one_seed, missing=2).tail(2)
    assert "0 of 2 runs" in draw(references, lost).get_suptitle()
    assert len(replay_sweep.measures_table(references).data) == 4 * len(DOMAINS)


def test_configurations_of_one_budget_may_end_at_different_steps(rows: pd.DataFrame) -> None:
    longer = rows.assign(step=rows["step"].where(rows["replay_fraction"] != 0.5, 2 * rows["step"]))
    shown = last_step(per_configuration(longer))
    tuned = shown[shown["model"] == "fine-tuned"]
    ends = tuned.groupby("replay_fraction")["step"].unique().map(list).to_dict()
    assert ends == {fraction: [400 if fraction == 0.5 else 200] for fraction in FRACTIONS}
    replay_sweep.tradeoff(longer, runs_of(longer))
    replay_sweep.over_steps(longer, runs_of(longer))


def test_a_control_that_is_not_there_is_said_and_not_drawn() -> None:
    figure = replay_sweep.over_steps(pd.DataFrame(), pd.DataFrame())
    assert len(figure.axes) == 1 and "are missing" in figure.texts[0].get_text()
