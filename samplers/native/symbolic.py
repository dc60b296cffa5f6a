"""Tensors without values: tracing at the level of PyTorch's dispatcher.

A `Symbolic` tensor has a shape and a dtype, and in place of storage an array of values of a `Program`. Run on such
tensors, a kernel's step with the user's energy inside writes down its program. The tracer sits below autograd, so
that the gradient is part of what it sees; and as there are no values, code that depends on one is refused, not
recorded with the branch that happened to be taken.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import NotTraceableError
from .program import FLOATS, Kind, Operand, Program, Table, Value, identity

Array: TypeAlias = np.ndarray[Any, Any]
"""An object array of `Value`s and plain numbers."""

KINDS: Mapping[torch.dtype, Kind] = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.bool: "bool",
    torch.int64: "int",
    torch.int32: "int",
}
_NEED_VALUES = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "unique", "_unique2", "masked_select"}


class Symbolic(Tensor):
    """A tensor without storage.

    Attributes:
        numbers: Object array of the tensor's shape, of `Value`s and plain numbers. Along a long axis all entries are
            one and the same, with stride 0: a value that stands for an entry each. Nothing but the length of an axis
            says which values belong to it, so a tensor has one axis of that length: what cuts, joins or mixes long
            axes breaks this, and is refused.
    """

    numbers: Array
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Array, dtype: torch.dtype) -> Symbolic:
        """Wrap values; views of the array are views of the tensor.

        Raises:
            NotTraceableError: If the entries of a long axis are not treated alike.
        """
        values = _with_long_axes(values)
        tensor: Symbolic = Tensor._make_wrapper_subclass(cls, values.shape, dtype=dtype)
        tensor.numbers = values
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Outside of a tracer there is nobody to ask."""
        tracer = _TRACER.get()
        if tracer is None:
            raise NotTraceableError("a traced tensor was kept and used after tracing")
        return tracer.dispatch(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Shape and dtype, since there is no more."""
        return f"Symbolic({tuple(self.shape)}, {self.dtype})"


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Turns what is done to `Symbolic` tensors, and to tensors captured by the energy, into a program.

    Args:
        program: To be added to.
        long: Entries from which on an axis is long; None: none is.
        max_in_matrices: Numbers in matrices of two long axes beyond which libraries for matrices are faster.

    Attributes:
        captured: Tensors that the program reads, in the order of their numbers.
        demands: What has to be true of the numbers for the energy to be one; taken and cleared by its caller.
        is_settled: Whether the program has something in it that was worked out from captured tensors alone, which does
            not change when they do.
    """

    def __init__(self, program: Program, long: int | None, max_in_matrices: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.program, self.long, self._max_in_matrices = program, long, max_in_matrices
        self.captured: list[Tensor] = []
        self.demands: list[Array] = []
        self.is_settled = False
        self._made: list[Tensor] = []
        self._tokens: list[Token[Tracer | None]] = []
        self._numbers: dict[object, int] = {}
        self._floats: dict[object, tuple[Tensor, Tensor]] = {}
        self._rooms: dict[int, tuple[Array, Array]] = {}
        self._viewed: list[Array] = []
        self._matrices: dict[Table, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch is to keep its compiler out of here, for which it would load all of it, in about a second."""
        return False

    def __enter__(self) -> Self:
        """May be entered again while it is active, as decompositions do."""
        self._tokens.append(_TRACER.set(self))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Back to the tracer before."""
        _TRACER.reset(self._tokens.pop())
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Everything that torch does while the tracer is active."""
        return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """One operator."""
        name = func.overloadpacket.__name__
        tensors = _tensors((*args, *kwargs.values()))
        if name in _NEED_VALUES and any(map(_has_values, tensors)):
            raise NotTraceableError(
                f"Python asks for the value of a tensor that depends on the chains (aten.{name}): an if, float(), "
                ".item() or boolean indexing. torch.where does without"
            )
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise NotTraceableError(f"random numbers inside an energy (aten.{name})")
        if kwargs.get("out") is not None:
            raise NotTraceableError(f"out= of aten.{name}")
        is_in_place = name.endswith("_") and not name.endswith("__")
        if not any(isinstance(tensor, Symbolic) for tensor in tensors):
            if not tensors:
                return self._constant(func(*args, **kwargs))
            if is_in_place and not self._is_own(tensors[0]):
                raise NotTraceableError(f"a write to a tensor that the energy captures (aten.{name})")
            result = func(*args, **kwargs)
            made = [one for one in _tensors([result]) if not _shares_memory(one, tensors)]
            self._made += made
            self.is_settled |= bool(made) or name in _NEED_VALUES
            return result
        if is_in_place:
            return self._in_place(func, name, args, kwargs)
        return self.apply(func, name, args, kwargs)

    def apply(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An operator that makes new tensors, by its rule, or by its decomposition into others."""
        from .operators import RULES  # they are written in terms of this class

        rule = RULES.get(name)
        with self:  # or torch would ask whether what rules pass to it lies on many machines, and load what can tell
            result = rule(self, *args, **kwargs) if rule else NotImplemented
        if result is not NotImplemented:
            return result
        if not any(map(_has_values, _tensors((*args, *kwargs.values())))):
            return self._by_torch(func, args, kwargs)
        with self:
            decomposition = _decompositions().get(func, func.decompose)
            result = decomposition(*args, **kwargs)
        if result is NotImplemented:
            raise NotTraceableError(f"the operator aten.{name} has no rule")
        return result

    def _in_place(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        target: Tensor = args[0]
        if self._is_own(target) and not any(map(_has_values, _tensors(args))):
            return func(target, *map(_with_values, args[1:]), **kwargs)  # type: ignore[no-any-return]
        room = self._room(target)
        if room is None:
            raise NotTraceableError(f"a write to an input or to a tensor that the energy captures (aten.{name})")
        if name in ("copy_", "fill_"):
            new = args[1]
        elif name == "zero_":
            new = 0
        else:
            with self:
                new = getattr(torch.ops.aten, name[:-1])(*args, **kwargs)
        room[...] = collapsed(self.array(new, KINDS[target.dtype]))  # arrays share memory as the tensors would
        return target

    def _room(self, target: Tensor) -> Array | None:
        """Where the numbers of a tensor lie, one for each long axis; None if they are not to be written to.

        A view of a tensor with long axes may be a part of them, which has no room of its own; nor would it see what is
        written to that tensor.
        """
        if not isinstance(target, Symbolic):
            return None
        _, room = self._rooms.get(id(target.numbers), (None, target.numbers))
        is_viewed = any(np.may_share_memory(room, values) for values in self._viewed)
        return room if room.flags.writeable and not is_viewed else None

    def _is_own(self, tensor: Tensor) -> bool:
        """Whether a tensor was made from captured ones while tracing, and the program does not read it yet."""
        if isinstance(tensor, Symbolic):
            return False
        read = (*self.captured, *(integers for integers, _ in self._floats.values()))
        return _shares_memory(tensor, self._made) and not _shares_memory(tensor, read)

    def array(self, operand: Any, kind: Kind) -> Array:
        """The values of a tensor or number, of some kind."""
        if isinstance(operand, Symbolic):
            return self.cast(operand.numbers, KINDS[operand.dtype], kind)
        if isinstance(operand, bool | int | float):
            return scalar_array(_plain(operand, kind))
        if isinstance(operand, Tensor):
            return self.cast(self._capture(operand), self.kind(operand.dtype), kind)
        raise NotTraceableError(f"an operand of type {type(operand).__name__}")

    def cast(self, values: Array, kind: Kind, wanted: Kind) -> Array:
        """The same numbers as another kind."""
        return values if kind == wanted else self.each("cast", wanted, values)

    def each(self, op: str, kind: Kind, *arrays: Any) -> Array:
        """An operation on every element, with broadcasting."""
        function = np.frompyfunc(lambda *values: self.program.op(op, kind, *values), len(arrays), 1)
        shape = np.broadcast_shapes(*(np.shape(array) for array in arrays))
        with np.errstate(all="ignore"):  # literals may be infinite or NaN
            return self.spread(as_array(function(*map(collapsed, arrays))), shape)

    def spread(self, made: Array, shape: tuple[int, ...]) -> Array:
        """The reverse of `collapsed` for numbers that are new, which may be written to."""
        if made.shape == shape:
            return made
        array = np.broadcast_to(made, shape)
        self._rooms[id(array)] = array, made  # kept, so that no other array has its id
        return array

    def view(self, values: Array, made: Array, shape: tuple[int, ...]) -> Array:
        """Numbers made from those of an array that torch takes for a view of it, one for each long axis."""
        self._viewed.append(values)
        array: Array = np.broadcast_to(made, shape)
        return array

    def copied(self, values: Array) -> Array:
        """The same numbers, in memory of their own."""
        return self.spread(collapsed(values).copy(), values.shape)

    def tensor(self, values: Any, dtype: torch.dtype) -> Symbolic:
        """Wrap the result of a rule."""
        return Symbolic(as_array(values), dtype)

    @staticmethod
    def kind(dtype: torch.dtype) -> Kind:
        """The kind of a dtype."""
        if dtype not in KINDS:
            raise NotTraceableError(f"a tensor of {dtype}")
        return KINDS[dtype]

    def _capture(self, tensor: Tensor) -> Array:
        """Numbers of a tensor from outside: floats are read when the program runs, others are part of it."""
        if not tensor.is_floating_point():
            self.is_settled = True
            check_integers(tensor)
            if not any(map(is_long, tensor.shape)):
                return object_array(tensor.detach().flatten().tolist(), tuple(tensor.shape))
            return self.cast(self._capture(self._as_floats(tensor)), "f64", self.kind(tensor.dtype))
        number, kind = self._number(tensor), self.kind(tensor.dtype)
        return entries(
            tuple(tensor.shape),
            lambda place, axis: self.program.leaf("captured", number, *place, kind=kind, is_uniform=True, axis=axis),
        )

    def long_matrix(self, matrix: Tensor) -> Table:
        """Where a matrix lies of which both axes are long: a captured one, or a parameter.

        Raises:
            NotTraceableError: If it is none of these, or with those before it too large for a program.
        """
        if isinstance(matrix, Symbolic):
            leaf = matrix_leaf(matrix.numbers)
            if leaf is None or leaf.args[2:] != matrix.shape[-2:]:
                raise NotTraceableError(f"a tensor with two long axes, {tuple(matrix.shape)}")
            table = Table("param", *leaf.args[:2])  # type: ignore[arg-type]
        else:
            lies = matrix.squeeze(0)
            is_transposed = not lies.is_contiguous() and lies.mT.is_contiguous()  # as weights are, on the way forth
            table = Table("captured", self._number(lies.mT if is_transposed else lies), is_transposed)
        self._matrices[table] = matrix.numel()
        size = sum(self._matrices.values())
        if size > self._max_in_matrices:
            raise NotTraceableError(f"matrices of {size} numbers, which calls for whole tensors")
        return table

    def _number(self, tensor: Tensor) -> int:
        """Of a tensor among the captured ones."""
        number = self._numbers.setdefault(_view(tensor), len(self.captured))
        if number == len(self.captured):
            self.captured.append(tensor)
        return number

    def _as_floats(self, tensor: Tensor) -> Tensor:
        """A long tensor of integers or truths as one of floats, always the same one for the same."""
        key = _view(tensor)
        if key not in self._floats:
            self._floats[key] = (tensor, tensor.double())
        return self._floats[key][1]

    def _by_torch(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An operator on plain numbers, which needs no rule."""
        self.is_settled |= not all(isinstance(tensor, Symbolic) for tensor in _tensors((*args, *kwargs.values())))
        made = func(*map(_with_values, args), **{name: _with_values(value) for name, value in kwargs.items()})
        return type(made)(map(self._constant, made)) if isinstance(made, list | tuple) else self._constant(made)

    def _constant(self, made: Any) -> Any:
        """What factories make, such as zeros, is part of the program, and may be written to."""
        if not isinstance(made, Tensor) or made.dtype not in KINDS:
            return made
        if any(map(is_long, made.shape)):
            values = made.flatten()
            is_constant = bool(((values == values[:1]) & (values.signbit() == values[:1].signbit())).all())
            # Else it is read when the program runs, like what the energy captures.
            return (
                self.tensor(np.broadcast_to(scalar_array(values[0].item()), made.shape), made.dtype)
                if is_constant
                else made
            )
        return Symbolic(object_array(made.clone().flatten().tolist(), tuple(made.shape)), made.dtype)


_TRACER: ContextVar[Tracer | None] = ContextVar("tracer that is active", default=None)
"""Each thread has its own."""


def as_array(values: Any) -> Array:
    """Values as an object array; one by itself becomes one without axes."""
    return values if isinstance(values, np.ndarray) and values.dtype == object else scalar_array(values)


def is_long(size: int) -> bool:
    """Whether the program that is being traced loops over an axis of this length."""
    tracer = _TRACER.get()
    return tracer is not None and tracer.long is not None and size >= tracer.long


def collapsed(array: Any) -> Array:
    """An array with one entry for each long axis."""
    array = as_array(array)
    one_each: Array = array[(..., *(slice(0, 1) if is_long(size) else slice(None) for size in array.shape))]
    return one_each


def matrix_leaf(array: Array) -> Value | None:
    """The leaf that stands for all of a parameter of which both axes are long, where an array is that parameter.

    Its arguments are its name, whether it is transposed, and its shape: the numbers themselves do not say where they
    stand, so that all one can do with it is to transpose it and to multiply rows by it.
    """
    value = collapsed(array).flat[0] if array.size else None
    return value if isinstance(value, Value) and value.op == "matrix" else None


Place: TypeAlias = tuple[int, int]
"""Where an entry lies in memory, row by row: the offset of the first, and from there the stride along a long axis."""


def entries(shape: tuple[int, ...], make: Callable[[Place, int], Any]) -> Array:
    """An array of some shape, with `make(place, axis)` for every entry, or all those along a long axis."""
    long = [dim for dim, size in enumerate(shape) if is_long(size)]
    if len(long) > 1:
        raise NotTraceableError(f"a tensor with two long axes, {shape}, which calls for whole tensors")
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    stride, axis = (strides[long[0]], shape[long[0]]) if long else (0, 0)
    array = np.empty(tuple(1 if is_long(size) else size for size in shape), dtype=object)
    for index in np.ndindex(*array.shape):
        offset = sum(map(operator.mul, index, strides))
        array[index] = make((offset, stride), axis)
    return array if array.shape == shape else np.broadcast_to(array, shape)


def scalar_array(value: Any) -> Array:
    """An object array without axes."""
    array = np.empty((), dtype=object)
    array[()] = value
    return array


def object_array(values: Sequence[Any], shape: tuple[int, ...]) -> Array:
    """A new object array of some shape."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _with_long_axes(array: Array) -> Array:
    """An array whose long axes have stride 0, and hold the values that lie along them.

    Raises:
        NotTraceableError: If it is none.
    """
    if any(map(is_long, array.shape)):
        for dim, size in enumerate(array.shape):
            if is_long(size) and array.strides[dim] != 0:
                first = array.take([0], axis=dim)
                if any(map(_differ, array.flat, np.broadcast_to(first, array.shape).flat)):
                    raise NotTraceableError(f"an axis of {size} whose entries are not treated alike")
                array = np.broadcast_to(first, array.shape)
    axes = {value.axis for value in collapsed(array).flat if isinstance(value, Value)} - {0}
    if any(array.shape.count(axis) != 1 for axis in axes):
        raise NotTraceableError(f"a long axis that is cut, joined or crossed, in a tensor of shape {array.shape}")
    return array


def _differ(one: object, other: object) -> bool:
    return one is not other and identity(one) != identity(other)


def _has_values(tensor: Tensor) -> bool:
    """Whether any number of a tensor is known only when the program runs."""
    return isinstance(tensor, Symbolic) and any(isinstance(number, Value) for number in collapsed(tensor.numbers).flat)


def _with_values(arg: Any) -> Any:
    """Plain numbers as an ordinary tensor."""
    if isinstance(arg, list | tuple):
        return type(arg)(map(_with_values, arg))
    return torch.tensor(arg.numbers.tolist(), dtype=arg.dtype) if isinstance(arg, Symbolic) else arg


def _shares_memory(tensor: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a tensor is a view of one of the others, or they of it."""
    return tensor.untyped_storage()._cdata in {other.untyped_storage()._cdata for other in others}


def _view(tensor: Tensor) -> object:
    """What two tensors have in common that hold the same numbers in the same memory."""
    where = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride())
    return (*where, tensor.dtype, tensor.is_neg())


def check_integers(tensor: Tensor) -> None:
    """Raise unless integers fit the 32 bits that programs have for them.

    Raises:
        NotTraceableError: If they do not.
    """
    if tensor.dtype == torch.int64 and tensor.numel():
        least, most = map(int, tensor.aminmax())
        if not -(2**31) <= least <= most < 2**31:
            raise NotTraceableError(f"integers from {least} to {most}, where programs have 32 bits for each")


def _plain(number: float, kind: Kind) -> Operand:
    if kind == "bool":
        return bool(number)
    return float(number) if kind in FLOATS else int(number)


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among arguments, and in lists among them."""
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, list | tuple):
            found += _tensors(arg)
    return found


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}


def _decompositions() -> Mapping[Any, Callable[..., Any]]:
    """PyTorch's own; imported when first needed, since that takes a second."""
    if not _DECOMPOSITIONS:
        from torch._decomp import core_aten_decompositions, decomposition_table

        _DECOMPOSITIONS.update({**decomposition_table, **core_aten_decompositions()})
    return _DECOMPOSITIONS
