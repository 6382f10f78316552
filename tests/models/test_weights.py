from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.weights import load_strictly, read_state_dict, unique_tensors


class Harmful:
    """What runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_reads_plain_and_wrapped(tmp_path: Path, wrap: object) -> None:
    """Published checkpoints keep the tensors under a key, with the prefix of data parallel training."""
    assert callable(wrap)
    model = nn.Linear(3, 2)
    torch.save(wrap({f"module.{name}": tensor for name, tensor in model.state_dict().items()}), tmp_path / "w.pt")
    state = read_state_dict(tmp_path / "w.pt")
    assert list(state) == ["weight", "bias"]
    assert torch.equal(state["weight"], model.weight)


def test_a_submodule_named_module_keeps_its_name(tmp_path: Path) -> None:
    """Removing `module.` where only some names have it makes two different tensors fight for a name."""
    save_file({"module.weight": torch.ones(1), "head": torch.ones(1)}, tmp_path / "w.safetensors")
    assert set(read_state_dict(tmp_path / "w.safetensors")) == {"module.weight", "head"}


def test_never_unpickles(tmp_path: Path) -> None:
    """A downloaded checkpoint must not be able to run code."""
    mark = tmp_path / "ran"
    for name, write in {
        "torch.pt": torch.save,
        "pickle.pt": lambda v, p: p.write_bytes(pickle.dumps(v, protocol=2)),
    }.items():
        write(Harmful(mark), tmp_path / name)
        with pytest.raises(
            LimbeckError, match=rf"{name}: not a torch file of plain tensors .* unpickles nothing"
        ) as error:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_file_cut_short_says_so(tmp_path: Path, name: str) -> None:
    """A copy that broke off must give one line, not a traceback of the file format."""
    model, path = nn.Linear(30, 20), tmp_path / name
    save_file(model.state_dict(), path) if name.endswith("safetensors") else torch.save(model.state_dict(), path)
    for size in (path.stat().st_size // 2, 5, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(LimbeckError, match=rf"{name}: not a ") as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)


def test_errors_name_the_file_and_what_is_in_it(tmp_path: Path) -> None:
    """A whole pickled module, or no file, must not end in a TypeError far from its cause."""
    torch.save({"epoch": 3, "weight": torch.ones(1)}, tmp_path / "odd.pt")
    with pytest.raises(LimbeckError, match=r"odd\.pt: expected a state dict .* got a int under 'epoch'"):
        read_state_dict(tmp_path / "odd.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(LimbeckError, match=r"list\.pt: .* got a list"):
        read_state_dict(tmp_path / "list.pt")
    with pytest.raises(LimbeckError, match=r"none\.pt: no such file"):
        read_state_dict(tmp_path / "none.pt")


def test_load_strictly_names_what_does_not_fit() -> None:
    """A name that is left out stays at its random value: it must never pass in silence."""
    model = nn.Linear(3, 2)
    with pytest.raises(LimbeckError, match=r"w: the names do not fit Linear: 1 missing \(bias\), 1 unexpected \(b\)"):
        load_strictly(model, {"weight": torch.ones(2, 3), "b": torch.ones(2)}, "w")
    with pytest.raises(LimbeckError, match=r"w: does not fit Linear: size mismatch for bias: .*\[5\].*\[2\]") as error:
        load_strictly(model, {"weight": torch.ones(2, 3), "bias": torch.ones(5)}, "w")
    assert "\n" not in str(error.value)


def test_tied_weights_are_stored_once_and_load_again() -> None:
    """safetensors refuses shared memory, and a strict load must not call the second name missing."""
    state = unique_tensors(Tied())
    assert list(state) == ["embed.weight"]
    model = Tied()
    load_strictly(model, state, "tied")
    assert torch.equal(model.head.weight, state["embed.weight"])


def test_views_of_one_storage_are_stored_apart(tmp_path: Path) -> None:
    """Two buffers that are halves of one tensor are different values, though their memory is shared."""
    model, whole = nn.Module(), torch.arange(6.0)
    model.register_buffer("first", whole[:3])
    model.register_buffer("second", whole[3:])
    model.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    save_file(unique_tensors(model), tmp_path / "w.safetensors")
    state = read_state_dict(tmp_path / "w.safetensors")
    assert state["second"].tolist() == [3, 4, 5]
    assert state["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
