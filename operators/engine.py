"""Runs a net where it runs fastest: ONNX Runtime or OpenVINO on the CPU, PyTorch on CUDA."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from operators.weights import cache, storing
from pipeline.compute import Compute
from pipeline.errors import DeviceError

Device = Literal["cpu", "cuda"]


class Engine(Protocol):
    """A net that takes pictures and gives arrays. It may be called from several threads at once."""

    def __call__(self, *images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Run the net on (N, H, W, 3) uint8 RGB; every output has N rows."""


def engine(net: nn.Module, example: tuple[NDArray[np.uint8], ...], compute: Compute, name: str) -> Engine:
    """Make ``net.forward_images`` callable with arrays, on the device and by the engine that ``compute`` asks for.

    Args:
        net: Has ``forward_images``: (N, H, W, 3) uint8 tensors to a tuple of float tensors; where its
            ``any_size`` is true, H and W may vary from call to call. It stays on its device.
        example: One array for each of its arguments, of the shape that will be given; N may vary.
        compute: Device, engine and threads.
        name: How the exported graph is called in the cache.

    Raises:
        DeviceError: The device or the engine is not there.
        WeightsError: The exported graph cannot be stored.
    """
    made = _made(_Entry(net).eval(), example, compute, name)
    return made if compute.tape is None else compute.tape.recording(name, made)


def _made(entry: _Entry, example: tuple[NDArray[np.uint8], ...], compute: Compute, name: str) -> Engine:
    device, kind = resolve(compute)
    if kind == "torch":
        return _on_cuda(entry) if device == "cuda" else _on_torch(entry, compute.threads)
    exported = _exported(entry, example, name)
    return (_on_onnx if kind == "onnx" else _on_openvino)(exported, compute.threads)


def resolve(compute: Compute) -> tuple[Device, Literal["onnx", "openvino", "torch"]]:
    """The device and the engine that ``auto`` stands for here.

    Raises:
        DeviceError: CUDA was asked for and PyTorch sees none, or the engine does not run on the device.
    """
    seen = torch.cuda.is_available()
    if compute.device == "cuda" and not seen:
        message = (
            f"device 'cuda' was asked for, but PyTorch {torch.__version__} sees no CUDA device: install its CUDA build "
            "and a driver, or set device to 'cpu' or 'auto'"
        )
        raise DeviceError(message)
    on_cuda = compute.device == "cuda" or (compute.device == "auto" and seen and compute.engine in {"auto", "torch"})
    if not on_cuda:
        return "cpu", "onnx" if compute.engine == "auto" else compute.engine
    if compute.engine in {"onnx", "openvino"}:
        message = f"engine {compute.engine!r} runs on the CPU only: set engine to 'torch' for device 'cuda'"
        raise DeviceError(message)
    return "cuda", "torch"


class _Entry(nn.Module):
    """A net whose ``forward`` is its ``forward_images``, as the exporter wants it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net
        self.any_size = bool(getattr(net, "any_size", False))

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        return self.net.forward_images(*images)  # type: ignore[no-any-return]


def _on_torch(entry: _Entry, threads: int) -> Engine:
    # PyTorch keeps one number of threads for the whole process; it is set here for want of a setting of the net.
    torch.set_num_threads(threads)

    def run(*images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        with torch.inference_mode():
            return tuple(each.numpy() for each in entry(*map(_tensor, images)))

    return run


def _on_cuda(entry: _Entry) -> Engine:
    moved = copy.deepcopy(entry).to("cuda")
    moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(*images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            given = [_tensor(each).pin_memory().to("cuda", non_blocking=True) for each in images]
            return tuple(each.float().cpu().numpy() for each in moved(*given))

    return run


def _on_onnx(exported: Path, threads: int) -> Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # A thread that waits must sleep, for the cores belong to the other stages meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        return tuple(session.run(None, dict(zip(names, images, strict=True))))

    return run


def _on_openvino(exported: Path, threads: int) -> Engine:
    try:
        import openvino  # noqa: PLC0415  (an extra)
    except ImportError as error:
        message = "engine 'openvino' was asked for, but it is not installed: install omote[openvino], or choose 'onnx'"
        raise DeviceError(message) from error
    cores = os.cpu_count() or 1
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": max(cores, threads),
        "NUM_STREAMS": max(1, cores // threads),  # so many callers run at once, each on ``threads`` threads
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(str(exported), "CPU", options)

    def run(*images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        request = compiled.create_infer_request()  # a request serves one thread
        return tuple(request.infer(list(images), share_inputs=True).to_tuple())

    return run


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image))


def _exported(entry: _Entry, example: tuple[NDArray[np.uint8], ...], name: str) -> Path:
    """The net as an ONNX file in the cache, exported again whenever its weights, our code or PyTorch changed."""
    path = cache() / "engines" / f"{name}-{_fingerprint(entry, example)}.onnx"
    if not path.exists():
        with storing(f"the exported net {name}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{uuid4().hex}.part")
            _export(entry, example, part)
            part.replace(path)
    return path


def _fingerprint(entry: _Entry, example: tuple[NDArray[np.uint8], ...]) -> str:
    shapes = [() if entry.any_size else each.shape[1:] for each in example]
    found = hashlib.sha256(f"{torch.__version__} {shapes} {entry}".encode())
    for source in [Path(__file__), *sorted(Path(__file__).with_name("nets").glob("*.py"))]:
        found.update(source.read_bytes())
    for tensor in [*entry.parameters(), *entry.buffers()]:
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _export(entry: _Entry, example: tuple[NDArray[np.uint8], ...], path: Path) -> None:
    images = tuple(map(_tensor, example))
    inputs = [f"images{i}" for i in range(len(images))]
    outputs = [f"output{i}" for i in range(len(entry(*images)))]
    free = {0: "batch", 1: "height", 2: "width"} if entry.any_size else {0: "batch"}
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, yet takes 0.1 s where the new one takes seconds and another package.
        # What it warns of is harmless, but for torch.jit.TracerWarning: a shape that was to vary became a constant.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        torch.onnx.export(
            entry, images, path, dynamo=False, input_names=inputs, output_names=outputs,
            dynamic_axes=dict.fromkeys(inputs, free) | {key: {0: "batch"} for key in outputs},
        )  # fmt: skip
