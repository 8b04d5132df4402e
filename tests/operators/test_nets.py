"""The nets compute what the files they were read from compute, and say what they promise on real pictures."""

from __future__ import annotations

from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from operators import weights
from operators.nets import expression, in_order, mobilefacenet, retinaface
from pipeline.errors import WeightsError


def pictures(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def as_floats(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("net", [retinaface, mobilefacenet, expression])
def test_a_net_is_ready_for_inference_and_for_explanations(net: ModuleType) -> None:
    built = net.build(width=4)
    assert not built.training
    assert not any(weight.requires_grad for weight in built.parameters())
    x = as_floats(pictures(1, 112, 112)).requires_grad_()
    output = built(x)
    (output if torch.is_tensor(output) else output[0]).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_tensors_that_do_not_fit_are_refused() -> None:
    tensors = list(expression.build(width=4).state_dict().values())
    with pytest.raises(WeightsError, match="do not fit"):
        in_order(expression.build(width=4), tensors[:-1])
    with pytest.raises(WeightsError, match="do not fit"):
        in_order(expression.build(width=8), tensors)


# RetinaFace


def slow_priors(height: int, width: int) -> list[tuple[float, float, float, float]]:
    found = []
    for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for row in range((height + stride - 1) // stride):
            for column in range((width + stride - 1) // stride):
                for side in sides:
                    found.append(((column + 0.5) * stride, (row + 0.5) * stride, side, side))
    return found


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 70)])
def test_priors_are_in_the_order_of_the_outputs(height: int, width: int) -> None:
    anchors = retinaface.priors(height, width)
    assert anchors.dtype == np.float32
    np.testing.assert_array_equal(anchors, np.float32(slow_priors(height, width)))
    offsets, scores, landmarks = retinaface.build(4, 16).forward_images(pictures(2, height, width))
    assert [*map(tuple, (offsets.shape, scores.shape, landmarks.shape))] == [
        (2, len(anchors), 4), (2, len(anchors)), (2, len(anchors), 10),
    ]  # fmt: skip


def test_decoding_undoes_the_encoding_of_ssd() -> None:
    anchor, box = np.float32([[40, 60, 20, 20]]), np.float32([[30, 50, 62, 66]])
    centre, size = np.float32([46, 58]), np.float32([32, 16])
    offsets = np.concatenate([(centre - anchor[0, :2]) / 20 / 0.1, np.log(size / 20) / 0.2])[None]
    np.testing.assert_allclose(retinaface.decode_boxes(anchor, offsets), box, rtol=1e-6)
    points = np.float32([[35, 55], [50, 55], [42, 60], [36, 66], [49, 66]])
    encoded = ((points - anchor[0, :2]) / 20 / 0.1).reshape(1, 10)
    np.testing.assert_allclose(retinaface.decode_landmarks(anchor, encoded), points[None], rtol=1e-6)


@pytest.mark.usefixtures("weights_ready")
def test_the_first_layers_equal_those_of_the_file_with_their_batch_normalisation() -> None:
    stored = torch.load(weights.path("retinaface"), map_location="cpu", weights_only=True)
    layer = {key.removeprefix("module.").removeprefix("body.stage1."): value for key, value in stored.items()}

    def normalised(x: torch.Tensor, name: str, norm: str, **kinds: int) -> torch.Tensor:
        x = F.conv2d(x, layer[f"{name}.weight"], **kinds)
        mean, variance = layer[f"{norm}.running_mean"], layer[f"{norm}.running_var"]
        x = F.batch_norm(x, mean, variance, layer[f"{norm}.weight"], layer[f"{norm}.bias"])
        return F.leaky_relu(x, 0.1)

    bgr = as_floats(pictures(1, 64, 96)).flip(1) - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    slow = normalised(bgr, "0.0", "0.1", stride=2, padding=1)
    slow = normalised(slow, "1.0", "1.1", padding=1, groups=8)
    slow = normalised(slow, "1.3", "1.4")
    net = retinaface.load()
    fast = net.body.stage1[:2](as_floats(pictures(1, 64, 96)) - net.mean)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


# MobileFaceNet


def test_the_identity_net_is_its_head_after_its_trunk() -> None:
    net, x = mobilefacenet.build(8, 32), as_floats(pictures(2, 112, 112))
    last_map = net.trunk(x)
    assert last_map.shape == (2, 64, 7, 7)
    torch.testing.assert_close(net.head(last_map), net(x))
    torch.testing.assert_close(net.forward_images(pictures(2, 112, 112))[0], F.normalize(net(x)))


@pytest.mark.usefixtures("weights_ready")
def test_the_identity_net_equals_the_packaged_graph() -> None:
    import onnxruntime

    bgr = as_floats(pictures(1, 112, 112)).flip(1)
    session = onnxruntime.InferenceSession(weights.path("mobilefacenet"), providers=["CPUExecutionProvider"])
    (packaged,) = session.run(None, {"input": ((bgr - 127) / 128).numpy()})
    ours = mobilefacenet.load()(as_floats(pictures(1, 112, 112)))
    assert np.abs(packaged - ours.numpy()).max() < 1e-4


# Expression


def slow_same(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's SAME padding of a 3x3 convolution of one channel, from its definition."""
    side = x.shape[0]
    out = -(-side // stride)
    before = max((out - 1) * stride + 3 - side, 0) // 2
    total = np.zeros((out, out))
    for i, j, di, dj in np.ndindex(out, out, 3, 3):
        row, column = i * stride + di - before, j * stride + dj - before
        if 0 <= row < side and 0 <= column < side:
            total[i, j] += x[row, column] * kernel[di, dj]
    return total


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_padded_as_tensorflow_pads(stride: int) -> None:
    layer = expression.Same(1, 1, stride, bias=False)
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kernel = layer.weight.detach()[0, 0].numpy()
    with torch.no_grad():
        fast = layer(x)[0, 0].numpy()
    np.testing.assert_allclose(fast, slow_same(x[0, 0].numpy(), kernel, stride), atol=1e-6)


def test_every_later_layer_of_a_block_sees_the_sum_so_far() -> None:
    block = expression.Dense(nn.Identity(), 4)
    x = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    one, two, three = block.rest
    with torch.no_grad():
        first = F.relu(x)
        second = one(first)
        third = two(F.relu(first + second))
        fourth = three(F.relu(first + second + third))
        torch.testing.assert_close(block(x), F.relu(first + second + third + fourth))


def test_logits_are_read_from_the_features() -> None:
    net, x = expression.build(width=4), as_floats(pictures(3, 112, 112))
    assert net.features(x).shape == (3, 32)
    logits, features = net.forward_images(pictures(3, 112, 112))
    torch.testing.assert_close(logits, net(x))
    torch.testing.assert_close(features, net.features(x))


# All three, on a man who is neutral at first and smiles broadly halfway


@pytest.fixture
def man(weights_ready: None, face_frames: list[np.ndarray]) -> list[np.ndarray]:
    return [face_frames[0], face_frames[4]]


def face_of(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest box (4,) and its landmarks (5, 2)."""
    offsets, scores, landmarks = (each.numpy() for each in retinaface.load().forward_images(torch.tensor(image)[None]))
    anchors, best = retinaface.priors(*image.shape[:2]), scores[0].argmax()
    assert scores[0, best] > 0.99
    box = retinaface.decode_boxes(anchors[best], offsets[0, best])
    return box, retinaface.decode_landmarks(anchors[best], landmarks[0, best])


def crop(image: np.ndarray, box: np.ndarray) -> torch.Tensor:
    left, top, right, bottom = box.round().astype(int).clip(0)
    return torch.tensor(cv2.resize(image[top:bottom, left:right], (112, 112)))[None]


def test_a_face_is_found_with_its_landmarks_where_they_belong(man: list[np.ndarray]) -> None:
    (left, top, right, bottom), points = face_of(man[0])
    assert ((points > [left, top]) & (points < [right, bottom])).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_a_smile_is_happy_and_it_is_the_same_man(man: list[np.ndarray]) -> None:
    faces = [crop(image, face_of(image)[0]) for image in man]
    emotions = [expression.LABELS[expression.load().forward_images(face)[0].argmax()] for face in faces]
    assert emotions == ["neutral", "happy"]
    before, after = (mobilefacenet.load().forward_images(face)[0][0] for face in faces)
    assert before @ after > 0.5
