"""A classifier as one ONNX graph: stored pixels in, logits and probabilities out."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit.classify.faster import both
from svpkit.classify.model import softmax
from svpkit.disk import write_json
from svpkit.errors import SvpkitError
from svpkit.export.folder import new_folder
from svpkit.export.subject import Subject, differences, hold

# What the exporter of torch writes by itself, and every runtime of these years reads.
OPSET = 18
FILE = "model.onnx"
PROBABILITIES = ("probabilities", "calibrated")


class Graph(nn.Module):
    """The whole way from uint8 pixels to probabilities, as `svpkit predict` goes it."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        model = subject.model
        network = copy.deepcopy(model.network).to("cpu", memory_format=torch.contiguous_format)
        self.network, self.spec = network.eval(), model.spec
        self.one = both(self.network, torch.zeros(2, *self._shape))
        self.tells = self.one is not None or hasattr(network, "features")
        k = len(model.classes)
        added = np.zeros(k) if subject.added is None else subject.added
        self.register_buffer("added", torch.tensor(added, dtype=torch.float32))
        self.calibrates = subject.calibrator is not None
        if subject.calibrator is not None:
            scale, bias = (np.broadcast_to(v, k) for v in _scaling(subject))
            self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
            self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.spec.channels, self.spec.size, self.spec.size

    @property
    def names(self) -> list[str]:
        """The names of the outputs, in order."""
        told = [("calibrated", self.calibrates), ("features", self.tells)]
        return ["logits", "probabilities", *(name for name, there in told if there)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of `names` for uint8 images (N, C, S, S)."""
        x = images.to(torch.float32) / 127.5 - 1
        told = self.one(x) if self.one is not None else (self.network(x),)
        if self.one is None and self.tells:
            told = (*told, self.network.features(x))
        logits, *features = told
        found = [logits, torch.softmax(logits + self.added, 1)]
        if self.calibrates:
            centred = logits - logits.mean(1, keepdim=True)
            found.append(torch.softmax(self.scale * centred + self.bias, 1))
        return (*found, *features)

    def write(self, path: Path) -> None:
        """Write the graph with a batch of any number of images."""
        example = torch.zeros(2, *self._shape, dtype=torch.uint8)
        torch.onnx.export(
            self.eval(),
            (example,),
            path,
            input_names=["images"],
            output_names=self.names,
            dynamic_shapes={"images": {0: torch.export.Dim("n")}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def write_graph(subject: Subject, out: Path) -> dict[str, Any]:
    """Write the folder `out` with model.onnx, a page and export.json, whose content is returned.

    The graph takes `images` uint8 (N, C, S, S) as svpkit stores them and gives `logits` float32
    (N, K) before any adjustment; `probabilities`, adjusted as the strategies say, which names and
    thresholds go by; `calibrated`, the calibrator's of the logits, which counts go by; `features`
    where the classifier has them. An adjustment that is estimated from each input (em, bbse) is
    left out, and so are thresholds then. Raises SvpkitError, with nothing written, for a classifier
    that is no network, without the extra, and where a probability differs by more than 1e-4.
    """
    versions = _versions()
    if not isinstance(subject.model.network, nn.Module):
        raise SvpkitError(
            f"export: classifier '{subject.name}' is no network, so there is no graph to write"
        )
    with new_folder(out, subject.card) as done:
        graph, path = Graph(subject), done / FILE
        try:
            graph.write(path)
        except Exception as error:  # noqa: BLE001 - what cannot be traced raises what it likes
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SvpkitError(
                f"export: torch cannot write classifier '{subject.name}' as a graph ({said[:160]})"
            ) from error
        left = left_out(subject)
        _describe(path, subject, left)
        found = compare(path, subject)
        hold(found, tuple(name for name in PROBABILITIES if name in found), FILE)
        said = {
            "to": "onnx",
            "max_abs_difference": found,
            "images": len(subject.images),
            "checked_on": subject.checked_on,
            "left_out": left,
            "opset": OPSET,
            "versions": versions,
        }
        write_json(done / "export.json", said | _facts(subject))
        (done / "README.md").write_text(_page(subject, graph.names, left), encoding="utf-8")
    return said


def compare(path: Path, subject: Subject, batch: int = 256) -> dict[str, float]:
    """Return the largest difference of each output of the file, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    blocks = [
        session.run(names, {"images": subject.images[start : start + batch]})
        for start in range(0, len(subject.images), batch)
    ]
    found = {
        name: np.concatenate(part)
        for name, part in zip(names, zip(*blocks, strict=True), strict=True)
    }
    return differences(found, _wanted(subject))


def left_out(subject: Subject) -> list[str]:
    """Return what `svpkit predict` does and the graph does not, a line each."""
    lines = []
    if subject.added is None:
        adjusts = " and ".join(name for name, _ in subject.model.balance.having("adjust"))
        lines.append(
            f"{adjusts}: estimated from each input as a whole, which a graph cannot; "
            "`probabilities` are those before it, and thresholds do not hold for them"
        )
    if subject.calibrator is None:
        lines.append("calibration: this run has no reference.json, so no output `calibrated`")
    return lines


def _scaling(subject: Subject) -> tuple[Any, np.ndarray]:
    assert subject.calibrator is not None
    return subject.calibrator.scale, subject.calibrator.bias


def _wanted(subject: Subject) -> dict[str, np.ndarray]:
    logits = subject.logits
    plain = softmax(logits) if subject.added is None else subject.model.adjusted(logits)
    wanted = {"logits": logits, "probabilities": plain}
    if subject.calibrator is not None:
        wanted["calibrated"] = subject.calibrator(logits)
    return wanted if subject.features is None else wanted | {"features": subject.features}


def _facts(subject: Subject) -> dict[str, Any]:
    facts = subject.facts()
    return facts if subject.added is not None else facts | {"thresholds": None}


def _describe(path: Path, subject: Subject, left: list[str]) -> None:
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    # the exporter notes the lines of code that each node comes of, and where they lie on this disk
    graph = model.graph
    for each in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""
    for name, value in {**_facts(subject), "left_out": left}.items():
        said = model.metadata_props.add()
        said.key, said.value = name, value if isinstance(value, str) else json.dumps(value)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _versions() -> dict[str, str]:
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise SvpkitError(
            f"--to onnx: {error.name} is missing: pip install 'svpkit[onnx]'"
        ) from None
    return {each.__name__: each.__version__ for each in (onnx, onnxruntime, onnxscript, torch)}


def _page(subject: Subject, names: list[str], left: list[str]) -> str:
    spec = subject.model.spec
    notes = "".join(f"- Left out: {line}\n" for line in left)
    return (
        f"# {FILE}\n\n```python\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{FILE}")\n'
        f'{", ".join(names)} = session.run(None, {{"images": images}})\n```\n\n'
        f"- `images`: uint8 (N, {spec.channels}, {spec.size}, {spec.size}), pixels 0 to 255 as "
        "svpkit stores them; no other preparation.\n"
        "- `logits`: before any adjustment.\n"
        "- `probabilities`: for the class mix that the recipe states; names and thresholds go by "
        "them.\n"
        "- `calibrated`: under the class mix of validation; counts go by them.\n"
        f"- Classes, in this order: {', '.join(spec.classes)}.\n{notes}\n"
        "export.json says how far each output is from svpkit's own.\n"
    )
