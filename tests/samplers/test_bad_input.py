"""Whatever is wrong with an input, a typed error says what was wanted, what came, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lamina.samplers import (
    HMC,
    KERNELS,
    MALA,
    ULA,
    Chains,
    EnergyError,
    LaminaError,
    NumericalWarning,
    ParameterError,
    PositionError,
    ReplayNoise,
    StateError,
    UnknownNameError,
    kernel_name,
    make_kernel,
    noise_scale_from_step_size,
    run,
    sample,
    step_size_from_noise_scale,
)

NUM_CHAINS, DIM = 4, 3


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-1, 1, NUM_CHAINS * DIM, dtype=dtype).reshape(NUM_CHAINS, DIM)


def energy(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


def sample_with(**options: Any) -> object:
    arguments: dict[str, Any] = {"energy": energy, "kernel": MALA(), "initial": start(), "num_samples": 2, "noise": 0}
    return sample(**(arguments | options))


# --- Energies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: x.square().sum(), r"one value per chain, here shape \(4,\); got \(\).*flatten\(1\)\.sum\(1\)"),
        (lambda x: x.square().sum(1, keepdim=True), r"shape \(4,\); got \(4, 1\).*squeeze\(-1\)"),
        (lambda x: x.square(), r"shape \(4,\); got \(4, 3\).*Sum over the event dimensions"),
        (lambda x: x.square().sum(1)[:2], r"shape \(4,\); got \(2,\)"),
        (lambda x: x.sum(1).long(), r"floating-point values; got torch\.int64"),
        (lambda x: 1.0, r"returns a tensor of shape \(4,\); got float"),
        (lambda x: energy(x.detach()), r"does not depend on the position.*Do not detach.*value_and_grad"),
        (lambda x: torch.ones(4, requires_grad=True).double() * 1, r"none with respect to the position"),
        (lambda x: torch.where(x[:, 0] > 0.5, torch.nan, energy(x)), r"finite; 1 of 4 do not, first chain 3 with nan"),
        (lambda x: torch.where(x[:, 0] < 0, torch.inf, energy(x)), r"finite; 2 of 4 do not, first chain 0 with inf"),
        (lambda x: (x - x.detach()).abs().sqrt().sum(1), r"gradient is finite; 4 of 4.*first chain 0 with nan"),
        ("energy", r"an energy is a callable \(C, \*event\) -> \(C,\); got str"),
        (None, r"an energy is a callable \(C, \*event\) -> \(C,\); got NoneType"),
    ],
    ids=[
        *("scalar", "column", "matrix", "wrong-length", "integers", "number", "detached", "unrelated"),
        *("nan", "inf", "gradient", "string", "none"),
    ],
)
def test_energy(bad: Any, message: str) -> None:
    with pytest.raises(EnergyError, match=message):
        sample_with(energy=bad)


def test_run_counts_a_nan_start_instead_of_waiting_for_it() -> None:
    result = run(lambda x: torch.where(x[:, 0] > 0.5, torch.nan, energy(x)), MALA(), start(), num_steps=3, noise=0)
    assert result.num_divergent[3] == 3
    assert torch.equal(result.chains.matrix[3], start()[3])


def test_huge_energies_warn_of_rounding() -> None:
    with pytest.warns(NumericalWarning, match=r"rounded by about .* nats.*Subtract a constant, or return float64"):
        sample(lambda x: energy(x) + 1e6, MALA(), start(torch.float32), num_samples=1, noise=0)


# --- Positions, contexts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((start(), start()[:2]), r"share one number of chains; got position\[0\]: 4, position\[1\]: 2"),
        ({"a": start(), "b": start().float()}, r"share one dtype; got position\['a'\]: torch\.float64, .*float32"),
        ((start(), start().to("meta")), r"share one device; got position\[0\]: cpu, position\[1\]: meta"),
        (start().long(), r"floating-point numbers; got torch\.int64.*\.float\(\)"),
        ((start(), start().bool()), r"position\[1\] must hold floating-point numbers; got torch\.bool"),
        (torch.empty(0, 3), r"at least one chain and one entry; got \(0, 3\)"),
        (torch.empty(4, 0), r"at least one chain and one entry; got \(4, 0\)"),
        (torch.tensor(1.0), r"shape \(chains, \*event\).*got \(\).*unsqueeze\(0\)"),
        ((), r"non-empty tuple or dict of tensors; got an empty tuple"),
        ({}, r"non-empty tuple or dict of tensors; got an empty dict"),
        ([start()], r"a tensor, or a non-empty tuple or dict of tensors; got list"),
        (start().numpy(), r"a tensor, or a non-empty tuple or dict of tensors; got ndarray"),
        ({"a": start().tolist()}, r"position\['a'\] must be a tensor; got list"),
    ],
    ids=[
        *("chains", "dtypes", "devices", "integers", "booleans", "no-chains", "no-entries", "number"),
        *("empty-tuple", "empty-dict", "list", "numpy", "nested-list"),
    ],
)
@pytest.mark.parametrize("entry", [sample_with, lambda initial: run(energy, MALA(), initial, num_steps=1, noise=0)])
def test_position(bad: Any, message: str, entry: Callable[..., object]) -> None:
    with pytest.raises(PositionError, match=message):
        entry(initial=bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 2), r"one row per chain, here 4; got shape \(3, 2\).*repeat_interleave"),
        ({"x": [torch.zeros(4), torch.tensor(1.0)]}, r"one row per chain, here 4; got shape \(\)"),
        ({"x": "label"}, r"tensor, or a tuple, list or dict of tensors.*got str.*in the energy itself"),
    ],
    ids=["rows", "nested-number", "string"],
)
def test_context(bad: Any, message: str) -> None:
    with pytest.raises(PositionError, match=message):
        sample_with(context=bad)


# --- Numbers and names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf"), "0.1", None])
@pytest.mark.parametrize("kind", KERNELS.values())
def test_step_size_of_a_kernel(kind: Callable[..., object], bad: Any) -> None:
    with pytest.raises(ParameterError, match="step_size must be positive and finite; got"):
        kind(step_size=bad)


@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC()], ids=["ula", "mala", "hmc"])
def test_step_size_of_parameters(kernel: Any) -> None:
    for bad in (0.0, torch.tensor([0.1, -0.1, 0.1, 0.1]), torch.tensor(torch.nan)):
        with pytest.raises(ParameterError, match="step_size must be positive and finite; got"):
            kernel.init_params(start(), step_size=bad)
    with pytest.raises(ParameterError, match=r"one number or one per chain, \(C,\); got shape \(4, 3\)"):
        kernel.init_params(start(), step_size=torch.ones(4, 3))


@pytest.mark.parametrize("convert", [step_size_from_noise_scale, noise_scale_from_step_size])
def test_conversion_of_step_sizes(convert: Callable[[float], float]) -> None:
    assert step_size_from_noise_scale(0.4) == pytest.approx(0.08)
    assert noise_scale_from_step_size(0.08) == pytest.approx(0.4)
    with pytest.raises(ParameterError, match="must be positive and finite; got -1"):
        convert(-1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HMC(num_leapfrog_steps=0), "num_leapfrog_steps must be an integer of at least 1; got 0"),
        (
            lambda: make_kernel("hmc", num_leapfrog_steps=2.5),
            r"num_leapfrog_steps must be an integer of at least 1; got 2\.5",
        ),
        (lambda: HMC(jitter=1.0), r"jitter must lie in \[0, 1\); got 1\.0"),
        (lambda: HMC(jitter=-0.1), r"jitter must lie in \[0, 1\); got -0\.1"),
        (lambda: HMC(jitter=float("nan")), r"jitter must lie in \[0, 1\); got nan"),
        (lambda: HMC(target_accept=1.0), r"target_accept must lie strictly between 0 and 1; got 1\.0"),
        (lambda: MALA(target_accept=0.0), r"target_accept must lie strictly between 0 and 1; got 0\.0"),
        (lambda: sample_with(num_samples=0), "num_samples must be an integer of at least 1; got 0"),
        (lambda: sample_with(num_samples=2.0), r"num_samples must be an integer of at least 1; got 2\.0"),
        (lambda: sample_with(num_samples=True), "num_samples must be an integer of at least 1; got True"),
        (lambda: sample_with(num_warmup=-1), "num_warmup must be an integer of at least 0; got -1"),
        (lambda: sample_with(thinning=0), "thinning must be an integer of at least 1; got 0"),
        (lambda: sample_with(chain_batch_size=0), "chain_batch_size must be an integer of at least 1; got 0"),
        (lambda: run(energy, MALA(), start(), num_steps=-1, noise=0), "num_steps must be an integer of at least 0"),
        (lambda: sample_with(temperature=0.0), r"temperature must be positive and finite; got 0\.0"),
        (lambda: sample_with(temperature=torch.tensor([1.0, 1.0, -1.0, 1.0])), "temperature must be positive"),
        (lambda: sample_with(temperature=torch.ones(3)), r"temperature.*\(4,\).*got.*\(3,\)"),
        (lambda: sample_with(noise=None), r"pass generator=torch\.Generator\(\)\.manual_seed\(0\), or noise=0"),
        (lambda: sample_with(generator=torch.Generator()), "either a generator or noise, not both"),
        (lambda: sample_with(noise=-1), r"seed must lie in \[0, 2\*\*64\); got -1"),
        (lambda: sample_with(kernel="mala"), r"kernel must be a Kernel, such as HMC\(step_size=0\.1\); got 'mala'"),
        (lambda: sample_with(kernel=MALA), r"kernel must be a Kernel, such as HMC\(step_size=0\.1\); got <class"),
        (lambda: sample_with(collect=("energy", "accept")), r"names among accept_prob, .*; got \('energy', 'accept'\)"),
        (lambda: sample_with(collect="energy"), r"names among accept_prob, .*; got 'energy'"),
    ],
)
def test_numbers_and_options(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()


@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC()], ids=["ula", "mala", "hmc"])
def test_step_sizes_for_another_number_of_chains(kernel: Any) -> None:
    params = kernel.init_params(start(), step_size=torch.full((5,), 0.1))
    with pytest.raises(ParameterError, match=r"step_size.*one per chain, here 4; got 5"):
        sample_with(kernel=kernel, params=params)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(4), r"shape \(3,\) or \(3, 3\).*got shape \(4,\)"),
        (torch.ones(2, 3), r"shape \(3,\) or \(3, 3\).*got shape \(2, 3\)"),
        (torch.tensor(2.0), r"shape \(3,\) or \(3, 3\).*got shape \(\)"),
        ({"x": torch.ones(3)}, r"structure of the position.*got \['x'\]|structure of the position"),
        (2.0, r"shape \(3,\) or \(3, 3\).*got float"),
        (torch.tensor([1.0, 0.0, 1.0]), "every entry of a diagonal inverse mass must be positive and finite"),
        (torch.tensor([1.0, torch.nan, 1.0]), "every entry of a diagonal inverse mass must be positive and finite"),
        (torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]]), r"must be symmetric; use \(m \+ m\.T\) / 2"),
        (torch.diag(torch.tensor([1.0, -1.0, 1.0])), "positive definite; its Cholesky factorisation failed"),
        (torch.full((3, 3), torch.nan), "must be"),
    ],
    ids=["length", "rows", "number-tensor", "dict", "number", "zero", "nan", "asymmetric", "indefinite", "dense-nan"],
)
@pytest.mark.parametrize("kernel", [MALA(), HMC()], ids=["mala", "hmc"])
def test_inverse_mass(kernel: Any, bad: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        kernel.init_params(start(), inverse_mass=bad)


def test_inverse_mass_in_the_structure_of_the_position() -> None:
    position = {"a": start(), "b": start()[:, 0]}
    params = HMC().init_params(position, inverse_mass={"a": torch.tensor([1.0, 4.0, 9.0]), "b": torch.tensor(16.0)})
    assert params.factor.tolist() == [1, 2, 3, 4]
    assert HMC().init_params(start().reshape(4, 3, 1), inverse_mass=torch.eye(3)).factor.shape == (3, 3)


def test_kernels_by_name() -> None:
    for name, kind in KERNELS.items():
        kernel = make_kernel(name, step_size=0.25)
        assert isinstance(kernel, kind)
        assert kernel.step_size == 0.25
        assert kernel_name(kernel) == name
    with pytest.raises(UnknownNameError, match=r"unknown kernel 'mall'\. Did you mean .*'mala'.*\? Known: .*ula"):
        make_kernel("mall")
    with pytest.raises(ParameterError, match=r"'mala' has options .*step_size.*; got leapfrog, stepsize"):
        make_kernel("mala", stepsize=0.1, leapfrog=3)


def test_every_error_is_one_of_ours() -> None:
    for kind in (EnergyError, PositionError, ParameterError, StateError, UnknownNameError):
        assert issubclass(kind, LaminaError)
        assert issubclass(kind, ValueError)


# --- Files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Chains]:
    path = tmp_path / "chains.pt"
    chains = run(energy, HMC(), start(), num_steps=2, generator=torch.Generator().manual_seed(0)).chains
    chains.save(path)
    return path, chains


def test_round_trip(stored: tuple[Path, Chains]) -> None:
    path, chains = stored
    loaded = Chains.load(path, HMC())
    assert torch.equal(loaded.matrix, chains.matrix)
    assert loaded.layout == chains.layout
    assert loaded.num_steps == 2
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_truncated_file_is_refused(stored: tuple[Path, Chains]) -> None:
    path, _ = stored
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(StateError, match=r"damaged, truncated.*earlier copy"):
            Chains.load(path, HMC())


def test_a_damaged_file_is_refused_or_harmless(stored: tuple[Path, Chains]) -> None:
    """One byte flipped: in data it is noticed by the checksum; in padding it changes nothing."""
    path, chains = stored
    whole = path.read_bytes()
    num_refused = 0
    positions = range(0, len(whole), 13)
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            loaded = Chains.load(path, HMC())
        except StateError:
            num_refused += 1
        else:
            assert torch.equal(loaded.matrix, chains.matrix)
            assert torch.equal(loaded.noise_state["state"], chains.noise_state["state"])
            assert loaded.num_steps == chains.num_steps
    assert num_refused > 0.7 * len(positions)  # mostly data


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", bytes(range(64)), b"PK\x03\x04" + bytes(50)])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(StateError, match="was not written by Lamina"):
        Chains.load(path, HMC())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": torch.ones(3)}, r"should hold 'lamina chains'; it holds None"),
        (torch.ones(3), r"should hold 'lamina chains'; it holds 'Tensor'"),
        ({"kind": "lamina training", "state": {}}, r"should hold 'lamina chains'; it holds 'lamina training'"),
        ({"kind": "lamina chains", "state": {}}, "no state of chains"),
        ({"kind": "lamina chains", "state": {"x": Path("y")}}, "cannot be read"),
    ],
    ids=["weights", "tensor", "training", "empty", "pickled-code"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(StateError, match=message):
        Chains.load(path, HMC())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("matrix", torch.ones(4, 2)),
        ("matrix", torch.ones(4, 3, dtype=torch.long)),
        ("matrix", "numbers"),
        ("events", [[2]]),
        ("events", 3),
        ("keys", 7),
        ("params", None),
        ("params", {"step_size": torch.tensor(0.1)}),
        ("noise", None),
        ("noise", {"kind": "generator"}),
        ("noise", {"kind": "counter", "seed": -1, "first_chain": 0}),
        ("noise", {"kind": "generator", "state": torch.zeros(3, dtype=torch.uint8)}),
        ("num_steps", "two"),
        ("num_steps", None),
    ],
)
def test_inconsistent_chains_are_refused(stored: tuple[Path, Chains], field: str, value: Any) -> None:
    _, chains = stored
    with pytest.raises(StateError, match=r"no state of chains|parameters|cannot be continued"):
        run(energy, HMC(), Chains.from_state_dict({**chains.state_dict(), field: value}, HMC()), num_steps=1)


@pytest.mark.parametrize("field", ["matrix", "keys", "events", "params", "noise", "num_steps"])
def test_incomplete_chains_are_refused(stored: tuple[Path, Chains], field: str) -> None:
    state = stored[1].state_dict()
    del state[field]
    with pytest.raises(StateError, match=f"no state of chains.*{field}"):
        Chains.from_state_dict(state, HMC())


def test_chains_of_another_kernel_are_refused(stored: tuple[Path, Chains]) -> None:
    with pytest.raises(StateError, match=r"parameters .*num_leapfrog_steps.*MALA has .*kind of kernel that made them"):
        Chains.load(stored[0], MALA())


def test_replayed_noise_has_to_be_passed_again() -> None:
    steps = [{"xi": torch.zeros(4, 3).double(), "u": torch.ones(4, 1).double()}] * 4
    chains = run(energy, MALA(), start(), num_steps=2, noise=ReplayNoise(steps)).chains
    with pytest.raises(StateError, match=r"'replay' cannot be continued.*pass generator= or noise="):
        run(energy, MALA(), chains, num_steps=1)
    assert run(energy, MALA(), chains, num_steps=2, noise=ReplayNoise(steps)).chains.num_steps == 4


def test_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Chains.load(tmp_path / "nothing", HMC())


@pytest.mark.parametrize("culprit", ["fsync", "write"])
def test_a_full_disk_leaves_the_previous_file_intact(
    stored: tuple[Path, Chains], monkeypatch: pytest.MonkeyPatch, culprit: str
) -> None:
    path, chains = stored
    before = path.read_bytes()

    def no_space(*args: object, **options: object) -> None:
        if culprit == "write":
            raise RuntimeError("PytorchStreamWriter failed writing file data.pkl: file write failed")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target, name = (os, "fsync") if culprit == "fsync" else (torch, "save")
    with monkeypatch.context() as patch:
        patch.setattr(target, name, no_space)
        with pytest.raises(OSError, match=r"No space left|could not write"):
            chains.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generator": 0}, "generator is a torch.Generator; got 0"),
        ({"noise": "a"}, "noise is a seed or a noise source; got 'a'"),
        ({"noise": 0, "temperature": "1"}, "temperature must be positive"),
    ],
)
def test_things_of_the_wrong_kind(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        run(lambda x: x.square().sum(-1), MALA(), torch.zeros(2, 3), num_steps=1, **arguments)


@pytest.mark.parametrize("option", ["jitter", "target_accept", "step_size", "num_leapfrog_steps"])
def test_options_that_are_no_numbers(option: str) -> None:
    with pytest.raises(ParameterError, match=option):
        HMC(**{option: "x"})


def test_numpy_numbers_are_numbers() -> None:
    kernel = HMC(step_size=np.float32(0.1), num_leapfrog_steps=np.int64(3))
    run(lambda x: x.square().sum(-1), kernel, torch.zeros(2, 3), num_steps=np.int64(2), noise=0)


def test_parameters_are_those_of_the_kernel_and_the_chains() -> None:
    """A leapfrog time step must not become Langevin's h by way of continued chains."""
    x = torch.zeros(4, 3)
    chains = run(lambda x: x.square().sum(-1), HMC(), x, num_steps=1, noise=0).chains
    for start, params, message in (
        (chains, None, "MALA has parameters LangevinParams; got HMCParams"),
        (x, MALA().init_params(torch.zeros(4, 5), inverse_mass=torch.ones(5)), "inverse mass is for D = 5"),
        (x, MALA().init_params(x.double()), "step_size is torch.float64"),
    ):
        with pytest.raises(ParameterError, match=message):
            run(lambda x: x.square().sum(-1), MALA(), start, num_steps=1, noise=1, params=params)


class OwnGradient:
    """An energy that computes its own gradient, of whatever shape it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(-1)

    def value_and_grad(self, x: Tensor) -> Any:
        return self.answer(self(x), x)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda value, x: value, "returns the energies and the gradient; got Tensor"),
        (lambda value, x: (value, x[:1]), r"of the position's shape, \(4, 3\) as a matrix; got \(1, 3\)"),
        (lambda value, x: (value, {"x": x}), "gradient in the structure of the position"),
        (lambda value, x: (value.sum(), x), "one value per chain"),
    ],
)
def test_own_gradients_keep_the_contract(answer: Any, message: str) -> None:
    with pytest.raises(EnergyError, match=message):
        run(OwnGradient(answer), MALA(), torch.ones(4, 3), num_steps=1, noise=0)


def test_an_own_gradient_may_use_autograd_and_another_dtype() -> None:
    def answer(value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(0.5 * leaf.square().sum(), leaf)
        return value, grad.double()

    own = run(OwnGradient(answer), MALA(step_size=0.3), torch.ones(4, 3), num_steps=5, noise=0)
    plain = run(lambda x: 0.5 * x.square().sum(-1), MALA(step_size=0.3), torch.ones(4, 3), num_steps=5, noise=0)
    assert isinstance(own.position, Tensor)
    assert own.position.dtype == torch.float32
    assert torch.equal(own.position, plain.position)
