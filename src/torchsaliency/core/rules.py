"""Backward passes by rules of one's own, through an unmodified network, however it is written.

A sum of products can be spelled in many ways (`linear`, `einsum`, `addmm`, a traced or exported
module, a function of one's own), and a rule must hold for all of them. They meet in the operations
of ATen: a `Recording` writes these down while the network runs, and `backward` runs autograd's own
graph with some operations' gradients replaced by what a rule makes of them. A rule is any callable
that takes an `Operation`, the relevance of its output and its ordinary gradients, and returns what
its inputs are given; a table of rules is a mapping from operations' names.

Custom functions (`torch.autograd.Function`) are looked into: the operations of their forward pass
are run again with a graph, and the rules hold in there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import CheckpointError
from torch.utils.weak import TensorWeakRef

from torchsaliency.core.maps import wide
from torchsaliency.errors import LayerError

Gradients = Sequence[Tensor | None]
"""One for each input (or output) of an operation that can have a gradient, in ATen's order."""

Rule = Callable[["Operation", Gradients, Gradients], Gradients]
"""From an operation, what its outputs were given and its ordinary gradients, to what its inputs are
given. What is missing at the end counts as None: nothing."""

_ABSORBING = frozenset(
    {"cat", "stack", "where", "masked_fill", "constant_pad_nd", "index_put", "scatter", "fill"}
    | {"slice_scatter", "select_scatter", "copy", "zero", "index_copy", "max", "min", "maximum"}
    | {"minimum", "clamp", "clamp_min", "clamp_max", "_index_put_impl", "masked_scatter"}
)
"""Operations in which a constant may take the place of an input, and its relevance."""

_LOSS = 1e-3
"""How much of its relevance an operation without a rule may lose or add, relative to all of it."""


@final
@dataclass(eq=False)
class Operation:
    """One operation of a recorded pass.

    Tensors are out of the graph, and as they were before the operation.

    Attributes:
        name: ATen's, without overload and without the underscore of work in place.
        call: what was called, repeatable.
        args: by place.
        options: by name.
        out: the result.
        parents: for every input that can have a gradient, the operation that made it; None for what
            was there before.
        consumers: how many operations read the result.
        active: whether an input's gradient is wanted, for all tensors among the arguments.
        origin: the operation that this one repeats, inside a custom function.
    """

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    out: Any = None
    parents: tuple[Operation | None, ...] = ()
    consumers: int = 0
    active: tuple[bool, ...] = ()
    origin: Operation | None = None

    @property
    def source(self) -> Operation:
        """The operation itself, or the one that it repeats."""
        return self if self.origin is None else self.origin.source

    def given(self, name: str, default: Any = None) -> Any:
        """Return an argument by the name that ATen gives it."""
        schema = self.call._schema.arguments  # type: ignore[attr-defined]  # OpOverload
        names = [one.name for one in schema]
        if name in self.options:
            return self.options[name]
        if name not in names:
            return default
        place = names.index(name)
        if place < len(self.args):
            return self.args[place]
        return schema[place].default_value if schema[place].has_default_value() else default


@final
@dataclass(frozen=True)
class _Part:
    """Where in its base a view lies, whose numbers an operation changed in place."""

    operation: Operation
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@final
class Recording(TorchDispatchMode):
    """Writes down the operations of a pass, with their inputs and outputs, while it is active.

    Args:
        values: whether tensors are kept; without, rules see shapes' arguments and gradients alone.

    Attributes:
        operations: that gradients may go through, in the order in which they ran.
    """

    def __init__(self, *, values: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._values = values
        self._made: dict[int, tuple[TensorWeakRef, Operation | _Part]] = {}  # by the result's id
        self._of: dict[Any, Operation | _Part | None] = {}  # by the node of the graph
        self._inner: dict[int, list[_Inner]] = {}  # by the number of the next node
        self._holding: dict[int, list[Operation]] = {}  # by the storage of a kept value

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and write it down."""
        del types
        options = kwargs or {}
        tensors = _tensors((args, options))
        for one in tensors:
            self._note(one)
        hidden = not torch.is_grad_enabled()
        if not (hidden or any(one.requires_grad for one in tensors)):
            return func(*args, **options)
        written = _written(func, args, options)
        for one in written:
            self._protect(one)
        kept = self._kept(written)
        operation = Operation(
            name=func._schema.name.partition("::")[2].removesuffix("_"),
            call=func,
            args=tree_map(kept, args),
            options=tree_map(kept, options),
            active=tuple(one.requires_grad for one in tensors),
        )
        out = func(*args, **options)
        operation.out = tree_map(_apart if self._values or hidden else _nothing, out)
        self._keep(operation, tensors, out, hidden=hidden)
        if not hidden:
            for one in _tensors(out):
                self._made[id(one)] = TensorWeakRef(one), operation
            for one in written:
                self._change(one, operation)
        return out

    @property
    def hidden(self) -> list[Operation]:
        """The operations that ran without a graph: those of custom functions, in their order."""
        return [one.operation for inner in self._inner.values() for one in inner]

    def operation_of(self, node: Any) -> Operation | _Part | None:
        """Return what a node of the graph stands for, None if that is unknown."""
        return self._of.get(node)

    def inner_of(self, node: Any) -> list[_Inner]:
        """Return the operations of a custom function's forward pass."""
        return self._inner.get(node._sequence_nr() + 1, [])

    def note(self, tensor: Tensor) -> None:
        """Remember which operation made a tensor that no other operation reads."""
        self._note(tensor)

    def _note(self, tensor: Tensor) -> None:
        for one in (tensor, tensor._base):
            if one is not None and one.grad_fn is not None and one.grad_fn not in self._of:
                held, maker = self._made.get(id(one), (None, None))
                # another tensor may have got the identity of one that is gone
                self._of[one.grad_fn] = maker if held is not None and held() is one else None

    def _kept(self, written: Sequence[Tensor]) -> Callable[[Any], Any]:
        """Return what is done with each argument: a tensor is kept as it is now."""
        changed = {id(one) for one in written}
        if not self._values and torch.is_grad_enabled():
            return _nothing
        return lambda one: _apart(one).clone() if id(one) in changed else _apart(one)

    def _keep(
        self, operation: Operation, tensors: Sequence[Tensor], out: Any, *, hidden: bool
    ) -> None:
        for one in _tensors((operation.args, operation.options)):
            self._holding.setdefault(_storage(one), []).append(operation)
        if hidden:
            number = torch._C._autograd._get_sequence_nr()
            inner = _Inner(operation, tensors, [_origin(one) for one in tensors], out)
            self._inner.setdefault(number, []).append(inner)
        else:
            self.operations.append(operation)

    def _protect(self, tensor: Tensor) -> None:
        """Copy what is kept of a storage, before it is written to."""
        place = _storage(tensor)
        for operation in self._holding.pop(place, ()):

            def fresh(one: Any) -> Any:
                shared = isinstance(one, Tensor) and _storage(one) == place
                return one.clone() if shared else one

            operation.args = tree_map(fresh, operation.args)
            operation.options = tree_map(fresh, operation.options)
            operation.out = tree_map(fresh, operation.out)

    def _change(self, tensor: Tensor, operation: Operation) -> None:
        """Remember that an operation changed a tensor in place, perhaps as a part of another."""
        self._made[id(tensor)] = TensorWeakRef(tensor), operation
        base = tensor._base
        if base is not None:
            offset = int(tensor.storage_offset() - base.storage_offset())
            part = _Part(operation, tuple(tensor.shape), tensor.stride(), offset)
            self._made[id(base)] = TensorWeakRef(base), part
            self._made.pop(id(tensor))  # its own node is a view's, made anew


@final
@dataclass(frozen=True, eq=False)
class _Inner:
    """One operation inside a custom function, the tensors it read and made, and where from."""

    operation: Operation
    tensors: Sequence[Tensor]
    origins: list[tuple[Any, int]]
    out: Any

    @property
    def ids(self) -> list[int]:
        """What stands for the tensors that were read."""
        return [id(one) for one in self.tensors]


def backward(
    score: Tensor,
    sources: Sequence[Tensor],
    recording: Recording,
    rules: Mapping[str, Rule],
    *,
    weight: Tensor | None = None,
    conserves: str = "",
) -> list[Tensor]:
    """Return what the rules bring from a score to its sources.

    Args:
        score: of any shape, made while the recording was active.
        sources: leaves of its graph.
        recording: of that pass.
        rules: by the name of an operation. All others run backward as a gradient.
        weight: what each number of the score begins with; 1 by default.
        conserves: the name of a method that shares the score out: an operation without a rule may
            then only move relevance about, and one that loses or adds some is an error.

    Raises:
        LayerError: a custom function cannot be looked into, the graph is checkpointed in a way that
            hides it, or an operation without a rule would change the relevance.
    """
    if score.grad_fn is None:
        return [torch.zeros_like(one) for one in sources]
    recording.note(score)
    graph = _Graph(recording, rules, conserves)
    with ExitStack() as stack:
        for node in graph.nodes(score.grad_fn):
            hook = graph.hook(node)
            if hook is not None:
                stack.callback(node.register_hook(hook).remove)
        begin = torch.ones_like(score) if weight is None else weight.to(score)
        found = gradients(score, sources, begin)
    graph.insist_on_conservation()
    return [
        torch.zeros_like(one) if part is None else part
        for one, part in zip(sources, found, strict=True)
    ]


def gradients(
    scores: Tensor, sources: Sequence[Tensor], weight: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Return Σ weight · ∂scores/∂source through a network, None where it does not depend on one.

    Raises:
        LayerError: reentrant checkpointing hides the graph, or the source lies inside a stretch
            that checkpointing runs again.
    """
    try:
        return torch.autograd.grad(scores, sources, weight, allow_unused=True)
    except CheckpointError as error:
        raise LayerError(
            "What is read lies inside a stretch of the network that gradient checkpointing runs "
            "again; turn checkpointing off, or name a layer outside of it."
        ) from error
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise LayerError(
            "The network runs under reentrant gradient checkpointing, which allows no gradients of "
            "its layers; turn it off, or give checkpoint(…, use_reentrant=False)."
        ) from error


@final
@dataclass(eq=False)
class _Graph:
    """Autograd's graph with the rules for its nodes."""

    recording: Recording
    rules: Mapping[str, Rule]
    conserves: str
    losses: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)

    def nodes(self, last: Any) -> list[Any]:
        """Return all nodes that the score depends on, and tell operations who reads them."""
        found: dict[Any, None] = {}
        waiting = [last]
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found[node] = None
            before = [one for one, _ in node.next_functions]
            waiting += [one for one in before if one is not None]
            parents = [None if one is None else self._operation(one) for one in before]
            own = self._operation(node)
            if own is not None:
                own.parents = tuple(parents)
            for parent in parents:
                if parent is not None:
                    parent.consumers += 1
        return list(found)

    def hook(self, node: Any) -> Callable[[Gradients, Gradients], Gradients | None] | None:
        """Return what takes the place of a node's gradients, None for nothing."""
        if "AccumulateGrad" in node.name():
            return None
        if isinstance(node, BackwardCFunction):
            return self._inside(node)
        known = self.recording.operation_of(node)
        operation = known.operation if isinstance(known, _Part) else known
        rule = None if operation is None else self.rules.get(operation.name)
        if operation is None or rule is None:
            return partial(self._watched, node.name(), operation) if self.conserves else None
        if isinstance(known, _Part):
            return partial(_in_part, partial(rule, operation), known)
        if node.name() == "CopySlices":
            raise _unseen(f"work in place on a part of a tensor ({operation.name})", self.conserves)
        return partial(_ruled, partial(rule, operation))

    def _operation(self, node: Any) -> Operation | None:
        known = self.recording.operation_of(node)
        return known.operation if isinstance(known, _Part) else known

    # --- operations without a rule -------------------------------------------------------------

    def _watched(
        self, name: str, operation: Operation | None, plain: Gradients, given: Gradients
    ) -> None:
        """Note what an operation without a rule does to the relevance that goes through it."""
        if operation is not None and operation.name in _ABSORBING:
            return
        out, into = ([one for one in some if one is not None] for some in (given, plain))
        if out and into:
            lost = _total(out) - _total(into)
            label = name.rstrip("0123456789").removesuffix("Backward")
            label = label if operation is None else operation.name
            self.losses.append((label, lost, _total([one.abs() for one in out])))

    def insist_on_conservation(self) -> None:
        """Insist that every operation without a rule handed on what it was given.

        Raises:
            LayerError: one did not.
        """
        if not self.losses:
            return
        device = self.losses[0][1].device
        lost = torch.stack([one.to(device, torch.float32).abs() for _, one, _ in self.losses])
        whole = torch.stack([one.to(device, torch.float32) for _, _, one in self.losses])
        largest = whole[whole.isfinite()].amax().clamp_min(torch.finfo(torch.float32).tiny)
        wrong = (lost > _LOSS * torch.maximum(whole, 1e-6 * largest)).nonzero()[:, 0].tolist()
        if wrong:
            raise _unseen(self.losses[wrong[0]][0], self.conserves)

    # --- custom functions ----------------------------------------------------------------------

    def _inside(self, node: Any) -> Callable[[Gradients, Gradients], Gradients]:
        """Return what hands relevance back through a custom function, by the rules inside it."""
        inner = self.recording.inner_of(node)
        places = _places(node, inner)
        name = node.name().removesuffix("Backward")
        if not _reaches(node, inner, places):
            raise _unseen(
                f"the custom function {name}, whose inside cannot be seen", self.conserves
            )
        steps = [(one.operation, one.ids, _ids(one.out)) for one in inner]
        last = next(
            (step[0], place)
            for step, one in zip(reversed(steps), reversed(inner), strict=True)
            for place, tensor in enumerate(_tensors(one.out))
            if tensor.grad_fn is node
        )
        return partial(_replayed, steps, places, last, self.rules, self.conserves)


def _replayed(
    steps: Sequence[tuple[Operation, list[int], list[int]]],
    places: Sequence[tuple[int, Tensor] | None],
    last: tuple[Operation, int],
    rules: Mapping[str, Rule],
    conserves: str,
    plain: Gradients,
    given: Gradients,
) -> Gradients:
    """Run a custom function's operations again with a graph, and hand relevance back through it."""
    if given[0] is None:
        return plain
    leaves = [None if one is None else one[1].clone().requires_grad_() for one in places]
    known: dict[int, Tensor] = {
        one[0]: leaf
        for one, leaf in zip(places, leaves, strict=True)
        if one is not None and leaf is not None
    }
    with torch.enable_grad(), Recording() as again:
        known = {key: value.clone() for key, value in known.items()}  # may be written to
        for operation, ids, outs in steps:
            renewed = partial(_renewed, known, iter(ids))
            args, options = tree_map(renewed, (operation.args, operation.options))
            before = len(again.operations)
            made = operation.call(*args, **options)
            for new in again.operations[before:]:
                new.origin = operation
            known |= dict(zip(outs, _tensors(made), strict=True))
            if operation is last[0]:
                result = _tensors(made)[last[1]]
    sources = [one for one in leaves if one is not None]
    found = iter(backward(result, sources, again, rules, weight=given[0], conserves=conserves))
    return tuple(None if one is None else next(found) for one in leaves)


def _renewed(known: Mapping[int, Tensor], ids: Iterator[int], one: Any) -> Any:
    """Return what stands for a tensor when operations are repeated."""
    return known.get(next(ids), one) if isinstance(one, Tensor) else one


def _places(node: Any, inner: Sequence[_Inner]) -> list[tuple[int, Tensor] | None]:
    """Return for every input of a custom function which tensor it is inside."""
    found: list[tuple[int, Tensor] | None] = []
    for before, number in node.next_functions:
        match = None
        for one in inner:
            values = _tensors((one.operation.args, one.operation.options))
            for tensor, origin, value in zip(one.tensors, one.origins, values, strict=True):
                made_here = origin == (before, number) or (
                    origin[0] is None and getattr(before, "variable", None) is tensor
                )
                if match is None and before is not None and made_here:
                    match = id(tensor), value
        found.append(match)
    return found


def _origin(tensor: Tensor) -> tuple[Any, int]:
    """Return the node that made a tensor, which work in place changes, and which of its results."""
    return tensor.grad_fn, tensor.output_nr


def _reaches(
    node: Any, inner: Sequence[_Inner], places: Sequence[tuple[int, Tensor] | None]
) -> bool:
    """Whether a custom function's result is made of its inputs by operations that were seen."""
    made = {one[0] for one in places if one is not None}
    for one in inner:
        if made.intersection(one.ids):
            if _is_of(one.out, node):
                return True
            made.update(_ids(one.out))
    return False


def _is_of(out: Any, node: Any) -> bool:
    return any(one.grad_fn is node for one in _tensors(out))


def _ruled(rule: Callable[..., Gradients], plain: Gradients, given: Gradients) -> Gradients:
    """Call a rule, give what it leaves out nothing, and keep the gradients' precision."""
    if all(one is None for one in given):
        return plain
    made = list(rule(given, plain))
    filled = [*made, *[None] * (len(plain) - len(made))]
    return tuple(
        None if old is None else torch.zeros_like(old) if new is None else new.to(old.dtype)
        for new, old in zip(filled, plain, strict=True)
    )


def _in_part(
    rule: Callable[..., Gradients], part: _Part, plain: Gradients, given: Gradients
) -> Gradients:
    """Call the rule of work in place on a part of a tensor."""
    (whole,) = (one for one in given if one is not None)

    def laid(one: Tensor) -> tuple[Tensor, Tensor]:
        """Copy a gradient of the whole as the whole is laid out, and cut the part out of it."""
        strided = torch.empty_strided(
            whole.shape, whole.stride(), dtype=one.dtype, device=one.device
        )
        return strided, strided.copy_(one).as_strided(part.size, part.stride, part.offset)

    rest, region = laid(whole)
    first = None if plain[0] is None else laid(plain[0])[1]
    made = _ruled(rule, (first, *plain[1:]), (region.clone(),))
    region.copy_(torch.zeros_like(region) if made[0] is None else made[0])
    return (None if plain[0] is None else rest, *made[1:])


def _unseen(what: str, method: str) -> LayerError:
    return LayerError(
        f"{method or 'The method'} has no rule for {what}, which this network runs; choose "
        "integrated-gradients, or a class activation map such as gradcam."
    )


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


def _ids(values: Any) -> list[int]:
    return [id(one) for one in _tensors(values)]


def _apart(one: Any) -> Any:
    return one.detach() if isinstance(one, Tensor) else one


def _nothing(one: Any) -> Any:
    return None if isinstance(one, Tensor) else one


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of all numbers, in float32 or better."""
    numbers = [torch.view_as_real(one) if one.is_complex() else one for one in parts]
    return torch.stack([wide(one.detach()).sum() for one in numbers]).sum()


def _written(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation changes."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else options.get(argument.name)
            found += _tensors(value)
    return found
