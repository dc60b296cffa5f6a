"""A training step beside published ones: the same networks, gradients and chains, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lamina.benchmarks import results, training
from lamina.benchmarks.cli import main
from lamina.samplers import ULA
from lamina.trainers import ModelConfig, build_model, preset
from lamina.trainers.schemes import Workbench

IMAGE = (1, 4, 4)


def small() -> training.Networks:
    config = preset("mnist", "published")
    model = ModelConfig(latents=(3, 2), hidden=(8,), energy_hidden=(8,), sigma=0.3)
    prior, posterior = (replace(chains, num_steps=3) for chains in (config.prior, config.posterior))
    return training.Networks(replace(config, model=model, prior=prior, posterior=posterior, batch_size=5), IMAGE)


def bench(networks: training.Networks) -> Workbench:
    """A model in float64 whose energies are not zero."""
    model = build_model(networks.config.model, networks.image, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return Workbench(model, networks.config, networks.config.batch_size, generator)


@pytest.mark.parametrize("style", training.STYLES)
def test_each_style_has_the_gradient_of_our_energies(style: str) -> None:
    model = bench(small()).model
    generator = torch.Generator().manual_seed(2)
    z = model.prior.base.sample(5, generator=generator)
    x = torch.rand(5, *IMAGE, generator=generator, dtype=torch.float64)
    posterior = model.posterior_energy("z")
    for terms, energy in (
        (training.prior_terms(model), model.prior.energy("z")),
        (training.posterior_terms(model, x), lambda z: posterior(z, x)),
    ):
        leaves = tuple(part.detach().requires_grad_() for part in z)
        expected = torch.autograd.grad(energy(leaves).sum(), leaves)
        torch.testing.assert_close(training.STYLES[style](terms, leaves), expected)
    has_gradients = any(weight.grad is not None for weight in model.parameters())
    assert has_gradients == (style == "backward")


def test_both_styles_learn_from_the_same_gradients() -> None:
    """From the same weights and noise; `backward` forgets what its chains have added up before it learns."""
    x = torch.rand(5, *IMAGE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    learnt = []
    for gradient in training.STYLES.values():
        own = bench(small())
        before = {name: weight.clone() for name, weight in own.model.named_parameters()}
        training.PublishedStep(own, gradient)(x)
        gradients = {name: weight.grad for name, weight in own.model.named_parameters() if weight.grad is not None}
        assert list(gradients) == [name for name in before if not name.startswith("inference.")]
        moved = {name for name, weight in own.model.named_parameters() if not torch.equal(weight, before[name])}
        assert {name for name, gradient in gradients.items() if gradient.abs().max() > 1e-6} <= moved
        learnt.append(gradients)
    torch.testing.assert_close(*learnt)


def test_published_chains_are_langevin_chains() -> None:
    """Over a standard normal, h = 1/2 makes z' = z / 2 + xi, whose variance from N(0, 1) is 1.25, then 1.3125.

    A z-test at 5 standard errors of the mean square of 40,000 numbers: false alarms are below 1e-6.
    """
    networks = small()
    config = replace(networks.config, model=replace(networks.config.model, base="independent"), batch_size=8000)
    own = Workbench(
        build_model(config.model, networks.image, seed=0).double(), config, 8000, torch.Generator().manual_seed(4)
    )
    step = training.PublishedStep(own, training.by_autograd_grad)
    base = own.model.prior.base
    z = step.langevin([lambda z: -base.log_prob(z)], replace(config.prior, kernel=ULA(step_size=0.5), num_steps=2))
    squares = torch.cat([part.square().flatten() for part in z])
    assert len(squares) == 8000 * 5
    assert abs(squares.mean() - 1.3125) < 5 * 1.3125 * (2 / len(squares)) ** 0.5


def test_a_cpu_has_smaller_batches_of_large_networks() -> None:
    paper = training.NETWORKS["paper"]
    assert [paper.on(torch.device(name)).config.batch_size for name in ("cpu", "cuda")] == [2, 100]
    assert training.NETWORKS["mlp"].on(torch.device("cpu")) == training.NETWORKS["mlp"]


def test_a_device_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training", "--device", "cuda:99", "--out", str(tmp_path)]) == 2
    assert "there is no device 'cuda:99'" in capsys.readouterr().err


def test_the_command_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "NETWORKS", {"mlp": small(), "paper": small()})
    arguments = ["training", "--repeats", "2", "--out", str(tmp_path), "--networks"]
    assert main([*arguments, "mlp"]) == 0
    first = results.read(tmp_path / "training.json")["rows"]["mlp"]
    assert {name: len(times) for name, times in first.items()} == {"lamina": 2, "autograd_grad": 2, "backward": 2}
    assert main([*arguments, "mlp", "paper"]) == 0
    content = results.read(tmp_path / "training.json")
    assert content["rows"]["mlp"] == first
    figures, seconds = content["summary"], content["rows"]["paper"]
    middle = {name: sum(times) / 2 for name, times in seconds.items()}
    assert figures["paper/vs_backward"] == pytest.approx(middle["backward"] / middle["lamina"])
    assert figures["paper/vs_autograd_grad"] == pytest.approx(middle["autograd_grad"] / middle["lamina"])
    assert "x backward" in capsys.readouterr().out
    assert main([*arguments, "mlp", "mlp"]) == 2
    assert "each one once" in capsys.readouterr().err
