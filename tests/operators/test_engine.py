"""Every engine gives what torch gives, at any batch size and from several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from operators.engine import engine, resolve
from operators.nets import expression, mobilefacenet, retinaface
from pipeline.compute import Compute
from pipeline.errors import DeviceError, WeightsError

CPU_ENGINES = ["torch", "onnx", "openvino"]
SIZES = {retinaface: [(96, 128), (72, 104)], mobilefacenet: [(112, 112)], expression: [(112, 112)]}
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMOTE_CACHE", str(tmp_path))
    return tmp_path


def pictures(n: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def cpu(kind: str, threads: int = 1) -> Compute:
    if kind == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    return Compute(device="cpu", engine=kind, threads=threads)


def differences(net: torch.nn.Module, run: object, images: NDArray[np.uint8]) -> list[float]:
    expected = net.forward_images(torch.from_numpy(images))
    found = run(images)
    assert [each.dtype for each in found] == [np.float32] * len(expected)
    return [float(np.abs(one.numpy() - other).max()) for one, other in zip(expected, found, strict=True)]


@pytest.mark.usefixtures("weights_ready")
@pytest.mark.parametrize("kind", CPU_ENGINES)
@pytest.mark.parametrize("net", SIZES)
def test_an_engine_equals_torch_at_every_batch_size_and_picture_size(net: ModuleType, kind: str) -> None:
    loaded, name = net.load(), net.__name__.rpartition(".")[2]
    run = engine(loaded, (pictures(1, *SIZES[net][0]),), cpu(kind), name)
    for size in SIZES[net]:
        for n in (1, 5):
            assert max(differences(loaded, run, pictures(n, *size))) < 1e-4


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("kind", CPU_ENGINES)
def test_several_threads_may_call_at_once(kind: str) -> None:
    net = expression.build(width=4)
    run = engine(net, (pictures(1, 112, 112),), cpu(kind), "expression")
    batches = [pictures(n % 3 + 1, 112, 112) for n in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda images: run(images)[0], batches))
    for images, found in zip(batches, together, strict=True):
        np.testing.assert_allclose(found, run(images)[0], atol=1e-6)


def test_a_net_is_exported_once_and_again_when_its_weights_change(own_cache: Path) -> None:
    images = pictures(2, 112, 112)
    net = expression.build(width=4)
    engine(net, (images,), cpu("onnx"), "expression")
    (first,) = (own_cache / "engines").iterdir()
    written = first.stat().st_mtime_ns
    engine(net, (images,), cpu("onnx"), "expression")
    assert first.stat().st_mtime_ns == written
    net.classify.bias += 1
    assert max(differences(net, engine(net, (images,), cpu("onnx"), "expression"), images)) < 1e-4
    assert len(list((own_cache / "engines").iterdir())) == 2


def test_a_cache_that_cannot_hold_the_export_is_one_sentence(own_cache: Path) -> None:
    (own_cache / "engines").write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match="the exported net expression cannot be stored"):
        engine(expression.build(width=4), (pictures(1, 112, 112),), cpu("onnx"), "expression")


def test_the_net_that_was_handed_in_stays_as_it_was(own_cache: Path) -> None:
    net = expression.build(width=4)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    engine(net, (pictures(1, 112, 112),), cpu("onnx"), "expression")
    assert not net.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


@without_cuda
def test_cuda_that_is_not_there_is_refused_with_the_way_out() -> None:
    with pytest.raises(DeviceError, match=r"sees no CUDA device.*'cpu' or 'auto'") as refused:
        resolve(Compute(device="cuda"))
    assert torch.__version__ in str(refused.value)


@without_cuda
@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (Compute(), ("cpu", "onnx")),
        (Compute(device="cpu", engine="torch"), ("cpu", "torch")),
        (Compute(engine="openvino"), ("cpu", "openvino")),
    ],
)
def test_auto_takes_what_is_fastest_here(asked: Compute, given: tuple[str, str]) -> None:
    assert resolve(asked) == given


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("net", SIZES)
def test_cuda_equals_torch_up_to_half_precision(net: ModuleType) -> None:
    built = net.build(width=8)
    images = pictures(3, *SIZES[net][0])
    run = engine(built, (images,), Compute(device="cuda"), "toy")
    assert max(differences(built, run, images)) < 2e-2
    assert next(built.parameters()).device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_engines_of_the_cpu_are_refused_on_cuda() -> None:
    with pytest.raises(DeviceError, match="engine 'onnx' runs on the CPU only"):
        resolve(Compute(device="cuda", engine="onnx"))
