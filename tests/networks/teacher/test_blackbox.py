import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from monai_rd.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from monai_rd.networks.teacher.blackbox import OnnxBackbone, TFLiteBackbone
from monai_rd.networks.teacher.graph import is_channels_last
from monai_rd.networks.teacher.zoo import load_teacher

MOBILENET = Path(__file__).parents[3].parent / "shared" / "data" / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"


@pytest.mark.parametrize(
    ("shape", "default", "expected"),
    [
        ((1, 7, 7, 1280), False, True),
        ((1, 1280, 7, 7), True, False),
        ((1, 1, 1, 1280), False, True),
        ((1, 1280, 1, 1), True, False),
        ((1, 5, 7, 9), True, True),
        ((1, 5, 7, 9), False, False),
        ((1, 7, 7, 7), True, True),
    ],
)
def test_the_layout_of_an_activation(shape, default, expected):
    assert is_channels_last(shape, default) is expected


@pytest.mark.parametrize(
    ("backbone", "package", "remedy"),
    [
        (OnnxBackbone, "onnxruntime", "pip install onnx onnxruntime"),
        (TFLiteBackbone, "ai_edge_litert.interpreter", "pip install ai-edge-litert"),
    ],
)
def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch, backbone, package, remedy):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FileNotFoundError, match="no such file"):
        backbone(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(ImportError, match=remedy):
        backbone(tmp_path / "x")


# --- ONNX -------------------------------------------------------------------------------------------------------------


def trunk(channels=3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def classifier(channels=3):
    return nn.Sequential(trunk(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


class FromPixels(nn.Module):
    """What vendors ship: pixels [B, H, W, 3] as integers."""

    def __init__(self):
        super().__init__()
        self.network = classifier()

    def forward(self, pixels):
        return self.network(pixels.permute(0, 3, 1, 2).float() / 255)


class Attention(nn.Module):
    def forward(self, image):
        tokens = F.avg_pool2d(image, 4).flatten(2).transpose(1, 2).unflatten(2, (1, 3)).transpose(1, 2)
        return ((tokens @ tokens.transpose(2, 3)).softmax(-1) @ tokens).transpose(1, 2).flatten(2).mean(1)


def export(network, example, path, dynamo=False, dynamic=False):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
        options = (
            {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},), "verbose": False} if dynamic else {"verbose": False}
        )
    else:
        options = {"dynamic_axes": {"image": {0: "batch"}}} if dynamic else {}
    torch.onnx.export(network.eval(), (example,), str(path), input_names=["image"], dynamo=dynamo, **options)
    return path


@pytest.fixture(scope="module", params=["script", "dynamo, weights in a second file", "batch of one", "batch of four"])
def onnx_file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    if request.param.startswith("batch"):
        return export(classifier(), torch.rand(4 if "four" in request.param else 1, 3, 32, 32), path)
    dynamo = request.param.startswith("dynamo")
    if dynamo and torch.__version__ < "2.8":
        pytest.skip("the dynamo exporter of torch before 2.8 fails with today's onnxscript")
    export(classifier(), torch.rand(2, 3, 32, 32), path, dynamo, dynamic=True)
    assert not dynamo or path.with_suffix(".onnx.data").exists()
    return path


def test_onnx_is_the_torch_network(onnx_file, caplog):
    image = torch.rand(6, 3, 48, 40)
    with caplog.at_level(logging.INFO):
        teacher = load_teacher(str(onnx_file))
    assert "assumed: RGB, 32 x 32, mean (0.485, 0.456, 0.406)" in caplog.text
    resized = F.interpolate(image, size=(32, 32), mode="bilinear", antialias=True)
    normalised = (resized - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = trunk()(normalised)
    assert (teacher.kind, teacher.channels, teacher.name) == ("map", 16, "network.onnx")
    torch.testing.assert_close(teacher(image), expected, atol=1e-4, rtol=1e-4)

    vector = load_teacher(str(onnx_file), tap="vector")
    assert (vector.kind, vector.channels) == ("vector", 16)
    assert not vector.backbone.pool  # the graph has the pooled tensor
    torch.testing.assert_close(vector(image), expected.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)
    bag = image.unflatten(0, (2, 3))
    torch.testing.assert_close(vector(bag).flatten(0, 1), vector(image), atol=1e-6, rtol=1e-5)


def test_onnx_tensor_by_name(onnx_file):
    last = load_teacher(str(onnx_file), tap=_output(onnx_file))
    image = torch.rand(3, 3, 32, 32)
    assert (last.kind, last.channels) == ("vector", 5)
    with torch.no_grad():
        expected = classifier()[1:](load_teacher(str(onnx_file))(image))
    assert expected.shape == (3, 5)
    # classifier() draws its linear layer after the trunk from one seed, so the two agree
    torch.testing.assert_close(last(image), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"network\.onnx: no activation is named 'nonsense'; the last ones are: .*"):
        load_teacher(str(onnx_file), tap="nonsense")


def _output(path):
    import onnx

    return onnx.load(path, load_external_data=False).graph.output[0].name


def test_onnx_fingerprint_sees_every_file(onnx_file):
    first = load_teacher(str(onnx_file)).fingerprint()
    assert load_teacher(str(onnx_file)).fingerprint() == first
    assert load_teacher(str(onnx_file), tap="vector").fingerprint() != first
    backbone = OnnxBackbone(onnx_file)
    before = backbone.fingerprint()
    last = backbone.files[-1]
    content = last.read_bytes()
    try:
        last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert backbone.fingerprint() != before
    finally:
        last.write_bytes(content)


def test_onnx_without_a_pooled_tensor(tmp_path):
    path = export(trunk(), torch.rand(1, 3, 32, 32), tmp_path / "trunk.onnx")
    image = torch.rand(2, 3, 32, 32)
    backbone = OnnxBackbone(path, "vector")
    assert backbone.pool
    torch.testing.assert_close(backbone(image), OnnxBackbone(path)(image).mean(dim=(2, 3)))


def test_onnx_of_pixels_channels_last(tmp_path, caplog):
    example = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    path = export(FromPixels(), example, tmp_path / "pixels.onnx")
    with caplog.at_level(logging.INFO):
        teacher = load_teacher(str(path))
    assert "assumed: RGB, 32 x 32, uint8 pixels" in caplog.text
    assert teacher.backbone.integer
    pixels = torch.randint(0, 256, (3, 3, 32, 32))
    with torch.no_grad():
        expected = trunk()(pixels / 255)
    torch.testing.assert_close(teacher(pixels / 255), expected, atol=1e-4, rtol=1e-4)


def test_onnx_of_grey_images_of_any_size(tmp_path, caplog):
    path = tmp_path / "grey.onnx"
    pytest.importorskip("onnx")
    axes = {"dynamic_axes": {"image": {0: "batch", 2: "rows", 3: "columns"}}}
    torch.onnx.export(
        classifier(1), (torch.rand(1, 1, 32, 32),), str(path), input_names=["image"], dynamo=False, **axes
    )
    with caplog.at_level(logging.INFO):
        teacher = load_teacher(str(path))
    assert "224 x 224 is assumed" in caplog.text
    assert teacher.preprocessing.channel_order == "GRAY"
    assert teacher(torch.rand(2, 3, 64, 64)).shape == (2, 16, 56, 56)


def test_onnx_attention_is_no_map(tmp_path):
    path = export(Attention(), torch.rand(1, 3, 32, 32), tmp_path / "vit.onnx")
    for tap in ("map", "vector"):
        with pytest.raises(ValueError, match="belongs to an attention and is no feature map; name the tensor"):
            OnnxBackbone(path, tap)
    assert OnnxBackbone(path, _output(path)).kind == "vector"


def test_onnx_files_that_are_none(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        load_teacher(str(tmp_path / "absent.onnx"))
    good = export(classifier(), torch.rand(1, 3, 32, 32), tmp_path / "good.onnx")
    (tmp_path / "cut.onnx").write_bytes(good.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"cut\.onnx: not an ONNX file, or damaged"):
        load_teacher(str(tmp_path / "cut.onnx"))
    with pytest.raises(ValueError, match="leave out the checkpoint"):
        load_teacher(str(good), checkpoint=good)
    linear = export(nn.Linear(4, 2), torch.rand(1, 4), tmp_path / "linear.onnx")
    with pytest.raises(ValueError, match=r"linear\.onnx: its input \[1, 4\] is no image batch"):
        load_teacher(str(linear))


# --- TFLite -----------------------------------------------------------------------------------------------------------


def tiny_tflite(path, signature=(1, 8, 8, 3)):
    """Write convolution, ReLU and mean in float32 and give back the convolution's weights [4, 3, 3, 3] and bias."""
    pytest.importorskip("ai_edge_litert")
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(4, 3, 3, 3)).astype(np.float32), random.normal(size=4).astype(np.float32)
    constants = {"weight": weight, "bias": bias, "axes": np.array([1, 2], np.int32)}
    shapes = {"image": [1, 8, 8, 3], "map": [1, 8, 8, 4], "pooled": [1, 4]}
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, graph.tensors = 3, [schema.BufferT()], []
    index = {}
    for name, value in [*shapes.items(), *constants.items()]:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, list(getattr(value, "shape", value))
        if name in constants:
            tensor.buffer = len(model.buffers)
            tensor.type = schema.TensorType.INT32 if value.dtype == np.int32 else schema.TensorType.FLOAT32
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            model.buffers.append(buffer)
        elif name == "image":
            tensor.shapeSignature = list(signature)
        index[name] = len(graph.tensors)
        graph.tensors.append(tensor)
    convolution, mean = schema.Conv2DOptionsT(), schema.ReducerOptionsT()
    convolution.padding, convolution.strideH, convolution.strideW = schema.Padding.SAME, 1, 1
    convolution.dilationHFactor = convolution.dilationWFactor = 1
    convolution.fusedActivationFunction = schema.ActivationFunctionType.RELU
    mean.keepDims = False
    model.operatorCodes, graph.operators = [], []
    for code, kind, options, inputs, output in (
        (
            schema.BuiltinOperator.CONV_2D,
            schema.BuiltinOptions.Conv2DOptions,
            convolution,
            ["image", "weight", "bias"],
            "map",
        ),
        (schema.BuiltinOperator.MEAN, schema.BuiltinOptions.ReducerOptions, mean, ["map", "axes"], "pooled"),
    ):
        operator, registered = schema.OperatorT(), schema.OperatorCodeT()
        registered.builtinCode = registered.deprecatedBuiltinCode = code
        registered.version = 1
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs, operator.outputs = [index[name] for name in inputs], [index[output]]
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        model.operatorCodes.append(registered)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [index["image"]], [index["pooled"]]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return torch.from_numpy(weight).permute(0, 3, 1, 2), torch.from_numpy(bias)


@pytest.mark.parametrize("signature", [(1, 8, 8, 3), (-1, 8, 8, 3)])
def test_tflite_in_float_is_the_torch_network(tmp_path, signature):
    weight, bias = tiny_tflite(tmp_path / "tiny.tflite", signature)
    image = torch.rand(5, 3, 8, 8)
    normalised = (image - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    expected = F.conv2d(normalised, weight, bias, padding=1).relu()
    teacher = load_teacher(str(tmp_path / "tiny.tflite"))
    assert (teacher.kind, teacher.channels, teacher.backbone.tensor) == ("map", 4, "map")
    torch.testing.assert_close(teacher(image), expected, atol=1e-4, rtol=1e-4)
    vector = load_teacher(str(tmp_path / "tiny.tflite"), tap="vector")
    assert (vector.kind, vector.channels, vector.backbone.tensor) == ("vector", 4, "pooled")
    torch.testing.assert_close(vector(image), expected.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


def test_tflite_images_of_open_size(tmp_path):
    tiny_tflite(tmp_path / "tiny.tflite", (-1, -1, -1, 3))
    assert load_teacher(str(tmp_path / "tiny.tflite"))(torch.rand(2, 3, 8, 8)).shape == (2, 4, 224, 224)


def test_tflite_files_that_are_none(tmp_path):
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(FileNotFoundError, match=r"absent\.tflite"):
        load_teacher(str(tmp_path / "absent.tflite"))
    (tmp_path / "text.tflite").write_text("not a network")
    with pytest.raises(ValueError, match=r"text\.tflite: not a TFLite file, or damaged"):
        load_teacher(str(tmp_path / "text.tflite"))
    tiny_tflite(tmp_path / "tiny.tflite")
    with pytest.raises(ValueError, match=r"no activation is named 'nonsense'; the last ones are: map, pooled"):
        load_teacher(str(tmp_path / "tiny.tflite"), tap="nonsense")
    with pytest.raises(ValueError, match="no activation is named 'weight'"):
        load_teacher(str(tmp_path / "tiny.tflite"), tap="weight")


@pytest.fixture(scope="module")
def mobilenet():
    pytest.importorskip("ai_edge_litert")
    if not MOBILENET.is_file():
        pytest.skip(f"the published MobileNetV2 is not at {MOBILENET}")
    return MOBILENET


@pytest.fixture(scope="module")
def images():
    """Smooth coloured images, whole numbers of 1/255."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(5, 3, 6, 6, generator=generator)
    return (F.interpolate(coarse, size=224, mode="bicubic").clamp(0, 1) * 255).round() / 255


def test_mobilenet_map(mobilenet, images):
    teacher = load_teacher(str(mobilenet))
    assert (teacher.kind, teacher.channels, teacher.preprocessing.size) == ("map", 1280, (224, 224))
    features = teacher(images)
    assert features.shape == (5, 1280, 7, 7)
    assert features.dtype == torch.float32
    # ReLU6 in 8 bits: whole multiples of 6 / 255 from 0 to 6
    assert features.min() == 0
    assert features.max() <= 6.0001
    steps = features / 0.0235294122248888
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert features.std(dim=0).max() > 0.1  # the images differ
    assert torch.equal(features, torch.cat([teacher(image[None]) for image in images]))
    assert torch.equal(features, teacher(images[:, None])[:, 0])


def test_mobilenet_vector_is_the_maps_mean(mobilenet, images):
    teacher = load_teacher(str(mobilenet), tap="vector")
    assert (teacher.kind, teacher.channels, teacher.backbone.pool) == ("vector", 1280, False)
    expected = load_teacher(str(mobilenet))(images).mean(dim=(2, 3)).clamp(max=255 * 0.019077831879258156)
    torch.testing.assert_close(teacher(images), expected, atol=0.0191, rtol=0)


def test_mobilenet_map_explains_the_networks_own_answer(mobilenet, images):
    """The map, averaged and put through the file's own classifier, gives the probabilities of an untapped network."""
    from ai_edge_litert.interpreter import Interpreter

    plain = Interpreter(str(mobilenet))
    plain.allocate_tensors()
    weights = next(d for d in plain.get_tensor_details() if list(d["shape"]) == [1001, 1, 1, 1280])
    scales = weights["quantization_parameters"]["scales"][:, None]
    weight = torch.from_numpy(plain.get_tensor(weights["index"]).reshape(1001, 1280) * scales).float()
    details = {d["index"]: d for d in plain.get_tensor_details()}
    bias = next(d for d in details.values() if list(d["shape"]) == [1001] and d["dtype"] == np.int32)
    bias_value = torch.from_numpy(plain.get_tensor(bias["index"]) * bias["quantization_parameters"]["scales"]).float()
    pooled = load_teacher(str(mobilenet))(images).mean(dim=(2, 3)).clamp(max=255 * 0.019077831879258156)
    logits = pooled @ weight.T + bias_value
    for image, expected in zip(images, logits.softmax(dim=1), strict=True):
        plain.set_tensor(
            plain.get_input_details()[0]["index"], (image * 255).round().byte().permute(1, 2, 0)[None].numpy()
        )
        plain.invoke()
        output = plain.get_output_details()[0]
        answer = torch.from_numpy(plain.get_tensor(output["index"])[0].astype(np.float32)) / 256
        torch.testing.assert_close(answer, expected, atol=0.05, rtol=0)  # int8 steps, and the runtime's own
        assert answer.argmax() in expected.topk(3).indices


def test_mobilenet_of_signed_pixels(mobilenet, images, tmp_path):
    """Without its first node the file takes int8: the same pixels less 128."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(mobilenet.read_bytes(), 0))
    graph = model.subgraphs[0]
    graph.inputs = graph.operators.pop(0).outputs
    model.signatureDefs = []
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "signed.tflite").write_bytes(bytes(builder.Output()))
    signed = load_teacher(str(tmp_path / "signed.tflite"))
    assert signed.backbone.dtype == np.int8
    assert torch.equal(signed(images), load_teacher(str(mobilenet))(images))


def test_mobilenet_fingerprint(mobilenet):
    prints = {load_teacher(str(mobilenet), tap=tap).fingerprint() for tap in ("map", "vector", "map")}
    assert len(prints) == 2
