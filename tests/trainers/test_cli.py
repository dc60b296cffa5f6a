"""The `lamina` command end to end: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image as matplotlib_image

from lamina.samplers import MALA
from lamina.trainers import DataError, cli, data, job, load, pictures, preset, read_checkpoint, sample_run
from lamina.trainers.config import from_dict
from lamina.trainers.evaluation.features import train_features
from lamina.trainers.loop import read_metrics

CPU = torch.device("cpu")
COMMANDS = ("train", "resume", "sample", "evaluate", "features")
IMAGE_MEASURES = ("kernel_distance", "frechet_distance", "two_sample_accuracy")
LATENT_MEASURES = ("latent_kernel_distance", "latent_accuracy")


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / job.EVALUATION).read_text())
    return report


def is_picture(path: Path) -> bool:
    pixels = matplotlib_image.imread(path)
    return pixels.ndim == 3 and min(pixels.shape[:2]) > 100 and float(pixels[..., :3].std()) > 0


@pytest.fixture
def run_folder(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to do things to."""
    return Path(shutil.copytree(digits_run, tmp_path / "digits"))


# ------------------------------------------------------------------------------------------------ train


def test_train_writes_everything(digits_run: Path) -> None:
    files = {str(path.relative_to(digits_run)) for path in digits_run.rglob("*") if path.is_file()}
    drawn = {f"pictures/{name}.png" for name in ("samples", "reconstructions", "energies", "training")}
    model = {"checkpoint.pt", "metrics.jsonl"}
    assert files == model | {f"baseline/{name}" for name in model} | {"config.json", "evaluation.json"} | drawn
    assert all(is_picture(digits_run / name) for name in drawn)


def test_train_does_what_the_flags_say(digits_run: Path) -> None:
    config = from_dict(json.loads((digits_run / job.CONFIG).read_text()))
    assert (config.num_steps, config.baseline_steps, config.checkpoint_every) == (120, 200, 10)
    state, baseline = read_checkpoint(digits_run), read_checkpoint(digits_run / job.BASELINE)
    assert from_dict(state["config"]) == config
    assert from_dict(baseline["config"]) == config.baseline()
    assert (state["done"], baseline["done"]) == (120, 200)
    records = read_metrics(digits_run / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(10, 121, 10))
    assert {record["phase"] for record in records} == {0, 1}
    assert records[-1]["seconds"] > records[0]["seconds"] > 0


def test_the_report_has_flat_figures_and_says_what_they_are_of(digits_run: Path) -> None:
    report = report_of(digits_run)
    image_keys = {f"{measure}/{name}" for measure in IMAGE_MEASURES for name in ("ebm", "base", "gaussian")}
    latent_keys = {f"{measure}/{name}" for measure in LATENT_MEASURES for name in ("ebm", "base")}
    assert report["summary"].keys() == image_keys | latent_keys
    assert all(isinstance(value, float) for value in report["summary"].values())
    assert all(0.3 < value <= 1 for key, value in report["summary"].items() if "accuracy" in key)
    assert (report["num_samples"], report["num_held_out"]) == (200, 150)
    assert report["data"] == load("digits").provenance
    assert report["data"]["checksum"] == load("digits").checksum
    assert report["steps"] == {"model": 120, "gaussian": 200}
    assert report["seconds"].keys() == {"model", "gaussian"}
    assert report["prior_chains"]["steps"] == 200
    assert 0 < report["prior_chains"]["accept"] <= 1
    assert 0 < report["reconstruction_error"] < 1
    assert report["feature_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("flags", "attribute", "expected"),
    [
        ((), "num_steps", preset("digits").num_steps),
        (("--prior-sampler", "mala", "--prior-step-size", "0.3"), "prior.kernel", MALA(step_size=0.3)),
        (("--posterior-sampler", "hmc"), "posterior.kernel", preset("digits").posterior.kernel),
        (("--scheme", "joint-mle", "--posterior-steps", "7"), "posterior.num_steps", 7),
        (("--prior-space", "z"), "prior.space", "z"),
        (("--prior-start", "noise"), "prior.start", "noise"),
        (("--scheme", "joint-mle", "--posterior-start", "encoder"), "posterior.start", "encoder"),
        (("--recipe", "published", "--posterior-start", "encoder"), "posterior.start", "encoder"),
        (("--scheme", "joint-mle"), "scheme", "joint-mle"),
        (("--recipe", "published"), "scheme", "joint-mle"),
        (("--recipe", "published", "--scheme", "two-stage"), "scheme", "two-stage"),
        (("--batch-size", "50"), "batch_size", 50),
        (("--learning-rate", "0.01"), "learning_rate", 0.01),
        (("--energy-learning-rate", "0.02"), "energy_learning_rate", 0.02),
        (("--energy-penalty", "0.5"), "energy_penalty", 0.5),
        (("--seed", "7"), "seed", 7),
        (("--baseline-steps", "0"), "baseline_steps", 0),
        (("--max-steps", "5"), "num_steps", 5),
        (("--max-steps", "5", "--baseline-steps", "70"), "baseline_steps", 70),
        (("--max-steps", "5", "--baseline-steps", "0"), "baseline_steps", 0),
        (("--max-steps", "50"), "baseline_steps", preset("digits").capped(50).baseline_steps),
    ],
)
def test_every_flag_reaches_the_configuration(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], attribute: str, expected: object
) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(cli, "start", lambda config, *_, **__: configs.append(config))
    monkeypatch.setattr(cli, "_report", lambda *_: None)
    assert cli.main(["train", "digits", "--out", "run", *flags]) == 0
    value = configs[0]
    for name in attribute.split("."):
        value = getattr(value, name)
    assert value == expected


def test_a_run_without_a_baseline(tmp_path: Path, quick_evaluation: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "run"
    flags = ["--max-steps", "3", "--baseline-steps", "0", "--scheme", "joint-variational"]
    assert cli.main(["train", "digits", "--out", str(folder), *flags]) == 0
    assert not (folder / job.BASELINE).exists()
    assert not any("gaussian" in key for key in report_of(folder)["summary"])
    printed = capsys.readouterr().out
    assert "EBM prior" in printed
    assert "Gaussian-prior model" not in printed
    assert str(folder / job.EVALUATION) in printed


# ----------------------------------------------------------------------------- resume, evaluate, sample


def test_evaluate_and_resume_reproduce_the_report(run_folder: Path, digits_run: Path) -> None:
    for command in (["evaluate", "--parts", "comparison", "--again"], ["resume"]):
        (run_folder / job.EVALUATION).unlink()
        shutil.rmtree(run_folder / job.PICTURES)
        assert cli.main([*command, str(run_folder)]) == 0
        assert report_of(run_folder) == report_of(digits_run)
        assert is_picture(run_folder / job.PICTURES / "samples.png")
    assert read_metrics(run_folder / "metrics.jsonl") == read_metrics(digits_run / "metrics.jsonl")


def test_an_unfinished_run_can_be_measured(run_folder: Path) -> None:
    """A kill has cut the figures short and has come before the baseline."""
    metrics = run_folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 121, "pha')
    shutil.rmtree(run_folder / job.BASELINE)
    (run_folder / job.PICTURES / "training.png").unlink()
    assert cli.main(["evaluate", str(run_folder), "--parts", "comparison"]) == 0
    assert report_of(run_folder)["seconds"].keys() == {"model"}
    assert is_picture(run_folder / job.PICTURES / "training.png")


def test_a_run_killed_before_its_first_figures_has_no_curves(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    pictures.training_curves([], tmp_path / "training.png")
    assert not (tmp_path / "training.png").exists()


def test_sample_writes_a_picture_where_it_says(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run_folder / job.PICTURES)
    flags = ["--num", "10", "--steps", "8", "--seed", "5"]
    assert cli.main(["sample", str(run_folder), *flags]) == 0
    assert cli.main(["sample", str(run_folder), *flags, "--sampler", "mala", "--step-size", "0.1"]) == 0
    printed = capsys.readouterr().out
    for name in ("hmc", "mala"):
        path = run_folder / job.PICTURES / f"sample-{name}-5.png"
        assert is_picture(path)
        assert str(path) in printed
    out = run_folder / "elsewhere" / "mine.picture"
    assert cli.main(["sample", str(run_folder), *flags, "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_draws_depend_on_seed_and_sampler_alone(digits_run: Path) -> None:
    own = from_dict(read_checkpoint(digits_run)["config"]).prior

    def draw(seed: int, sampler: str | None = None) -> torch.Tensor:
        chains = None if sampler is None else own.with_kernel(sampler)
        drawn, accept = sample_run(digits_run, num=6, chains=chains, num_steps=6, seed=seed, device=CPU)
        assert drawn.shape == (6, 1, 8, 8)
        assert 0 <= accept <= 1
        return drawn

    first = draw(3)
    assert torch.equal(first, draw(3))
    assert torch.equal(first, draw(3, "hmc"))
    assert not torch.equal(first, draw(4))
    assert not torch.equal(first, draw(3, "mala"))
    levels = (first + 1) * 8  # 17 grey levels over [-1, 1]
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-5)
    assert first.abs().max() <= 1


@pytest.mark.parametrize("num", [1, 7, 10, 64])
def test_every_image_drawn_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    """One white pixel for each image."""
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(pictures, "_show", lambda _axes, picture, _title: shown.append(picture))
    drawn = torch.full((num, 1, 2, 2), -1.0)
    drawn[:, 0, 0, 0] = 1
    pictures.sample_grid({"ebm": drawn}, tmp_path / "grid.png", columns=min(8, num))
    assert int((shown[0] == 1).sum()) == num


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "digit", "--out", "NEW"), "Did you mean 'digits'"),
        (("train", "digits", "--out", "NEW", "--recipe", "publish"), "Did you mean 'published'"),
        (("train", "digits", "--out", "NEW", "--prior-sampler", "mla"), "Did you mean 'mala'"),
        (("train", "digits", "--out", "NEW", "--posterior-sampler", "nutz"), "Did you mean 'nuts'"),
        (("train", "digits", "--out", "NEW", "--scheme", "two-stages"), "Did you mean 'two-stage'"),
        (("train", "digits", "--out", "NEW", "--prior-space", "w"), "unknown space 'w'"),
        (("train", "digits", "--out", "NEW", "--prior-start", "encoder"), "no data row"),
        (
            ("train", "digits", "--out", "NEW", "--posterior-start", "encoder"),
            "--posterior-start encoder would do nothing",
        ),
        (
            ("train", "digits", "--out", "NEW", "--posterior-steps", "4"),
            "draws, without posterior chains. Leave it out",
        ),
        (
            ("train", "digits", "--out", "NEW", "--scheme", "joint-variational", "--posterior-start", "noise"),
            "--posterior-start noise would do nothing under joint-variational",
        ),
        (
            ("train", "digits", "--out", "NEW", "--energy-loss", "noise-contrastive", "--prior-steps", "4"),
            "--prior-steps 4 would do nothing under two-stage: with the loss noise-contrastive",
        ),
        (
            ("train", "digits", "--out", "NEW", "--scheme", "gaussian", "--prior-start", "noise"),
            "trains no prior chains",
        ),
        (("train", "digits", "--out", "NEW", "--scheme", "gaussian", "--energy-penalty", "1"), "energies stay at zero"),
        (("train", "digits", "--out", "NEW", "--scheme", "joint-mle", "--free-nats", "1"), "no evidence bound"),
        (("train", "digits", "--out", "NEW", "--prior-step-size", "-0.1"), "step_size must be positive"),
        (("train", "digits", "--out", "NEW", "--posterior-step-size", "nan"), "step_size must be positive"),
        (("train", "digits", "--out", "NEW", "--prior-steps", "0"), "num_steps"),
        (("train", "digits", "--out", "NEW", "--max-steps", "0"), "max_steps"),
        (("train", "digits", "--out", "NEW", "--max-steps", "-3"), "max_steps"),
        (("train", "digits", "--out", "NEW", "--baseline-steps", "-1"), "baseline_steps"),
        (("train", "digits", "--out", "NEW", "--batch-size", "5000"), "batch_size"),
        (("train", "digits", "--out", "NEW", "--checkpoint-every", "0"), "checkpoint_every"),
        (("train", "digits", "--out", "NEW", "--seed", "-1"), "seed"),
        (("train", "digits", "--out", "NEW", "--seed", str(2**70)), "seed"),
        (("train", "digits", "--out", "RUN"), "not empty. Continue it with `lamina resume"),
        (("resume", "NEW"), "holds no checkpoint.pt"),
        (("evaluate", "NEW"), "holds no checkpoint.pt"),
        (("evaluate", "RUN", "--parts", "likelyhood"), "Did you mean 'likelihood'"),
        (("evaluate", "RUN", "--parts", "prior", "--num-rows", "3"), "num_rows"),
        (("evaluate", "RUN", "--parts", "outliers", "--outliers", "digits"), "trained on"),
        (("evaluate", "RUN", "--parts", "generation", "--features", "no_such_module:it"), "names no features"),
        (("features", "digits", "--out", "NEW"), "12 pixels"),
        (("sample", "NEW"), "holds no checkpoint.pt"),
        (("sample", "RUN", "--sampler", "hcm"), "Did you mean 'hmc'"),
        (("sample", "RUN", "--step-size", "-1"), "step_size must be positive"),
        (("sample", "RUN", "--num", "0"), "--num"),
        (("sample", "RUN", "--steps", "0"), "number of steps"),
        (("sample", "RUN", "--steps", "-2"), "number of steps"),
        (("sample", "RUN", "--seed", str(2**70)), "seed"),
        (("sample", "RUN", "--steps", "2", "--out", "RUN/config.json/x.png"), "cannot be written"),
        (("sample", "RUN", "--steps", "2", "--out", "RUN"), "cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    given = [part.replace("NEW", str(tmp_path / "new")).replace("RUN", str(digits_run)) for part in arguments]
    assert cli.main(given) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lamina: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("trian",), "invalid choice"),
        (("train",), "required"),
        (("train", "digits"), "--out"),
        (("train", "digits", "--out", "x", "--max-steps", "many"), "--max-steps"),
        (("train", "digits", "--out", "x", "--prior-step-size", "small"), "--prior-step-size"),
        (("train", "digits", "--out", "x", "--device", "tpu"), "'tpu' is not available here"),
        (("sample", "x", "--colour", "red"), "unrecognized"),
    ],
)
def test_what_does_not_parse_shows_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    captured = capsys.readouterr().err
    assert captured.startswith("usage: lamina")
    assert message in captured


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "digits", "--out", "x", "--device", "cuda"])
    assert "'cuda' is not available here" in capsys.readouterr().err


def test_missing_files_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(data.files.DATA_ROOT_VARIABLE, raising=False)
    for name in ("_SYSTEM_ROOT", "_SIBLING_ROOT", "_CHECKOUT"):
        monkeypatch.setattr(data.files, name, tmp_path / "absent" / name)
    (tmp_path / "empty").mkdir()
    command = ["train", "mnist", "--out", str(tmp_path / "run"), "--data-root", str(tmp_path / "empty")]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "empty") in said
    assert "dataset-mnist" in said or "LAMINA_DATA_ROOT" in said
    assert not (tmp_path / "run").exists()


def test_an_interrupt_from_the_keyboard_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "start", interrupted)
    assert cli.main(["train", "digits", "--out", "run"]) == 130
    assert "lamina resume" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- help


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main([*arguments, "--help"])
    assert exit_info.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_documents_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of([command], capsys)
    assert command in help_of([], capsys)
    parser = cli._parser()._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr,call-overload,index]
    actions = [action for action in parser._actions if action.dest != "help"]
    assert len(actions) >= 3
    for action in actions:
        assert action.help, action.dest
        assert all(flag in shown for flag in action.option_strings)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("lamina 0")


# ------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("sampler", ["ula", "mala", "hmc"])
def test_mnist_with_every_prior_sampler(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_evaluation: None
) -> None:
    try:
        mnist = load("mnist")
    except DataError as error:
        pytest.skip(f"the files of MNIST are not on this machine: {error}")
    monkeypatch.setattr("lamina.trainers.evaluation.features._MAX_ROWS", 1500)
    mlp = "lamina.trainers.evaluation.comparison.features_of"
    monkeypatch.setattr(mlp, lambda data, *_, **__: train_features(data))  # a LeNet takes a minute
    monkeypatch.setattr(cli, "preset", lambda *names: replace(preset(*names), sample_steps=10, num_threads=1))
    folder = tmp_path / "mnist"
    flags = ["--prior-sampler", sampler, "--max-steps", "20", "--baseline-steps", "2"]
    assert cli.main(["train", "mnist", "--out", str(folder), *flags]) == 0
    report = report_of(folder)
    assert report["data"]["checksum"] == mnist.checksum
    assert all(torch.tensor(value).isfinite() for value in report["summary"].values())
    state = read_checkpoint(folder)
    assert state["done"] == 20
    assert state["config"]["prior"]["kernel"]["name"] == sampler
    assert is_picture(folder / job.PICTURES / "samples.png")
