"""The loop: it learns, it resumes to the bit, and what is on disk is whole or not there."""

import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import tracking
from small_training import CELLS, CHANNELS, FRAMES, Killed, fit, log_of, loss_of, model, same, sampled, training, weights

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.cli.main import main
from replaylab.mixture import Mixture
from replaylab.models import pipelines, tiny
from replaylab.models.autoencoder import fold, new_autoencoder, to_frames, unfold
from replaylab.spec import MachineSpec, ReplaySpec
from replaylab.sweeps.presets import FAMILIES
from replaylab.training import checkpoint, fine_tuning, loop, trackers
from replaylab.util.distributed import Rank, flush_denormals
from replaylab.util.extras import MissingExtra
from replaylab.worlds.named import domain_spec


def replay(**changes):
    return ReplaySpec((domain_spec("near"),), 0.5, **changes)


both_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("step", [1, 3, 4, 5])
@pytest.mark.parametrize("schedule", ["constant", "ramp"])
def test_a_run_that_was_killed_ends_with_the_same_bits(step, schedule, latents, tmp_path, monkeypatch):
    mixture = Mixture(0.25, 4, [12, 12], 1, schedule, steps=6)
    seen = {"whole": [], "killed": []}
    whole = fit(tmp_path / "whole", latents, 6, (2, 5, 6), seen["whole"].append, mixture)
    honest = loop.batch_of

    def until(made, sources, mixture, seed, at, *others):
        if at == step:
            raise Killed
        return honest(made, sources, mixture, seed, at, *others)

    monkeypatch.setattr(loop, "batch_of", until)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", latents, 6, (2, 5, 6), seen["killed"].append, mixture)
    monkeypatch.undo()
    resumed = fit(tmp_path / "killed", latents, 6, (2, 5, 6), seen["killed"].append, mixture)
    assert same(weights(whole), weights(resumed))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed") and len(log_of(tmp_path / "killed")) == 6
    assert list(dict.fromkeys(seen["killed"])) == seen["whole"] == [2, 5, 6]
    (one, about), (other, same_about) = (checkpoint.newest(tmp_path / name / "checkpoints") for name in ("whole", "killed"))
    assert about == same_about and set(one) == {"weights", "average", "exp_avg", "exp_avg_sq", "step"}
    assert all(same(one[group], other[group]) for group in one)


def test_a_run_that_was_killed_while_measuring_measures_again(latents, tmp_path):
    def killed(step):
        raise Killed

    with pytest.raises(Killed):
        fit(tmp_path, latents, 6, (3,), killed)
    seen = []
    fit(tmp_path, latents, 6, (3,), seen.append)
    assert seen == [3]


def test_other_settings_than_the_run_began_with_are_refused_by_name(latents, tmp_path):
    fit(tmp_path, latents, 2)
    other = MachineSpec(checkpoint_steps=2, precision="bf16", gradient_checkpointing=True)
    with pytest.raises(ValueError, match="precision 'fp32' then, 'bf16' now; gradient_checkpointing False then"):
        fit(tmp_path, latents, 4, machine=other)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match=f"threads {threads} then, {threads + 1} now.*OMP_NUM_THREADS"):
            fit(tmp_path, latents, 4)
    finally:
        torch.set_num_threads(threads)
    shutil.rmtree(tmp_path / "checkpoints")
    fit(tmp_path, latents, 2, machine=other)  # with nothing to resume, anything goes


@pytest.mark.parametrize("trained", ["full", "lora", "temporal"])
def test_fine_tuning_lowers_the_loss_and_moves_what_it_should(trained, latents, tmp_path):
    untouched = model()
    made = fit(tmp_path, latents, 40, trained=trained, learning_rate=3e-3)
    assert loss_of(made, latents[0]) < 0.9 * loss_of(untouched, latents[0])
    before = weights(untouched)
    moved = {name for name, weight in weights(made).items() if name not in before or not torch.equal(weight, before[name])}
    if trained == "lora":
        assert moved and all("lora_" in name or ".base_layer." in name for name in moved)
        kept = {name.replace(".base_layer", ""): weight for name, weight in weights(made).items() if "lora_" not in name}
        assert same(kept, before)
    elif trained == "temporal":
        assert moved and all(".attn1." in name for name in moved)
    else:
        still = before.keys() - moved
        standing = {name for name, weight in untouched.transformer.named_parameters() if not weight.requires_grad}
        assert still == standing


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_step_in_parts_is_the_same_step(parts, latents, tmp_path):
    one, other = fit(tmp_path / "a", latents, 2), fit(tmp_path / "b", latents, 2, accumulate=parts)
    logs = [[line["loss"] for line in log_of(tmp_path / name)] for name in "ab"]
    assert np.allclose(*logs, rtol=1e-5)
    assert all(torch.allclose(weights(one)[name], weights(other)[name], atol=1e-4) for name in weights(one))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_batch_is_the_same_whoever_computes_its_parts(ranks, latents):
    mixture = Mixture(0.25, 8, [12, 12], 1)
    whole = loop.batch_of(model(), latents, mixture, 3, 5)
    for rank in range(ranks):
        part = loop.batch_of(model(), latents, mixture, 3, 5, Rank(rank, ranks))
        assert all(torch.equal(mine, all_[rank::ranks]) for mine, all_ in zip(part[:3], whole[:3], strict=True))
    again = [loop.batch_of(model(), latents, mixture, *about).noise for about in ((3, 5), (3, 6), (4, 5))]
    assert torch.equal(again[0], whole.noise)
    assert not torch.equal(again[1], whole.noise) and not torch.equal(again[2], whole.noise)
    assert len(whole.noise.flatten(1).unique(dim=0)) == 8 and ((whole.level > 0) & (whole.level < 1)).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("levels", ["high", "low"])
def test_replayed_clips_can_be_trained_on_one_side_of_the_median_noise_level(family, levels, latents):
    made, mixture = model(family), Mixture(0.5, 8, [12, 12], 1)
    whole = [loop.batch_of(made, latents, mixture, 3, step) for step in range(4)]
    chosen = [loop.batch_of(made, latents, mixture, 3, step, replay=replay(noise_levels=levels)) for step in range(4)]
    median, sides = made.levels(torch.zeros(1), whole[0].latents.shape), set()
    for step, (all_, some) in enumerate(zip(whole, chosen, strict=True)):
        replayed = torch.tensor([slot.domain > 0 for slot in mixture.batch(step)])
        assert torch.equal(some.noise, all_.noise) and torch.equal(some.latents, all_.latents)
        assert torch.equal(some.level[~replayed], all_.level[~replayed])
        side = some.level[replayed] >= median if levels == "high" else some.level[replayed] <= median
        assert side.all()
        sides |= set((all_.level[replayed] >= median).tolist())
    assert sides == {True, False}  # otherwise there is nothing to choose


def test_a_replayed_clips_loss_counts_by_its_weight(latents):
    made, mixture = model(), Mixture(0.5, 8, [12, 12], 1)
    plain, weighted = (
        loop.batch_of(made, latents, mixture, 3, 5, replay=each) for each in (replay(), replay(loss_weight=0.25))
    )
    expected = torch.tensor([0.25 if slot.domain else 1.0 for slot in mixture.batch(5)])
    with torch.no_grad():
        of_clips = torch.stack([loop.Objective(made)(part) for part in plain.split(8)])
        assert loop.Objective(made)(weighted).item() == pytest.approx((expected * of_clips).mean().item(), rel=1e-4)
        parts = [loop.Objective(made)(part).item() for part in weighted.split(2)]
    assert np.mean(parts) == pytest.approx((expected * of_clips).mean().item(), rel=1e-4)


def test_evaluation_sees_the_average_and_training_goes_on_from_the_weights(latents, tmp_path):
    without = fit(tmp_path / "a", latents, 4)
    made, seen = model(), []
    first = next(made.transformer.parameters())
    loop.fit(
        made, latents, Mixture(0.25, 4, [12, 12], 1), training(4), 1, tmp_path / "b", "test",
        machine=MachineSpec("fp32", checkpoint_steps=2), evaluate_at=(1, 2, 3),
        evaluate=lambda step: seen.append((step, first.detach().clone(), made.transformer.training)),
    )  # fmt: skip
    assert [step for step, *_ in seen] == [1, 2, 3]
    assert not any(training for *_, training in seen)
    assert same(weights(without), weights(made))
    saved = checkpoint.newest(tmp_path / "b" / "checkpoints")[0]
    name = next(name for name, _ in made.transformer.named_parameters())
    assert torch.equal(saved["average"][name], first) and not torch.equal(saved["weights"][name], first)


def test_a_loss_that_is_not_finite_stops_with_the_step_its_clips_and_the_last_good_checkpoint(latents, tmp_path):
    bad = [latents[0].copy(), latents[1]]
    mixture = Mixture(0.0, 4, [12, 12], 1)
    (spoilt,) = {slot.clip for slot in mixture.batch(2)} & {mixture.batch(2)[1].clip}
    bad[0][spoilt] = np.nan
    with pytest.raises(FloatingPointError) as raised:
        fit(tmp_path, bad, mixture=mixture)
    text = str(raised.value)
    assert "the loss of step 3 is nan" in text and f"(0, {spoilt})" in text
    assert f"{tmp_path / 'checkpoints' / 'step-000002'} is the last good checkpoint" in text
    assert [path.name for path in checkpoint.steps(tmp_path / "checkpoints")] == ["step-000002"]
    fit(tmp_path, latents, mixture=mixture)  # mended clips: it goes on
    assert len(log_of(tmp_path)) == 6


def test_half_precision_and_checkpointed_gradients_learn_the_same_within_their_rounding(latents, tmp_path):
    losses = {}
    for name, machine in {
        "fp32": MachineSpec("fp32"), "again": MachineSpec("fp32", gradient_checkpointing=True), "bf16": MachineSpec("bf16"),
    }.items():  # fmt: skip
        made = fit(tmp_path / name, latents, 8, machine=machine)
        assert {weight.dtype for weight in made.transformer.parameters()} == {torch.float32}
        losses[name] = [line["loss"] for line in log_of(tmp_path / name)]
    assert np.allclose(losses["fp32"], losses["again"], rtol=1e-5)
    assert np.allclose(losses["fp32"], losses["bf16"], rtol=0.02) and losses["fp32"] != losses["bf16"]


@pytest.mark.slow
def test_compiled_it_learns_the_same_within_rounding(latents, tmp_path):
    for name, machine in {"eager": MachineSpec("fp32"), "compiled": MachineSpec("fp32", compiled=True)}.items():
        fit(tmp_path / name, latents, 8, machine=machine)
    eager, compiled = ([line["loss"] for line in log_of(tmp_path / name)] for name in ("eager", "compiled"))
    assert np.allclose(eager, compiled, rtol=1e-3)
    assert json.loads((tmp_path / "compiled" / "manifest.json").read_text())["compiled"]


def test_without_a_compiler_it_runs_eagerly_and_says_so(latents, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    fit(tmp_path, latents, 1, machine=MachineSpec(compiled=True))
    assert "note: no compiler here" in capsys.readouterr().err
    assert not json.loads((tmp_path / "manifest.json").read_text())["compiled"]


def test_tensorboard_gets_what_the_log_gets(latents, tmp_path):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(tmp_path, latents, 3, machine=MachineSpec(tracker="tensorboard"))
    events = board.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "gradient_norm", "learning_rate"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in shown] == [1, 2, 3]
        assert np.allclose([value for _, value in shown], [line[name] for line in log_of(tmp_path)])


@pytest.fixture
def notebook(monkeypatch):
    """A tracker that somebody has registered with accelerate, in the place of one of its own."""

    class Notebook(tracking.GeneralTracker):
        name, requires_logging_directory = "wandb", False
        tracker = None

        def __init__(self, project, **options):
            super().__init__()
            seen.append(("made", project, options))

        def store_init_configuration(self, values):
            seen.append(("about", values))

        def log(self, values, step=None):
            seen.append((step, values))

        def finish(self):
            seen.append(("finished",))

    seen: list = []
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Notebook)
    return seen


def test_a_tracker_gets_what_the_log_gets_and_goes_on_where_it_was_stopped(latents, tmp_path, notebook):
    machine = MachineSpec("fp32", tracker="notebook", checkpoint_steps=2)
    with pytest.raises(Killed):
        fit(tmp_path, latents, 4, machine=machine, evaluate_at=(2,), evaluate=killed)
    fit(tmp_path, latents, 4, machine=machine)
    made, about = notebook[0], notebook[1]
    assert made == ("made", "replaylab", {}) and about[1].items() >= {"what": "test", "seed": 1, "batch_size": 4}.items()
    again = notebook.index(made, 1)
    assert notebook[-1] == ("finished",) and "about" not in [name for name, *_ in notebook[again:]]
    steps = [one for one in notebook if isinstance(one[0], int)]
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    assert [{"step": step, **values} for step, values in steps] == log_of(tmp_path)


def killed(step):
    raise Killed


def test_weights_and_biases_is_offline_unless_somebody_says_otherwise(tmp_path, notebook, monkeypatch):
    for wanted, said in (("offline", None), ("online", "online")):
        monkeypatch.delenv("WANDB_MODE", raising=False)
        if said:
            monkeypatch.setenv("WANDB_MODE", said)
        trackers.started("wandb", tmp_path, "a run", 0, {})
        (options,) = [one[2] for one in notebook if one[0] == "made"]
        assert options["mode"] == wanted and options["id"] == tmp_path.name
        notebook.clear()


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_trained(latents, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    with pytest.raises(MissingExtra, match="trackio is not installed, and this needs it: pip install trackio"):
        fit(tmp_path, latents, 1, machine=MachineSpec(tracker="trackio"))
    assert list(tmp_path.iterdir()) == []
    command = ["train", "--preset", "smoke", "--replay-fraction", "0", "--store", str(tmp_path), "--tracker"]
    for name, said in (("mlflow", "pip install mlflow"), ("paper", "none of aim, clearml,")):
        assert main([*command, name]) == 2
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_loss_ignores_what_the_network_says_of_the_context(latents):
    made = model()
    honest, reference = made.predict, loss_of(made, latents[0])

    def disturbed(*arguments):
        velocity = honest(*arguments).clone()
        velocity[:, :, :CONTEXT_FRAMES] += 100
        return velocity

    made.predict = disturbed
    assert loss_of(made, latents[0]) == reference


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"weights": {"w": torch.full((3,), float(step))}}, {"note": "x"})
    file = tmp_path / "step-000002" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    tensors, state = checkpoint.newest(tmp_path)
    assert state["step"] == 1 and torch.equal(tensors["weights"]["w"], torch.ones(3))
    assert "step-000002 is damaged" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "step-000001")
    assert checkpoint.newest(tmp_path) is None


def test_old_checkpoints_are_pruned_and_half_written_ones_do_not_count(tmp_path):
    (tmp_path / ".step-000009.of-a-process-that-was-killed").mkdir(parents=True)
    for step in range(1, 5):
        checkpoint.save(tmp_path, step, {"weights": {"w": torch.zeros(1)}}, {})
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000003", "step-000004"]
    assert checkpoint.newest(tmp_path)[1]["step"] == 4


@pytest.mark.parametrize("finishes", [False, True])
def test_two_that_train_one_run_without_locks_both_end_with_it(finishes, tmp_path, latents):
    """While one has come to step 3, another begins in the same folder and ends, and perhaps takes the checkpoints away."""
    whole, evaluated = fit(tmp_path / "whole", latents), []

    def other(step):
        if not evaluated:
            evaluated.append(step)
            assert same(weights(fit(tmp_path / "run", latents)), weights(whole))
            if finishes:
                fine_tuning.delete_checkpoints(tmp_path / "run")

    assert same(weights(fit(tmp_path / "run", latents, evaluate_at=(3,), evaluate=other)), weights(whole))
    assert evaluated == [3] and log_of(tmp_path / "run") == log_of(tmp_path / "whole")


def test_condition_repeats_the_last_latent_its_change_and_how_that_changes():
    context = torch.arange(3.0).reshape(1, 1, 3, 1, 1).expand(2, CHANNELS, 3, CELLS, CELLS) ** 2  # 0, 1, 4
    noisy = torch.full((2, CHANNELS, FRAMES, CELLS, CELLS), 7.0)
    given, last = model().network_input(noisy, {"known": context})
    assert given.shape == (2, 4 * CHANNELS, FRAMES - 3, CELLS, CELLS) and (last == 4).all()
    for part, value in zip(given.split(CHANNELS, dim=1), (7, 4, 3, 2), strict=True):
        assert (part == value).all()


@both_families
def test_an_untrained_model_that_says_nothing_copies_the_last_frame(family):
    made = model(family)
    torch.nn.init.zeros_(made.transformer.proj_out.weight)
    torch.nn.init.zeros_(made.transformer.proj_out.bias)
    context = torch.randn(2, CHANNELS, 3, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    copied = context[:, :, -1:].expand(-1, -1, FRAMES - 3, -1, -1)
    assert torch.allclose(sampled(made, context, 3, 0)[:, :, 3:], copied, atol=1e-4)


@both_families
def test_the_loss_is_the_error_of_the_clean_latents(latents, family):
    """With the copy of the last frame as prediction the loss is its squared error, whatever noise was drawn."""
    made = model(family)
    torch.nn.init.zeros_(made.transformer.proj_out.weight)
    torch.nn.init.zeros_(made.transformer.proj_out.bias)
    error = np.square(latents[0][:8][:, :, 3:] - latents[0][:8][:, :, 2:3]).mean()
    assert loss_of(made, latents[0][:8]) == pytest.approx(error, rel=1e-4)


def test_the_two_families_predict_what_their_papers_say(latents):
    """The velocity noise − x of flow matching, and v = a noise − s x where the noisy latents are a x + s noise."""
    clean = torch.from_numpy(latents[0][:4])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for family in FAMILIES:
        made = model(family)
        level = made.levels(torch.tensor([-1.0, -0.3, 0.4, 1.5]), clean.shape)
        assert (level.diff() > 0).all() and (made.weight(level).flatten().diff() > 0).all()
        noisy, share = made.add_noise(clean, noise, level), made.weight(level)
        if family == "wan":
            kept, wanted = 1 - share, noise - clean
        else:
            kept = (1 - share**2).sqrt()
            wanted = kept * noise - share * clean
        assert torch.allclose(noisy, kept * clean + share * noise, atol=1e-5)
        assert torch.allclose(made.target(clean, noise, level), wanted, atol=1e-5)
        ends = [made.weight(made.level_at(at, clean.shape)).item() for at in (0.0, 1.0)]
        assert ends[0] < 0.06 and ends[1] == pytest.approx(1)


@both_families
def test_futures_keep_the_context_and_do_not_depend_on_the_batch(monkeypatch, family):
    made = model(family)
    made.transformer.eval()
    context = torch.randn(5, CHANNELS, 3, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    together = sampled(made, context, 2, noise_seed=0)
    monkeypatch.setattr(tiny.TinyModel, "CLIPS_AT_ONCE", 2)
    apart = sampled(made, context, 2, noise_seed=0)
    assert torch.equal(together[:, :, :3], context)
    assert torch.allclose(together, apart, atol=1e-4)
    assert not torch.allclose(together, sampled(made, context, 2, noise_seed=1), atol=1e-2)


@both_families
def test_sampling_with_a_network_that_knows_the_answer_arrives_at_the_data(family):
    """In any number of steps: flow matching's paths are straight, and DDIM's last step ends where it points to."""
    made = model(family)
    data = torch.randn(2, CHANNELS, FRAMES, CELLS, CELLS, generator=torch.Generator().manual_seed(3))

    def oracle(hidden_states, **_):
        change = (data - data[:, :, 2:3])[:, :, 3:]
        return (change if family == "wan" else change.transpose(1, 2),)

    made.transformer.forward = oracle
    for steps in (1, 4):
        assert torch.allclose(sampled(made, data[:, :, :3], steps, 0), data, atol=1e-4)


@both_families
def test_a_model_survives_diffusers_folder_layout(tmp_path, family):
    torch.manual_seed(0)
    vae = new_autoencoder()
    vae.register_to_config(latents_mean=[0.1] * CHANNELS, latents_std=[2.0] * CHANNELS)
    made = pipelines.TINY[family].new(vae.eval())
    made.save(tmp_path)
    again = pipelines.load_tiny(tmp_path).model
    assert type(again) is type(made)
    settings = {key: value for key, value in made.scheduler.config.items() if not key.startswith("_")}
    assert settings.items() <= dict(again.scheduler.config).items()
    frames = np.random.default_rng(0).integers(0, 255, (1, FRAMES, 64, 64, 3), dtype=np.uint8)
    assert torch.equal(made.encode(frames), again.encode(frames))
    assert made.encode(frames).shape == (1, CHANNELS, FRAMES, 16, 16)
    assert again.decode(again.encode(frames)).shape == frames.shape
    assert not list(tmp_path.rglob("*.bin")) and (tmp_path / "model_index.json").is_file()
    with pytest.raises(FileNotFoundError, match="transformer is missing"):
        type(made).load(tmp_path / "vae")


def test_folding_is_undone_exactly():
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(to_frames(unfold(fold(frames))), frames)


def test_flushing_small_numbers_ends_with_training():
    small = torch.tensor(1e-39)
    with flush_denormals():
        assert (small * 1.0).item() == 0
    assert (small * 1.0).item() > 0
