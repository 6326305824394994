"""The hooks, each a signature and its contract, and the one value that every factory is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pluggy

API = 1

hookspec = pluggy.HookspecMarker("svpkit")
hookimpl = pluggy.HookimplMarker("svpkit")

Register = Callable[[str, Any], None]
Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class ImageSpec:
    """What a model is built for: images (channels, size, size) and the classes, in label order."""

    channels: int
    size: int
    classes: tuple[str, ...]


def later(*names: str) -> Callable[[Factory], Factory]:
    """Mark options that a factory got after its first release.

    At their defaults they are no part of any key: what was made before stays made.
    """

    def mark(factory: Factory) -> Factory:
        factory.later = names  # type: ignore[attr-defined]
        return factory

    return mark


@dataclass(frozen=True)
class Trial:
    """How the conformance kit tries a plugin: small options, so that a CPU needs seconds.

    `options` of the factory, `sample` of a generator's `sample`; `images` that a toy training may
    see (None: the kit's own choice); `example(folder) -> path` writes a small export that a reader
    reads; `spared` {check: reason} are checks that cannot hold, told with their reason.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None
    example: Callable[[Path], Path] | None = None
    spared: Mapping[str, str] = field(default_factory=dict)


def tried(**how: Any) -> Callable[[Factory], Factory]:
    """Mark a factory with how the conformance kit tries it: the fields of `Trial` by name."""

    def mark(factory: Factory) -> Factory:
        factory.tried = Trial(**how)  # type: ignore[attr-defined]
        return factory

    return mark


class Hooks:
    """The six things that a plugin can bring; each hook is called with `register(name, thing)`.

    The keyword-only parameters of a factory (for a reader, of its `read`) are the options that a
    recipe may give: their names, types and defaults are checked before anything runs. One annotated
    `Path` is a file or folder beside the recipe or under the data root, which names what it makes
    by its digest; where that is opened again the option is its default, or None: what was read from
    the file is then in the state.
    """

    @hookspec
    def register_readers(self, register: Register) -> None:
        """Register what turns files into particles.

        A reader has `read(path, *, ...) -> iterator of (image, row)`: image uint8 (h, w) or
        (h, w, 3), row a dict with any of id, label, group, source, um_per_px, ecd_um and more
        columns; and `sniff(path) -> bool`. A text in place of an image is the reason why it cannot
        be read; None is no particle: its row tells of a run that has none. Instruments add
        particle_id, run, volume_ml, dilution, timestamp, and `raw`, a dict of the export's own
        columns. A parameter `particle_types` of `read` is filled in by the host.
        A link that leads out of the export is not followed: such a file counts as not there. What
        is missing or damaged is a SvpkitError of one line, or, of one particle, its reason.
        """

    @hookspec
    def register_particle_types(self, register: Register) -> None:
        """Register what the simulator can draw.

        A particle type has `draw(seeds, optics) -> (intensity, rows)`: seeds uint64 (n,), intensity
        float32 (n, M, M) relative to the background, rows the n truths; image i depends on
        seeds[i] and the optics alone.
        """

    @hookspec
    def register_generators(self, register: Register) -> None:
        """Register what draws particles: `factory(spec, *, ...)`.

        It returns an `nn.Module` with `forward(images, labels, seeds, *, part="main") -> loss ()`
        and `sample(labels, seeds, *, ...) -> images (B, C, H, W) in [-1, 1]`; one that looks at its
        images once before it is trained has `prepare(particles)`. A model that needs several
        optimizers has `parts() -> {name: parameters}`: every batch updates them in that order, each
        by the loss of `forward(..., part=name)`, which teaches the parameters of that part alone.
        They may be groups as torch.optim has them, {"params": ..., "betas": ...}; "rate", 1 where
        it is not given, multiplies train.lr. It may have `check_sample(sample, where)`, which
        raises SvpkitError for options that do not fit the model, `fold()`, called once before
        drawing for whatever makes that faster and changes nothing, and `export(folder)`, which
        writes it as its own library opens it. Or an object with
        `fit(particles, seed)`, `sample`, `state() -> {name: array}` and `load_state(arrays)`:
        particles a ParticleSet, whose `images()` are uint8 (N, C, H, W) and `labels` int64 (N,),
        seed an int. `sample` is given labels int64 (B,) and seeds int64 (B,), tensors, and may
        return a tensor or an array; arrays of the state are of numbers.
        """

    @hookspec
    def register_classifiers(self, register: Register) -> None:
        """Register what names particles: `factory(spec, *, ...)`.

        It returns an `nn.Module` with `forward(images) -> logits (B, K)` and
        `features(images) -> (B, F)`, images float32 (B, C, H, W) in [-1, 1]; for strategies that
        work on its last layer, `head`, the `nn.Linear` that makes the logits of the features. Or an
        object with `fit(particles, seed)`, particles a ParticleSet and seed an int,
        `predict_proba(images) -> (B, K)`: images a numpy array uint8 (B, C, H, W), grey levels
        0 .. 255, and probabilities float in the order of `spec.classes`, each row summing to 1,
        `state() -> {name: array of numbers}` and `load_state(arrays)`; if it likes,
        `features(images) -> (B, F)` of the same images.
        """

    @hookspec
    def register_strategies(self, register: Register) -> None:
        """Register how imbalance is met: `factory(*, ...)`.

        It returns an object with any of these:

        - `draws(counts) -> {class: n}`: how many to draw. With it may come `gates`, {measure of
          fidelity: limit}: a drawn set that fails one stops the run. They come from its option of
          that name, which is no part of any key.
        - `particles(train, context) -> train`: the training set, a ParticleSet, fewer or more.
          Context has `classes`, `seed` (an int), `prevalence` {class: share at work} or None, and
          `drawn`, the ParticleSet that was drawn for this run, or None. Added images are made with
          `train.with_made(images, labels, maker, lineage=...)`.
        - `sampler(labels) -> weights (N,)`: how often each particle is seen; or a function of the
          progress in 0 .. 1 that gives the weights. `factors(train)` gives the same, or None, and
          multiplies whatever sampler there is.
        - `augment(images, labels, seeds) -> (images, labels)`: each image by its seed alone.
        - `mix(counts) -> callable(images, labels, partners, partner_labels, seeds) -> (images,
          labels)`, labels float (B, K): a partner is the sample before in the batch.
        - `loss(counts) -> callable(logits, labels)`, which is given `progress=` if it names that.
          Its `prior` (K,) is the class mass that it teaches, the counts' own where it has none;
          labels are (B, K) where a strategy mixes, which `soft = False` of the strategy refuses;
          `cosine`, a scale, asks for a normalised last layer.
        - `settles`, 0 .. 1: the share of the run before which no weights may be chosen, where what
          is taught changes on the way.
        - `second_stage(head, seen, seed) -> head`: the last layer trained again on features
          (svpkit.classify.second). `needs_val` is true where val has to choose something,
          `prior_known = False` says that the prior of the result is not known.
        - `adjust(logits, priors) -> logits`: after training. `wants_prevalence = False` says that
          it can do without evaluate.prevalence.
        """

    @hookspec
    def register_extractors(self, register: Register) -> None:
        """Register what turns images into features, for the fidelity of drawn particles.

        `factory(spec, *, ...)` returns an `nn.Module` that learns nothing more, with
        `features(images) -> (B, F)`: images (B, C, H, W) in [-1, 1], features finite, row i of
        image i alone. Weights come from a local file that an option of type `Path` names,
        and are kept: opened again it has its state, and None for the path.
        """


HOOKS = {
    "register_readers": "reader",
    "register_particle_types": "particle_type",
    "register_generators": "generator",
    "register_classifiers": "classifier",
    "register_strategies": "strategy",
    "register_extractors": "extractor",
}
KINDS = tuple(HOOKS.values())
