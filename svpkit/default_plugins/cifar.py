"""Long-tailed CIFAR, against which published remedies are measured: its reader and its network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from svpkit.errors import SvpkitError
from svpkit.hookspecs import ImageSpec, Register, hookimpl, tried

if TYPE_CHECKING:
    from svpkit.particles.cifar import Part


@tried(
    spared={"links": "one public data set, no stranger's export: it may be linked from elsewhere"}
)
class CifarReader:
    """CIFAR-10 or CIFAR-100 (python version), whole or with a long tail; the files are not shipped.

    The files are pickles: only arrays, lists and texts are taken from them, nothing is called.
    """

    def read(
        self,
        path: Path | str,
        *,
        part: Annotated[Literal["train", "test"], "which of its two parts"] = "train",
        imbalance: Annotated[
            float, Ge(1), Le(1e4), "train: images of the first class to one of the last; 1 = all"
        ] = 1.0,
        spare: Annotated[
            int, Ge(0), "train: images of each class beyond that, where there are, for val"
        ] = 0,
        seed: Annotated[int, Ge(0), "another seed, other images of a class"] = 0,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield images uint8 (32, 32, 3) and rows, class after class in label order.

        Of class i of C there are int(n_max * imbalance ** (-i / (C - 1))) (Cao et al. 2019). A
        training image that stands byte for byte in the test part is left out. Raises SvpkitError
        for a folder or file that is no CIFAR, and for a tail on the test part.
        """
        from svpkit.particles.cifar import read_part

        if part == "test" and (imbalance != 1 or spare):
            raise SvpkitError("cifar: imbalance and spare are for the training part alone")
        found, root = read_part(Path(path), part), Path(path)
        rows = _rows(found, imbalance, spare, seed, _copied(root, found) if part == "train" else ())
        for i in rows:
            label = found.names[found.labels[i]]
            row = {"id": f"{part}-{i:05d}", "label": label, "source": f"cifar{len(found.names)}"}
            yield found.images[i].transpose(1, 2, 0), row

    def sniff(self, path: Path | str) -> bool:
        """Return whether a folder holds the batches of CIFAR-10 or CIFAR-100."""
        from svpkit.particles.cifar import layout_of

        return layout_of(Path(path)) is not None


def _rows(
    found: Part, imbalance: float, spare: int, seed: int, copied: tuple[int, ...]
) -> Iterator[int]:
    import numpy as np

    from svpkit.draws import rng
    from svpkit.particles.cifar import long_tail

    most = int(np.bincount(found.labels).max())
    wanted = long_tail(most, len(found.names), imbalance)
    for k, (name, n) in enumerate(zip(found.names, wanted, strict=True)):
        if not n:
            raise SvpkitError(f"cifar: imbalance {imbalance:g} leaves class '{name}' no image")
        # the order belongs to the class alone: a longer tail is part of a shorter one
        order = rng(seed, "cifar", k).permutation(np.flatnonzero(found.labels == k))
        order = order[~np.isin(order, copied)]
        yield from np.sort(order[: n + spare if imbalance > 1 else None]).tolist()


def _copied(root: Path, train: Part) -> tuple[int, ...]:
    from svpkit.particles.cifar import read_part

    shown = {image.tobytes() for image in read_part(root, "test").images}
    return tuple(i for i, image in enumerate(train.images) if image.tobytes() in shown)


@tried(options={"depth": 8, "width": 8})
def cifar_resnet(
    spec: ImageSpec,
    *,
    depth: Annotated[int, Ge(8), Le(1202), "layers: 6 n + 2"] = 32,
    width: Annotated[int, Ge(1), Le(512), "channels of the first stage; then 2 and 4 times"] = 16,
    mean: Annotated[
        tuple[Annotated[float, Ge(0), Le(1)], ...], "of each channel, in 0 .. 1; empty: 0.5"
    ] = (),
    sd: Annotated[
        tuple[Annotated[float, Gt(0), Le(1)], ...], "spread of each channel; empty: 0.5"
    ] = (),
) -> Any:
    """The small ResNet for CIFAR (He et al. 2016, section 4.2), shortcuts without weights."""
    from svpkit.classify.cifar_resnet import build

    return build(spec, depth, width, mean, sd)


@hookimpl
def register_readers(register: Register) -> None:
    """Register `cifar`."""
    register("cifar", CifarReader())


@hookimpl
def register_classifiers(register: Register) -> None:
    """Register `cifar_resnet`."""
    register("cifar_resnet", cifar_resnet)
