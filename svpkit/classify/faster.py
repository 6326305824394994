"""A trained network made quick on a CPU: the same answers from fewer and larger operations."""

import operator
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from svpkit.classify.packed import Convolution, Pointwise, Windows, packed

# Largest difference from the network, relative to its largest answer, that is taken for rounding.
CLOSE = 1e-4
# Images that it is tried on.
SOME = 8
_RELU = (functional.relu, torch.relu, torch.relu_, "relu", "relu_")
_ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
# Modules whose answer is a tensor of its own, free to be written over by its last reader.
_FRESH = (Convolution, Pointwise, Windows, nn.Conv2d, nn.MaxPool2d)


class Both(nn.Module):
    """A network's logits and features, of one pass through it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and features (B, F) of images in [-1, 1] (B, C, S, S)."""
        features = self.network.features(images)
        return self.network.head(features), features


def both(network: nn.Module, images: Tensor) -> Both | None:
    """Return the network as one that gives logits and features of one pass.

    None where the logits of `images` are not what its `head` makes of its `features`, or where it
    lacks one of them.
    """
    if not hasattr(network, "features") or not isinstance(
        getattr(network, "head", None), nn.Module
    ):
        return None
    one = Both(network).eval()
    try:
        with torch.inference_mode():
            said, wanted = one(images)[0], network(images)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return None
    return one if said.shape == wanted.shape and _near(said, wanted) else None


def faster(network: nn.Module, images: Tensor) -> nn.Module:
    """Return what says the same as `network` in inference on the CPU, quicker where that can be.

    Batch norms are folded into convolutions, these laid out for oneDNN with the sums and ReLUs that
    follow them; `images` float32 (B, C, S, S) are those of a usual batch. The network itself stays
    as it is and is returned where it is not on a CPU, cannot be taken apart, or says else.
    """
    if images.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return network
    images = images.contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode(False), torch.no_grad():
            quick = _fused(_folded(_Tracer().trace(network), network), images)
            same = all(_same(quick, network, images[:n]) for n in (SOME, 3))
    # tracing and the operations of oneDNN raise what they like; the network itself always works
    except Exception:  # noqa: BLE001
        return network
    return quick if same else network


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BatchNormAct2d) or super().is_leaf_module(m, module_qualified_name)


def _folded(graph: fx.Graph, network: nn.Module) -> fx.GraphModule:
    # without what does nothing in inference, batch norms gone into the convolutions before them
    net = fx.GraphModule(network, graph)
    for node in list(graph.nodes):
        module = _module(net, node)
        if isinstance(module, (nn.Identity, nn.Dropout)):
            _replace(graph, node, node.args[0])
        elif isinstance(module, nn.BatchNorm2d):
            _fold(net, node, module)
    net.recompile()
    return net


def _fold(net: fx.GraphModule, node: fx.Node, norm: nn.BatchNorm2d) -> None:
    before: Any = node.args[0]
    conv = _conv(net, before)
    # others of timm's norms stay: they compute more than they say here
    if conv is None or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        return
    net.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
    if isinstance(norm, BatchNormAct2d):
        after: Any = norm.act
        net.set_submodule(str(node.target), after)
        if not isinstance(after, nn.Identity):
            return
    _replace(net.graph, node, before)


def _fused(net: fx.GraphModule, images: Tensor) -> fx.GraphModule:
    ShapeProp(net).propagate(images[:SOME])
    for node in list(net.graph.nodes):
        conv = _conv(net, node, alone=False)
        if conv is not None:
            _pack(net, node, conv, len(images))
    net.delete_all_unused_submodules()
    net.graph.lint()
    net.recompile()
    return net


def _pack(net: fx.GraphModule, node: fx.Node, conv: nn.Conv2d, n: int) -> None:
    # the convolution, the sum and the ReLU right after it: one operation in the place of the last
    chain, other = [node], None
    after = _only_user(node)
    if after is not None and _is(net, after, _ADD) and _of_two(after):
        chain.append(after)
        other = next(a for a in after.all_input_nodes if a is not node)
        after = _only_user(after)
    relu = after is not None and _is(net, after, _RELU, nn.ReLU)
    chain += [after] if relu and after is not None else []
    over = other is not None and _free(net, other, chain)
    x = node.all_input_nodes[0]
    shape = torch.Size((n, *_shape(x)[1:]))
    module = packed(conv, shape, relu, other is not None, over)
    net.set_submodule(str(node.target), module)
    if len(chain) > 1:
        with net.graph.inserting_before(chain[-1]):
            new = net.graph.call_module(str(node.target), (x,) if other is None else (x, other))
        new.meta = chain[-1].meta
        chain[-1].replace_all_uses_with(new)
        for gone in reversed(chain):
            net.graph.erase_node(gone)


def _module(net: fx.GraphModule, node: Any) -> nn.Module | None:
    return net.get_submodule(node.target) if node.op == "call_module" else None


def _conv(net: fx.GraphModule, node: Any, alone: bool = True) -> nn.Conv2d | None:
    module = _module(net, node) if isinstance(node, fx.Node) else None
    # subclasses pad or weigh in their own ways
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
        return None
    once = sum(n.target == node.target for n in net.graph.nodes) == 1
    good = once and not isinstance(module.padding, str) and (not alone or len(node.users) == 1)
    return module if good else None


def _is(net: fx.GraphModule, node: fx.Node, calls: Any, kind: Any = ()) -> bool:
    called = node.op in ("call_function", "call_method") and node.target in calls
    return called or isinstance(_module(net, node), kind)


def _of_two(node: fx.Node) -> bool:
    # a sum of two tensors of one shape, nothing scaled
    shapes = [_shape(a) for a in node.all_input_nodes]
    return len(node.args) == len(shapes) == 2 and not node.kwargs and shapes[0] == shapes[1]


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["tensor_meta"].shape


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _free(net: fx.GraphModule, other: fx.Node, chain: list[fx.Node]) -> bool:
    # nobody reads it later, and nobody looks at the same memory under another name
    place = {node: i for i, node in enumerate(net.graph.nodes)}
    readers = [node for node in other.users if node not in chain]
    return isinstance(_module(net, other), _FRESH) and all(
        place[r] < place[chain[-1]] and isinstance(_module(net, r), _FRESH[:4]) for r in readers
    )


def _replace(graph: fx.Graph, node: fx.Node, by: Any) -> None:
    node.replace_all_uses_with(by)
    graph.erase_node(node)


def _same(quick: nn.Module, network: nn.Module, images: Tensor) -> bool:
    said, wanted = quick(images), network(images)
    pairs = zip(said, wanted, strict=True) if isinstance(wanted, tuple) else [(said, wanted)]
    return all(a.shape == b.shape and _near(a, b) for a, b in pairs)


def _near(said: Tensor, wanted: Tensor) -> bool:
    return bool((said - wanted).abs().max() <= CLOSE * wanted.abs().max())
