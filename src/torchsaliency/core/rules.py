"""Backward passes by rules, through an unmodified network, however it is written.

A sum of products can be spelled in many ways (`linear`, `einsum`, `addmm`, a traced or exported
module, a function of the user's), and a rule must hold for all of them. They meet in the operations
of ATen: a `Recording` keeps these while the network runs, and `backward` runs autograd's graph with
some operations' gradients replaced by what a rule makes of them. A rule is any callable that takes
a `Step` and returns what the operation's inputs receive; a table of rules is a mapping from names
of operations, perhaps inside one layer. An `Observer` shows operations as they run.

Custom functions (`torch.autograd.Function`) are opened: the operations of their forward pass run
again with a graph, and the rules hold inside them too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import CheckpointError
from torch.utils.weak import TensorWeakRef

from torchsaliency.core.maps import upcast
from torchsaliency.errors import LayerError

Gradients = Sequence[Tensor | None]
"""One for each input (or output) of an operation that can have a gradient, in ATen's order."""

Rule = Callable[["Step"], Gradients]
"""From one step of the backward pass to what the operation's inputs receive. What is missing at the
end counts as None: nothing."""

Rules = Mapping[str, Rule]
"""By the name of an operation ("convolution"), or of one inside a layer ("layer1.0:convolution"),
which comes first; of several such layers the innermost."""

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
    """One operation of a pass.

    In a recording, tensors are out of the graph, and as they were before the operation.

    Attributes:
        name: ATen's, without overload and without the underscore of work in place.
        call: what was called, repeatable.
        args: by position.
        options: by name.
        out: the result.
        active: for each tensor among the arguments, whether its gradient is wanted.
        layers: the layers named in rules that it runs in, the innermost first.
        origin: the operation that this one repeats, inside a custom function.
    """

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    out: Any = None
    active: tuple[bool, ...] = ()
    layers: tuple[str, ...] = ()
    origin: Operation | None = None

    @property
    def source(self) -> Operation:
        """The operation itself, or the one that it repeats."""
        return self if self.origin is None else self.origin.source

    def argument(self, name: str, default: Any = None) -> Any:
        """Return an argument by the name that ATen gives it."""
        if name in self.options:
            return self.options[name]
        schema = self.call._schema.arguments  # type: ignore[attr-defined]  # OpOverload
        for place, argument in enumerate(schema):
            if argument.name == name:
                if place < len(self.args):
                    return self.args[place]
                return argument.default_value if argument.has_default_value() else default
        return default

    def is_active(self, place: int) -> bool:
        """Whether the gradient of an argument is wanted."""
        if place >= len(self.args) or not isinstance(self.args[place], Tensor):
            return False
        return self.active[sum(isinstance(value, Tensor) for value in self.args[:place])]


@final
@dataclass(frozen=True, eq=False)
class Step:
    """The backward pass through one operation: what a rule is given.

    Attributes:
        operation: with its inputs and outputs, as recorded.
        relevance: what its (first) output received.
        gradients: what its inputs would receive without the rule.
    """

    operation: Operation
    relevance: Tensor
    gradients: Gradients
    _graph: _Graph

    @property
    def count(self) -> int:
        """How many images the recorded pass had."""
        return self._graph.whole.count

    def consumers_of(self, operation: Operation | None = None) -> Sequence[Operation | None]:
        """Return what reads the result (of another operation), None for what was not recorded."""
        return self._graph.consumers.get(operation or self.operation, ())

    def parents_of(self, operation: Operation | None = None) -> Sequence[Operation | None]:
        """Return what made each input that can have a gradient, None for what was there before."""
        return self._graph.parents.get(operation or self.operation, ())

    def has_rule(self, operation: Operation) -> bool:
        """Whether the table has a rule for another operation."""
        return self._graph.rule_of(operation) is not None

    def is_first(self, names: Collection[str]) -> bool:
        """Whether no operation of these names with an active input ran earlier."""
        operations = self._graph.whole.operations
        found = (other for other in operations if other.name in names and other.active[0])
        return self.operation.source is next(found, None)


@final
class Observer(TorchDispatchMode):
    """Shows each operation of some names to a function once it has run, and changes nothing.

    Args:
        table: functions by the names of operations. They see tensors inside the graph.
    """

    def __init__(self, table: Mapping[str, Callable[[Operation], None]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._table = table

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and show it."""
        del types
        out = func(*args, **(kwargs or {}))
        show = self._table.get(_name_of(func))
        if show is not None:
            show(Operation(_name_of(func), func, args, kwargs or {}, out))
        return out


@final
@dataclass(frozen=True)
class _Part:
    """Where in its base a view lies, whose numbers an operation changed in place."""

    operation: Operation
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@final
@dataclass(frozen=True, eq=False)
class _Inner:
    """One operation inside a custom function, the tensors it read and made, and where from."""

    operation: Operation
    tensors: Sequence[Tensor]
    origins: list[tuple[Any, int]]
    out: Any


@final
class Recording(TorchDispatchMode):
    """Keeps the operations of a pass, with their inputs and outputs, while it is active.

    Args:
        count: how many images the pass has.
        values: whether tensors are kept; without, rules see sizes and gradients alone.

    Attributes:
        operations: that gradients may go through, in the order in which they ran.
    """

    def __init__(self, count: int = 1, *, values: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = count
        self.operations: list[Operation] = []
        self._values = values
        self._layers: tuple[str, ...] = ()
        self._makers: dict[int, tuple[TensorWeakRef, Operation | _Part]] = {}  # by the result's id
        self._nodes: dict[Any, Operation | _Part | None] = {}  # by the node of the graph
        self._inner: dict[int, list[_Inner]] = {}  # by the number of the next node
        self._holders: dict[int, list[Operation]] = {}  # by the storage of a kept value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and keep it."""
        del types
        options = kwargs or {}
        tensors = _tensors((args, options))
        for tensor in tensors:
            self.note(tensor)
        hidden = not torch.is_grad_enabled()
        active = tuple(tensor.requires_grad for tensor in tensors)
        if not (hidden or any(active)):
            return func(*args, **options)
        written = _find_written(func, args, options)
        for tensor in written:
            self._protect(tensor)
        keep = _detach if self._values or hidden else _drop
        changed = {id(tensor) for tensor in written}

        def before(value: Any) -> Any:
            kept = keep(value)
            return kept.clone() if id(value) in changed and kept is not None else kept

        operation = Operation(
            name=_name_of(func),
            call=func,
            args=tree_map(before, args),
            options=tree_map(before, options),
            active=active,
            layers=self._layers,
        )
        out = func(*args, **options)
        operation.out = tree_map(keep, out)
        for tensor in _tensors((operation.args, operation.options)):
            self._holders.setdefault(_storage(tensor), []).append(operation)
        if hidden:
            origins = [(tensor.grad_fn, tensor.output_nr) for tensor in tensors]
            inner = self._inner.setdefault(torch._C._autograd._get_sequence_nr(), [])
            inner.append(_Inner(operation, tensors, origins, out))
            return out
        self.operations.append(operation)
        for tensor in _tensors(out):
            self._makers[id(tensor)] = TensorWeakRef(tensor), operation
        for tensor in written:
            self._change(tensor, operation)
        return out

    @contextmanager
    def in_layers(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Note of each operation inside the context which of these layers it runs in."""

        def enter(name: str, *unused: Any) -> None:
            del unused
            self._layers = (name, *self._layers)

        def leave(*unused: Any) -> None:
            del unused
            self._layers = self._layers[1:]

        with ExitStack() as stack:
            stack.callback(setattr, self, "_layers", ())
            for name, module in modules.items():
                stack.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
                stack.callback(module.register_forward_hook(leave).remove)
            yield

    @property
    def hidden(self) -> list[Operation]:
        """The operations that ran without a graph: those of custom functions, in their order."""
        return [inner.operation for group in self._inner.values() for inner in group]

    def note(self, tensor: Tensor) -> None:
        """Remember which operation made a tensor."""
        for made in (tensor, tensor._base):
            if made is not None and made.grad_fn is not None and made.grad_fn not in self._nodes:
                known, maker = self._makers.get(id(made), (None, None))
                # another tensor may have got the identity of one that is gone
                same = known is not None and known() is made
                self._nodes[made.grad_fn] = maker if same else None

    def _protect(self, tensor: Tensor) -> None:
        """Copy what is kept of a storage, before it is written to."""
        place = _storage(tensor)

        def copied(value: Any) -> Any:
            shared = isinstance(value, Tensor) and _storage(value) == place
            return value.clone() if shared else value

        for operation in self._holders.pop(place, ()):
            operation.args = tree_map(copied, operation.args)
            operation.options = tree_map(copied, operation.options)
            operation.out = tree_map(copied, operation.out)

    def _change(self, tensor: Tensor, operation: Operation) -> None:
        """Remember that an operation changed a tensor in place, perhaps as a part of another."""
        self._makers[id(tensor)] = TensorWeakRef(tensor), operation
        base = tensor._base
        if base is not None:
            offset = int(tensor.storage_offset() - base.storage_offset())
            part = _Part(operation, tuple(tensor.shape), tensor.stride(), offset)
            self._makers[id(base)] = TensorWeakRef(base), part
            self._makers.pop(id(tensor))  # its own node is a view's, made anew


def backward(
    score: Tensor,
    sources: Sequence[Tensor],
    recording: Recording,
    rules: Rules,
    *,
    weight: Tensor | None = None,
    conserves: str = "",
) -> list[Tensor]:
    """Return what the rules bring from a score to its sources.

    Args:
        score: of any shape, made while the recording was active.
        sources: leaves of its graph.
        recording: of that pass.
        rules: by operation. All others run backward as a gradient.
        weight: what each number of the score begins with; 1 by default.
        conserves: the name of a method that shares the score out: an operation without a rule may
            then only move relevance about, and one that loses or adds some is an error.

    Raises:
        LayerError: a custom function cannot be opened, the graph is checkpointed in a way that
            hides it, or an operation without a rule would change the relevance.
    """
    graph = _Graph(recording, recording, rules, conserves)
    return graph.backward(score, sources, torch.ones_like(score) if weight is None else weight)


def differentiate(
    scores: Tensor,
    sources: Sequence[Tensor],
    weight: Tensor | None = None,
    *,
    keep_graph: bool = False,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return Σ weight · ∂scores/∂source through a network, None where it does not depend on one.

    Args:
        scores: of any shape.
        sources: what they depend on.
        weight: of each score; may be left out for one number.
        keep_graph: whether other scores of the same graph are differentiated later.
        create_graph: whether what is returned is differentiated later.

    Raises:
        LayerError: reentrant checkpointing hides the graph, or the source lies inside a stretch
            that checkpointing runs again.
    """
    try:
        return torch.autograd.grad(
            scores,
            sources,
            weight,
            retain_graph=keep_graph or create_graph,
            create_graph=create_graph,
            allow_unused=True,
        )
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
    """Autograd's graph with the rules for its nodes.

    Attributes:
        recording: of the operations in this graph.
        whole: of the network's pass, where the recording is of a custom function inside it.
        rules: as `backward`.
        conserves: as `backward`.
        parents: of every operation, in the order of its active inputs.
        consumers: of every operation.
        opened: the names of the operations of the custom function that is repeated, if one is.
        losses: of each operation without a rule: its name, what it lost, and of how much.
    """

    recording: Recording
    whole: Recording
    rules: Rules
    conserves: str
    opened: tuple[str, ...] = ()
    parents: dict[Operation, list[Operation | None]] = field(default_factory=dict)
    consumers: dict[Operation, list[Operation | None]] = field(default_factory=dict)
    losses: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)

    def backward(self, score: Tensor, sources: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
        """Run backward, as the function of that name."""
        if score.grad_fn is None:
            return [torch.zeros_like(source) for source in sources]
        self.recording.note(score)
        with ExitStack() as stack:
            for node in self._connect(score.grad_fn):
                hook = self._hook(node)
                if hook is not None:
                    stack.callback(node.register_hook(hook).remove)
            found = differentiate(score, sources, weight.to(score))
        self._require_conservation()
        return [
            torch.zeros_like(source) if part is None else part
            for source, part in zip(sources, found, strict=True)
        ]

    def rule_of(self, operation: Operation) -> Rule | None:
        """Return the rule of an operation, None if it has none."""
        for layer in operation.source.layers:
            rule = self.rules.get(f"{layer}:{operation.name}")
            if rule is not None:
                return rule
        return self.rules.get(operation.name)

    def _connect(self, last: Any) -> list[Any]:
        """Return all nodes that the score depends on, and note which operations they join."""
        found: dict[Any, None] = {}
        waiting = [last]
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found[node] = None
            before = [parent for parent, _ in node.next_functions]
            waiting += [parent for parent in before if parent is not None]
            parents = [None if parent is None else self._operation(parent) for parent in before]
            consumer = self._operation(node)
            if consumer is not None:
                self.parents[consumer] = parents
            for parent in parents:
                if parent is not None:
                    self.consumers.setdefault(parent, []).append(consumer)
        return list(found)

    def _operation(self, node: Any) -> Operation | None:
        known = self.recording._nodes.get(node)
        return known.operation if isinstance(known, _Part) else known

    def _hook(self, node: Any) -> Callable[[Gradients, Gradients], Gradients | None] | None:
        """Return what takes the place of a node's gradients, None for nothing."""
        if "AccumulateGrad" in node.name():
            return None
        if isinstance(node, BackwardCFunction):
            return self._open(node)
        operation = self._operation(node)
        rule = None if operation is None else self.rule_of(operation)
        if operation is None or rule is None:
            return partial(self._watch, node.name(), operation) if self.conserves else None
        known = self.recording._nodes.get(node)
        if isinstance(known, _Part):
            return partial(self._apply_in_part, rule, known)
        if node.name() == "CopySlices":
            raise _unseen(f"work in place on a part of a tensor ({operation.name})", self.conserves)
        return partial(self._apply, rule, operation)

    # --- operations with a rule ----------------------------------------------------------------

    def _apply(
        self, rule: Rule, operation: Operation, plain: Gradients, given: Gradients
    ) -> Gradients:
        """Call a rule, give what it leaves out nothing, and keep the gradients' precision."""
        if given[0] is None:
            return plain
        made = list(rule(Step(operation, given[0], plain, self)))
        made += [None] * (len(plain) - len(made))
        return tuple(
            None if old is None else torch.zeros_like(old) if new is None else new.to(old.dtype)
            for new, old in zip(made, plain, strict=True)
        )

    def _apply_in_part(
        self, rule: Rule, part: _Part, plain: Gradients, given: Gradients
    ) -> Gradients:
        """Call the rule of work in place on a part of a tensor."""
        (whole,) = (gradient for gradient in given if gradient is not None)

        def cut(gradient: Tensor) -> tuple[Tensor, Tensor]:
            """Copy a gradient of the whole as the whole is laid out, and cut the part out of it."""
            strided = torch.empty_strided(
                whole.shape, whole.stride(), dtype=gradient.dtype, device=gradient.device
            )
            strided.copy_(gradient)
            return strided, strided.as_strided(part.size, part.stride, part.offset)

        rest, region = cut(whole)
        first = None if plain[0] is None else cut(plain[0])[1]
        made = self._apply(rule, part.operation, (first, *plain[1:]), (region.clone(),))
        region.copy_(torch.zeros_like(region) if made[0] is None else made[0])
        return (None if plain[0] is None else rest, *made[1:])

    # --- operations without a rule -------------------------------------------------------------

    def _watch(
        self, node: str, operation: Operation | None, plain: Gradients, given: Gradients
    ) -> None:
        """Note what an operation without a rule does to the relevance that goes through it."""
        if operation is not None and operation.name in _ABSORBING:
            return
        out, into = ([part for part in parts if part is not None] for parts in (given, plain))
        if out and into:
            name = node.rstrip("0123456789").removesuffix("Backward")
            name = name if operation is None else operation.name
            whole = _total([part.abs() for part in out])
            self.losses.append((name, _total(out) - _total(into), whole))

    def _require_conservation(self) -> None:
        """Raise LayerError if an operation without a rule lost or added relevance."""
        if not self.losses:
            return
        device = self.losses[0][1].device
        lost = torch.stack([part.to(device, torch.float32).abs() for _, part, _ in self.losses])
        whole = torch.stack([part.to(device, torch.float32) for _, _, part in self.losses])
        largest = whole[whole.isfinite()].amax().clamp_min(torch.finfo(torch.float32).tiny)
        wrong = (lost > _LOSS * torch.maximum(whole, 1e-6 * largest)).nonzero()[:, 0].tolist()
        if wrong:
            raise _unseen(self.losses[wrong[0]][0], self.conserves)

    # --- custom functions ----------------------------------------------------------------------

    def _open(self, node: Any) -> Callable[[Gradients, Gradients], Gradients]:
        """Return what hands relevance back through a custom function, by the rules inside it."""
        inner = self.recording._inner.get(node._sequence_nr() + 1, [])
        places = _inputs(node, inner)
        # an operation that is a custom function itself (RoI align) is one again when it is repeated
        endless = tuple(step.operation.name for step in inner) == self.opened
        if endless or not _is_seen(node, inner, places):
            name = node.name().removesuffix("Backward")
            raise _unseen(
                f"the custom function {name}, whose inside cannot be seen", self.conserves
            )
        last = next(
            (step, place)
            for step in reversed(inner)
            for place, tensor in enumerate(_tensors(step.out))
            if tensor.grad_fn is node
        )
        # not the tensors themselves: the graph would live as long as its hooks
        steps = [(step.operation, _ids(step.tensors), _ids(step.out)) for step in inner]
        return partial(self._repeat, steps, places, (last[0].operation, last[1]))

    def _repeat(
        self,
        steps: Sequence[tuple[Operation, list[int], list[int]]],
        places: Sequence[tuple[int, Tensor] | None],
        last: tuple[Operation, int],
        plain: Gradients,
        given: Gradients,
    ) -> Gradients:
        """Run a custom function's operations with a graph, and hand relevance back through it."""
        if given[0] is None:
            return plain
        leaves = [None if place is None else place[1].clone().requires_grad_() for place in places]
        with torch.enable_grad(), Recording(self.recording.count) as again:
            known = {  # copies, which may be written to
                place[0]: leaf.clone()
                for place, leaf in zip(places, leaves, strict=True)
                if place is not None and leaf is not None
            }
            for operation, ids, outs in steps:
                renew = partial(_renew, known, iter(ids))
                args, options = tree_map(renew, (operation.args, operation.options))
                before = len(again.operations)
                made = operation.call(*args, **options)
                for new in again.operations[before:]:
                    new.origin = operation
                known |= dict(zip(outs, _tensors(made), strict=True))
                if operation is last[0]:
                    result = _tensors(made)[last[1]]
        sources = [leaf for leaf in leaves if leaf is not None]
        opened = tuple(operation.name for operation, _, _ in steps)
        graph = _Graph(again, self.whole, self.rules, self.conserves, opened)
        found = iter(graph.backward(result, sources, given[0]))
        return tuple(None if leaf is None else next(found) for leaf in leaves)


def _renew(known: Mapping[int, Tensor], ids: Iterator[int], value: Any) -> Any:
    """Return what stands for a tensor when operations are repeated."""
    return known.get(next(ids), value) if isinstance(value, Tensor) else value


def _inputs(node: Any, inner: Sequence[_Inner]) -> list[tuple[int, Tensor] | None]:
    """Return for every input of a custom function the tensor inside it: its id and its values."""
    found: list[tuple[int, Tensor] | None] = []
    for before, number in node.next_functions:
        matches = (
            (id(tensor), value)
            for step in inner
            for tensor, origin, value in zip(
                step.tensors,
                step.origins,
                _tensors((step.operation.args, step.operation.options)),
                strict=True,
            )
            if origin == (before, number)
            or (origin[0] is None and getattr(before, "variable", None) is tensor)
        )
        found.append(None if before is None else next(matches, None))
    return found


def _is_seen(
    node: Any, inner: Sequence[_Inner], places: Sequence[tuple[int, Tensor] | None]
) -> bool:
    """Whether a custom function's result follows from its inputs by operations that were seen."""
    made = {place[0] for place in places if place is not None}
    for step in inner:
        if made.intersection(_ids(step.tensors)):
            if any(tensor.grad_fn is node for tensor in _tensors(step.out)):
                return True
            made.update(_ids(step.out))
    return False


def _unseen(what: str, method: str) -> LayerError:
    return LayerError(
        f"{method or 'The method'} has no rule for {what}, which this network runs; choose "
        "integrated-gradients, or a class activation map such as gradcam."
    )


def _name_of(func: Any) -> str:
    name: str = func._schema.name
    return name.partition("::")[2].removesuffix("_")


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _ids(values: Any) -> list[int]:
    return [id(tensor) for tensor in _tensors(values)]


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _drop(value: Any) -> Any:
    return None if isinstance(value, Tensor) else value


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of all numbers, in float32 or better."""
    numbers = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
    return torch.stack([upcast(part.detach()).sum() for part in numbers]).sum()


def _find_written(func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation changes."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else options.get(argument.name)
            found += _tensors(value)
    return found
