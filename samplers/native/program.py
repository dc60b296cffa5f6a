"""Scalar programs: what a kernel and an energy do to one chain, as operations on numbers with structured loops.

A value is one number per chain, or, along a long axis, one for each of its entries, over which the program loops
instead of naming them all. A value lives in a block: the run itself (depth 0), the body of the loop over steps, bodies
of the loops inside a step. Values are shared (equal operations on equal arguments are one value) and put into the
deepest block among their arguments, so that what does not change in a loop leaves it.

Every simplification here depends on an operation and its arguments alone, never on where it stands: an energy rounds
in the same way wherever it is evaluated, and a run that is taken up again gives the same bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ..errors import NotTraceableError

Kind: TypeAlias = Literal["f32", "f64", "int", "bool"]
Number: TypeAlias = float | int | bool
Operand: TypeAlias = "Value | Number"

FLOATS = ("f32", "f64")
REDUCTIONS = frozenset(("over_add", "over_mul", "over_max", "over_min", "over_and", "over_or"))
"""Of a long axis to a single number."""

OTHER_PLACES = frozenset(("elsewhere", "entry", "product"))
"""Of other entries of a long axis than the one that is spoken of, for which all have to be there."""

_IDEMPOTENT = frozenset(("max", "min", "and", "or"))
COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "is_finite"))
_ROUNDED = {"f32": np.float32, "f64": np.float64}


class Table(NamedTuple):
    """A matrix in memory, row by row.

    Attributes:
        what: "captured" or "param".
        where: Its number, or name.
        is_transposed: Whether it stands for its transpose.
    """

    what: str
    where: object
    is_transposed: bool


class Value:
    """One number per chain.

    Attributes:
        op: What makes it.
        args: Of what: values, literal numbers, and for leaves what they stand for.
        kind: Its type.
        block: Where it is computed.
        is_uniform: Whether it is the same for all chains and steps, by its making.
        is_finite: Whether it is known to be finite.
        axis: Entries of the long axis along which it is one number each; 0 where it is a single number.
    """

    __slots__ = ("args", "axis", "block", "is_finite", "is_uniform", "kind", "number", "op")

    def __init__(
        self,
        number: int,
        op: str,
        args: tuple[object, ...],
        kind: Kind,
        block: Block,
        is_uniform: bool,
        is_finite: bool,
        axis: int,
    ) -> None:
        self.number, self.op, self.args, self.kind, self.block = number, op, args, kind, block
        self.is_uniform, self.is_finite, self.axis = is_uniform, is_finite, axis

    @property
    def operands(self) -> list[Value]:
        """The values among its arguments."""
        return [arg for arg in self.args if isinstance(arg, Value)]


class Block:
    """Values and loops in the order in which they are computed."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.items: list[Value | Loop] = []


class Loop:
    """A loop with carried values.

    Attributes:
        kind: "repeat": a number of times. "while": as long as any of `going` holds. "steps": the loop of the run.
        count: Times, for "repeat".
        before: The carried values before it.
        block: Its body.
        carried: What the body sees of them.
        after: What the body makes of them.
        results: What is left of them after the loop.
        num_going: How many of the carried values, from the first on, say whether a chain goes on.
    """

    def __init__(
        self, kind: Literal["repeat", "while", "steps"], count: int, before: list[Operand], depth: int
    ) -> None:
        self.kind, self.count, self.before, self.block = kind, count, before, Block(depth)
        self.carried: list[Value] = []
        self.after: list[Operand] = []
        self.results: list[Value] = []
        self.num_going = 0


class Program:
    """A program while it is being written.

    Args:
        max_values: Above how many values it is given up.
    """

    def __init__(self, max_values: int) -> None:
        self.root = Block(0)
        self._open = [self.root]
        self._known: dict[object, Value] = {}
        self._copies: dict[Operand, Value] = {}
        self._max_values = max_values
        self._exps: dict[Value, tuple[dict[Value, Operand], Operand]] = {}
        self.num_values = 0

    def expect(self, num_values: int) -> None:
        """Give up now, rather than on the way, where so many more values would be too many.

        Raises:
            TooLargeError: Where they would.
        """
        if self.num_values + num_values > self._max_values:
            raise TooLargeError(self._max_values)

    def leaf(
        self,
        op: str,
        *args: object,
        kind: Kind,
        is_uniform: bool = False,
        is_finite: bool = False,
        in_step: bool = False,
        axis: int = 0,
    ) -> Value:
        """A number that comes from outside: an input, a parameter, noise."""
        key = (op, kind, args, axis)
        if key not in self._known:
            block = self._open[1] if in_step else self.root
            self._known[key] = self._new(op, args, kind, block, is_uniform, is_finite, axis)
        return self._known[key]

    def op(self, op: str, kind: Kind, *args: Operand) -> Operand:
        """The value of an operation; a literal or a simpler value where that is the same."""
        args = tuple(self._copies.get(arg, arg) for arg in args)
        simpler = self._fold(op, kind, args)
        if simpler is None:
            simplify = _SIMPLIFY.get(op)
            simpler = simplify(self, kind, *args) if simplify else None
        return self.value(op, kind, *args) if simpler is None else simpler

    def opaque(self, kind: Kind, value: Value) -> Value:
        """A copy behind which no rule looks, and which later operations read in the value's place."""
        return self._copies.setdefault(value, self.value("copy", kind, value))

    def elsewhere(self, value: Value, first: int, axis: int, *, step: int = 1, every: int = 1) -> Value:
        """Entries of a long axis as those of another one, zero or no where there are none.

        Args:
            value: Along a long axis.
            first: See `every`.
            axis: Length of the other one.
            step: See `every`.
            every: Entry a is (first + step a) / every of the value, where that is one.
        """
        return self.value("elsewhere", value.kind, self._kept(value), first, step, every, axis=axis)

    def placed(self, kind: Kind, value: Operand, part: range, axis: int) -> Operand:
        """A number as some entries of a long axis; all others are zero, or no."""
        if not isinstance(value, Value) and not value:
            return value
        return self.value("placed", kind, value, part.start, part.step, len(part), axis=axis)

    def entry(self, value: Value, index: int) -> Value:
        """One of the entries along a long axis, by itself."""
        return self.value("entry", value.kind, self._kept(value), index, axis=0)

    def product(self, value: Value, matrix: Table, columns: int) -> Value:
        """A row, along a long axis, times a matrix of so many columns, which are as many."""
        return self.value("product", value.kind, self._kept(value), *matrix, axis=columns)

    def _kept(self, value: Value) -> Value:
        """A value whose entries lie where the program keeps its own, not in a table."""
        return self.value("copy", value.kind, value) if value.op in ("captured", "param") else value

    def value(self, op: str, kind: Kind, *args: Any, axis: int | None = None) -> Value:
        """The value of an operation as it stands; arguments beside operands say what it is about.

        Args:
            op: The operation.
            kind: Of the value.
            args: Operands, and what else says what it is.
            axis: See `Value`; None: that of its operands.
        """
        key = (op, kind, axis, *map(identity, args))
        if key not in self._known:
            values = [arg for arg in args if isinstance(arg, Value)]
            block = max((value.block for value in values), key=lambda block: block.depth, default=self.root)
            made = self._new(
                op,
                args,
                kind,
                block,
                is_uniform=all(value.is_uniform for value in values),
                is_finite=op in _KEEP_FINITE and all(_is_small(arg) for arg in args),
                axis=self._shared_axis(values) if axis is None else axis,
            )
            self._known[key] = made
            block.items.append(made)
        return self._known[key]

    def loop(
        self,
        kind: Literal["repeat", "while", "steps"],
        count: int,
        before: Sequence[Operand],
        kinds: Sequence[tuple[Kind, int]],
        body: Callable[[list[Value]], list[Operand]],
        num_going: int = 0,
    ) -> list[Value]:
        """Add a loop; `body` is called once, with what is carried, and returns what becomes of it.

        Args:
            kind: See `Loop`.
            count: See `Loop`.
            before: See `Loop`.
            kinds: Kind and axis of each carried value.
            body: The loop's body.
            num_going: See `Loop`.
        """
        outer = self._open[-1]
        loop = Loop(kind, count, list(before), outer.depth + 1)
        loop.num_going = num_going
        loop.carried = [
            self._new("carried", (loop, i), kind, loop.block, False, False, axis)
            for i, (kind, axis) in enumerate(kinds)
        ]
        self._open.append(loop.block)
        loop.after = body(list(loop.carried))
        self._open.pop()
        outer.items.append(loop)
        loop.results = [
            self._new("result", (loop, i), kind, outer, False, False, axis) for i, (kind, axis) in enumerate(kinds)
        ]
        return loop.results

    def log_sum_exp(self, kind: Kind, values: Sequence[Operand], axis: int = 0, *, is_extended: bool = True) -> Operand:
        """Log of a sum of exponentials, whose parts its gradient uses again.

        Args:
            kind: Of the values.
            values: At least one.
            axis: See `over`.
            is_extended: Whether infinity has an exponential, as for `torch.logsumexp`; not for `torch.softmax`, which
                is NaN there.
        """
        shift = largest = self.over("max", kind, values, axis)
        if is_extended:
            is_infinite = self.op("eq", "bool", self.op("abs", kind, largest), math.inf)
            shift = self.op("where", kind, is_infinite, 0.0, largest)
        exps = [self.op("exp", kind, self.op("sub", kind, value, shift)) for value in values]
        total = self.over("add", kind, exps, axis)
        result = self.op("add", kind, self.op("log", kind, total), shift)
        if isinstance(result, Value):
            parts = {value: exp for value, exp in zip(values, exps, strict=True) if isinstance(value, Value)}
            self._exps[result] = (parts, total)
        return result

    def tree(self, op: str, kind: Kind, values: Sequence[Operand]) -> Operand:
        """Reduce at least one value pairwise: short chains of dependence, and small rounding errors."""
        level = list(values)
        while len(level) > 1:
            pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
            level = [self.op(op, kind, *pair) if len(pair) == 2 else pair[0] for pair in pairs]
        return level[0]

    def over(self, op: str, kind: Kind, values: Sequence[Operand], axis: int = 0) -> Operand:
        """Reduce at least one value, and the long axis that they lie along, if there is one."""
        value = self.tree(op, kind, values)
        if not axis:
            return value
        if isinstance(value, Value) and value.axis == axis:
            return self.value(f"over_{op}", kind, value, axis=0)
        if op == "add":
            return self.op("mul", kind, value, float(axis) if kind in FLOATS else axis)
        if op in _IDEMPOTENT:
            return value
        raise NotTraceableError(f"a reduction of {axis} equal numbers by {op}")

    @staticmethod
    def _shared_axis(values: Sequence[Value]) -> int:
        """The long axis that values have in common."""
        axes = {value.axis for value in values} - {0}
        if len(axes) > 1:
            raise NotTraceableError(f"an operation along long axes of {' and '.join(map(str, sorted(axes)))} at once")
        return axes.pop() if axes else 0

    def softmax_part(self, kind: Kind, value: Operand, total: Operand) -> Operand | None:
        """exp(value - total) where total is a `log_sum_exp` over value: a quotient of numbers that are there."""
        known = self._exps.get(total) if isinstance(total, Value) else None
        if known is None or not isinstance(value, Value) or value not in known[0]:
            return None
        return self.op("mul", kind, known[0][value], self.op("div", kind, 1.0, known[1]))

    def _new(
        self,
        op: str,
        args: tuple[object, ...],
        kind: Kind,
        block: Block,
        is_uniform: bool,
        is_finite: bool,
        axis: int,
    ) -> Value:
        self.expect(1)
        self.num_values += 1
        return Value(self.num_values, op, args, kind, block, is_uniform, is_finite, axis)

    def _fold(self, op: str, kind: Kind, args: tuple[Operand, ...]) -> Operand | None:
        function = _FOLD.get(op)
        if function is None or any(isinstance(arg, Value) for arg in args):
            return None
        with np.errstate(all="ignore"):
            if kind in FLOATS:
                return float(_ROUNDED[kind](function(*map(np.float64, args))))  # type: ignore[arg-type]
            result = function(*args)
        return bool(result) if kind == "bool" else int(result)


class TooLargeError(Exception):
    """The program has more values than is worth while."""

    def __init__(self, max_values: int) -> None:
        super().__init__(f"it takes more than {max_values} operations on numbers, which calls for whole tensors")


def within(loop: Loop, roots: Iterable[Operand]) -> set[Value]:
    """What the body of a loop has to compute for these values, and what carried ones it reads for it."""
    needed: set[Value] = set()
    todo = [root for root in roots if isinstance(root, Value)]
    while todo:
        value = todo.pop()
        if value not in needed and value.block is loop.block:
            needed.add(value)
            todo += value.operands
    return needed


def live_values(roots: Iterable[Operand]) -> set[Value]:
    """Everything that the roots depend on."""
    live: set[Value] = set()
    todo: list[object] = list(roots)
    while todo:
        value = todo.pop()
        if not isinstance(value, Value) or value in live:
            continue
        live.add(value)
        if value.op not in ("carried", "result"):
            todo += value.args
            continue
        loop, i = value.args
        assert isinstance(loop, Loop)
        assert isinstance(i, int)
        todo += (loop.carried[i], loop.before[i], loop.after[i])
        if loop.num_going:
            todo += loop.carried[: loop.num_going]  # which bring what is before and after them
    return live


_FOLD: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x: -x,
    "abs": abs,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "floor": np.floor,
    "ceil": np.ceil,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "is_finite": np.isfinite,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "not": lambda x: not x,
    "shift_left": lambda x, y: x << y,
    "shift_right": lambda x, y: x >> y,
    "cast": lambda x: x,
}


_KEEP_FINITE = frozenset(("cast", "neg", "add", "sub", "mul", "fma"))


def identity(arg: object) -> object:
    """What tells arguments apart: values by themselves, and literals by their text, since 0.0 == -0.0 == False."""
    return arg if isinstance(arg, Value) else repr(arg)


def is_uniform(arg: object) -> bool:
    """Whether an argument is the same for all chains and steps, as literals are."""
    return not isinstance(arg, Value) or arg.is_uniform


def _is_small(arg: Operand) -> bool:
    """Whether sums and products of a few such numbers are finite."""
    return arg.is_finite if isinstance(arg, Value) else abs(arg) < 1e6


def _is(arg: Operand, number: float) -> bool:
    return not isinstance(arg, Value) and not isinstance(arg, bool) and arg == number


def _add(program: Program, kind: Kind, x: Operand, y: Operand) -> Operand | None:
    if _is(x, 0) or _is(y, 0):
        return y if _is(x, 0) else x
    collected = _collected(program, kind, x, y)
    if collected is not None:
        return collected
    for negative, other in ((y, x), (x, y)):
        if isinstance(negative, Value) and negative.op == "neg":
            return program.op("sub", kind, other, negative.args[0])  # type: ignore[arg-type]
    for product, other in ((y, x), (x, y)):
        if _may_fuse(product, other):
            assert isinstance(product, Value)
            return program.value("fma", kind, *product.args, other)
    return None


_MOST_TERMS = 8
"""Of a linear form that is collected, counted before equal values are: factors of more would not be kept in registers,
and forms of forms, as a recurrence makes them, have as many as there are ways through them.
"""

_Terms: TypeAlias = dict[Value, list[tuple[Operand, ...]]]


def _collected(program: Program, kind: Kind, x: Operand, y: Operand) -> Operand | None:
    """a v + b w + (c v + d w) is (a + c) v + (b + d) w where factors stay the same: gradients of quadratic forms."""
    ours, theirs = _terms(x), _terms(y)
    if not ours or ours.keys() != theirs.keys():
        return None
    total: Operand = 0.0
    for value, products in ours.items():
        factors = [_chained(program, kind, "mul", 1.0, product) for product in (*products, *theirs[value])]
        factor = _chained(program, kind, "add", 0.0, factors)
        total = program.op("add", kind, program.op("mul", kind, value, factor), total)
    return total


def _terms(x: Operand) -> _Terms:
    """What a linear form is made of: values, and the factors of each, by whose products' sum it is multiplied.

    Empty where there are too many, or one is constant.
    """
    terms: _Terms = {}
    num_terms = 0
    todo: list[tuple[Operand, tuple[Operand, ...]]] = [(x, ())]
    while todo:
        form, factors = todo.pop()
        if not isinstance(form, Value) or form.is_uniform or num_terms == _MOST_TERMS:
            return {}
        fixed = [i for i, arg in enumerate(form.args[:2]) if is_uniform(arg)]
        if form.op == "add":
            todo += [(arg, factors) for arg in form.args]  # type: ignore[misc]
        elif form.op == "neg":
            todo.append((form.args[0], (-1.0, *factors)))  # type: ignore[arg-type]
        elif form.op in ("mul", "fma") and fixed:
            todo.append((form.args[1 - fixed[0]], (form.args[fixed[0]], *factors)))  # type: ignore[arg-type]
            todo += [(arg, factors) for arg in form.args[2:]]  # type: ignore[misc]
        else:
            num_terms += 1
            terms.setdefault(form, []).append(factors)
    return terms


def _chained(program: Program, kind: Kind, op: str, first: Operand, others: Iterable[Operand]) -> Operand:
    return functools.reduce(lambda x, y: program.op(op, kind, x, y), others, first)


def _sub(program: Program, kind: Kind, x: Operand, y: Operand) -> Operand | None:
    if _is(y, 0):
        return x
    if _is(x, 0):
        return program.op("neg", kind, y)
    if program.softmax_part(kind, x, y) is not None:
        return None  # `_exp` is waiting for it
    if _may_fuse(y, x):
        assert isinstance(y, Value)
        one, other = y.args
        return program.value("fma", kind, program.op("neg", kind, one), other, x)  # type: ignore[arg-type]
    if _may_fuse(x, y):
        assert isinstance(x, Value)
        return program.value("fma", kind, *x.args, program.op("neg", kind, y))
    return None


def _may_fuse(product: Operand, other: Operand) -> bool:
    """Whether product + other is to be rounded once; not where the product is the same for all steps anyway."""
    if not isinstance(product, Value) or product.op != "mul" or product.kind not in FLOATS:
        return False
    return not product.is_uniform or is_uniform(other)


def _mul(program: Program, kind: Kind, x: Operand, y: Operand) -> Operand | None:
    (one, scale), (another, inverse) = _scaled(x), _scaled(y)
    if scale != 1 and scale * inverse == 1:
        return program.op("mul", kind, one, another)
    for number, other in ((x, y), (y, x)):
        scaled, scale = _scaled(other)
        if scale != 1 and (not isinstance(number, Value) or (number.is_uniform and not is_uniform(scaled))):
            return program.op("mul", kind, scaled, program.op("mul", kind, number, scale))
        if isinstance(number, Value):
            continue
        if _is(number, 1):
            return other
        if _is(number, -1):
            return program.op("neg", kind, other)
        if _is(number, 0) and (kind == "int" or (isinstance(other, Value) and other.is_finite)):
            return 0.0 if kind in FLOATS else 0
        if isinstance(other, Value) and other.op == "neg":
            return program.op("mul", kind, other.args[0], -number)  # type: ignore[arg-type]
    return None


_POWERS = frozenset(2.0**n for n in range(-8, 9))


def _scaled(x: Operand) -> tuple[Operand, float]:
    """v and 2**n where x is v 2**n, by which nothing is rounded, in whatever order; else x and 1.

    With few n, so that what comes in between leaves the range of floats only where the result all but does.
    """
    if isinstance(x, Value) and x.op == "mul" and x.kind in FLOATS:
        for number, other in (x.args, x.args[::-1]):
            if isinstance(number, float) and abs(number) in _POWERS:
                return other, number  # type: ignore[return-value]
    return x, 1.0


def _div(program: Program, kind: Kind, x: Operand, y: Operand) -> Operand | None:
    """Divisors that stay the same are inverted once."""
    if _is(y, 1):
        return x
    if not isinstance(y, Value):
        inverse = 1 / y if y else math.inf
        is_normal = 1e-30 < abs(inverse) < 1e30
        return program.op("mul", kind, x, inverse) if is_normal and isinstance(x, Value) else None
    if y.is_uniform and not _is(x, 1) and not (isinstance(x, Value) and x.is_uniform):
        return program.op("mul", kind, x, program.op("div", kind, 1.0, y))
    return None


def _neg(program: Program, kind: Kind, x: Operand) -> Operand | None:
    return x.args[0] if isinstance(x, Value) and x.op == "neg" else None  # type: ignore[return-value]


def _not(program: Program, kind: Kind, x: Operand) -> Operand | None:
    return x.args[0] if isinstance(x, Value) and x.op == "not" else None  # type: ignore[return-value]


def _where(program: Program, kind: Kind, condition: Operand, x: Operand, y: Operand) -> Operand | None:
    if not isinstance(condition, Value):
        return x if condition else y
    if identity(x) == identity(y):
        return x
    if condition.op == "not":
        return program.op("where", kind, condition.args[0], y, x)  # type: ignore[arg-type]
    return None


def _and(program: Program, kind: Kind, x: Operand, y: Operand) -> Operand | None:
    return _with_literal(kind, x, y, neutral=True)


def _or(program: Program, kind: Kind, x: Operand, y: Operand) -> Operand | None:
    return _with_literal(kind, x, y, neutral=False)


def _with_literal(kind: Kind, x: Operand, y: Operand, *, neutral: bool) -> Operand | None:
    if x is y:
        return x
    for literal, other in ((x, y), (y, x)):
        if kind == "bool" and not isinstance(literal, Value):
            return other if bool(literal) is neutral else not neutral
    return None


def _cast(program: Program, kind: Kind, x: Operand) -> Operand | None:
    if not isinstance(x, Value):
        return None
    if x.kind == kind:
        return x
    is_widened = x.op == "cast" and x.kind == "f64" and isinstance(x.args[0], Value) and x.args[0].kind == kind == "f32"
    return x.args[0] if is_widened else None  # type: ignore[return-value]


def _exp(program: Program, kind: Kind, x: Operand) -> Operand | None:
    if isinstance(x, Value) and x.op == "sub":
        return program.softmax_part(kind, *x.args)  # type: ignore[arg-type]
    return None


_SIMPLIFY: dict[str, Callable[..., Operand | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "not": _not,
    "where": _where,
    "and": _and,
    "or": _or,
    "cast": _cast,
    "exp": _exp,
}
