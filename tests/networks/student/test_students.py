"""Students: the paper's three, timm's and MONAI's."""

from __future__ import annotations

import io
from copy import deepcopy
from functools import cache

import pytest
import timm
import torch
from torch import nn

from monai_rd.networks import DeployedStudent, Student, for_training
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from monai_rd.networks.student.students import STUDENTS, student_dims

PAPER = {"resnet18": 512, "mobilenet_v2": 1280, "shufflenet_v2_x1_0": 1024}
VOLUMES = {"resnet10_3d": 512, "resnet18_3d": 512, "densenet121_3d": 1024, "efficientnet_b0_3d": 1280}
# With a convolution before the head (`num_features` is another width), fused branches, attention, one size, two heads.
FAMILIES = (
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050",
    "ghostnet_050",
    "lcnet_035",
    "hgnetv2_b0",
    "efficientvit_b0",
    "efficientvit_m0",
    "repvit_m0_9",
    "repvgg_a0",
    "mobileone_s0",
    "fastvit_t8",
    "levit_conv_128s",
    "deit_tiny_distilled_patch16_224",
)
FUSED = ("timm:repvit_m0_9", "timm:repvgg_a0", "timm:mobileone_s0", "timm:fastvit_t8", "timm:efficientvit_m0")


@cache
def student(name: str) -> Student:
    """A student to look at, not to change."""
    return moved(Student(name, num_classes=3)).eval()


def moved(network: Student) -> Student:
    """BatchNorm as after a training: with its initial values a fused branch could be wrong and not show it."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.8, 1.2),
                (module.weight, 0.8, 1.2),
                (module.bias, -0.2, 0.2),
            ):
                if tensor is not None:
                    nn.init.uniform_(tensor, low, high)
    return network


def images(network: Student, batch: int = 2) -> torch.Tensor:
    if network.spatial_dims == 3:
        return torch.rand(batch, 1, 32, 36, 32)
    return torch.rand(batch, 3, *(network.fixed_size or (64, 64)))


@pytest.mark.parametrize("name", STUDENTS)
def test_logits_are_the_classifier_of_the_features(name: str) -> None:
    one = student(name)
    image = images(one)
    with torch.no_grad():
        features = one.features(image)
        assert features.shape == (2, (PAPER | VOLUMES)[name]) == (2, one.feature_dim)
        torch.testing.assert_close(one(image), one.classifier(features))
    assert one.spatial_dims == student_dims(name) == (3 if name in VOLUMES else 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_width_is_that_of_timms_own_classifier(name: str) -> None:
    with torch.device("meta"):
        full = timm.create_model(name)
    heads = full.pretrained_cfg["classifier"]
    linear = full.get_submodule(heads if isinstance(heads, str) else heads[0])
    one = student(f"timm:{name}")
    assert one.feature_dim == linear.in_features
    with torch.no_grad():
        assert one(images(one)).shape == (2, 3)
    assert {key.partition(".")[0] for key in one.state_dict()} == {"backbone", "classifier", "temperature"}


def test_some_of_these_widths_are_not_num_features() -> None:
    """Else probing would be needless, and the test above would not show that it works."""
    told = [getattr(student(f"timm:{name}").backbone, "num_features") for name in FAMILIES]  # noqa: B009
    found = [student(f"timm:{name}").feature_dim for name in FAMILIES]
    assert sum(a != b for a, b in zip(told, found, strict=True)) >= 5


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "timm:levit_conv_128s"])
def test_probing_leaves_no_trace(name: str) -> None:
    torch.manual_seed(3)
    expected = timm.create_model(name.removeprefix("timm:"), num_classes=0).state_dict()
    drawn_next = torch.rand(())
    torch.manual_seed(3)
    one = Student(name)
    torch.manual_seed(3)
    backbone = Student(name).backbone
    for key, tensor in expected.items():
        assert torch.equal(backbone.state_dict()[key], tensor), key
    assert one.training
    assert all(module.training for module in one.modules())
    torch.manual_seed(3)
    from monai_rd.networks.student.backbones import build_backbone

    build_backbone(name)
    assert torch.equal(torch.rand(()), drawn_next)


@pytest.mark.parametrize("name", [*PAPER, "timm:efficientvit_m0"])
def test_a_bag_is_the_mean_over_its_slices(name: str) -> None:
    one = student(name)
    bag = torch.rand(2, 3, 3, *(one.fixed_size or (64, 64)))
    with torch.no_grad():
        expected = torch.stack([one.features(bag[:, index]) for index in range(3)]).mean(dim=0)
        torch.testing.assert_close(one.features(bag), expected, atol=1e-5, rtol=1e-4)


SOON_SCRIPTED = ("resnet18", "resnet10_3d", "timm:deit_tiny_distilled_patch16_224")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in SOON_SCRIPTED))
        for name in (*STUDENTS, "timm:efficientvit_b0", "timm:deit_tiny_distilled_patch16_224")
    ],
)
def test_torchscript_gives_the_same(name: str) -> None:
    one = student(name)
    scripted = torch.jit.script(one)
    with torch.no_grad():
        for image in (images(one), *([] if one.spatial_dims == 3 else [torch.rand(1, 4, 3, 64, 64)])):
            torch.testing.assert_close(scripted(image), one(image), atol=1e-5, rtol=1e-5)
    with pytest.raises(torch.jit.Error, match=r"images have 3 channels|takes volumes"):
        scripted(torch.rand(1, 1, 64, 64))


@pytest.mark.parametrize("kind", [Student, DeployedStudent])
def test_scripting_runs_no_backbone_to_find_levels(kind: type[Student], monkeypatch: pytest.MonkeyPatch) -> None:
    one = kind("shufflenet_v2_x1_0", 3).eval()
    assert len(one.levels) > 2

    def asked(self: Student) -> None:
        raise AssertionError

    monkeypatch.setattr(Student, "_noise", asked)
    with pytest.raises(AssertionError):
        _ = one.levels
    torch.jit.script(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:repvgg_a0", "timm:deit_tiny_distilled_patch16_224"])
def test_onnx_gives_the_same(name: str) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    one = student(name).deployed()
    image, file = images(one, 1), io.BytesIO()
    torch.onnx.export(one, (image,), file, input_names=["image"], verbose=False)
    (logits,) = onnxruntime.InferenceSession(file.getvalue()).run(None, {"image": image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), one(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FUSED)
def test_deployed_form_is_smaller_and_gives_the_same(name: str) -> None:
    one = student(name)
    before = {key: tensor.clone() for key, tensor in one.state_dict().items()}
    deployed, image = one.deployed(), images(one)
    with torch.no_grad():
        expected = one(image)
        scale = float(expected.abs().max())
        torch.testing.assert_close(deployed(image), expected, atol=1e-4 * scale, rtol=0)
    assert sum(p.numel() for p in deployed.parameters()) < sum(p.numel() for p in one.parameters())
    assert one.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in one.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "timm:mobilenetv4_conv_small_050", "resnet10_3d"])
def test_deployed_form_of_others_is_a_copy_in_eval_mode(name: str) -> None:
    one = Student(name)
    deployed = one.deployed()
    assert one.training
    assert not any(module.training for module in deployed.modules())
    nn.init.zeros_(one.classifier.weight)
    assert deployed.state_dict().keys() == one.state_dict().keys()
    assert deployed.classifier.weight.any()


@pytest.mark.parametrize("name", ["resnet10_3d", "efficientnet_b0_3d"])
def test_a_volume_trains(name: str) -> None:
    torch.manual_seed(0)
    one = Student(name)
    nn.functional.cross_entropy(one(images(one)), torch.tensor([0, 1])).backward()
    for key, parameter in one.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert one.classifier.weight.grad is not None
    assert one.classifier.weight.grad.any()


def test_input_is_normalised_inside() -> None:
    for name, mean, std in (
        ("resnet18", IMAGENET_MEAN, IMAGENET_STD),
        ("timm:efficientvit_m0", IMAGENET_MEAN, IMAGENET_STD),
        ("timm:mobilenetv3_small_050", IMAGENET_MEAN, IMAGENET_STD),
        ("timm:vit_tiny_patch16_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("efficientnet_b0_3d", (0.5,), (0.5,)),
    ):
        one = student(name)
        image = images(one, 1)
        shape = (1, -1) + (1,) * one.spatial_dims
        with torch.no_grad():
            expected = one.backbone((image - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))
            torch.testing.assert_close(one.features(image), expected)
        assert not {"mean", "std"} & set(one.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "timm:mobilenetv3_small_050", "efficientnet_b0_3d"])
def test_a_seed_gives_the_same_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in Student(name).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_vision_transformers_take_other_sizes_and_stay_what_they_are_at_their_own() -> None:
    one = student("timm:deit_tiny_distilled_patch16_224")
    own = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0).eval()
    own.load_state_dict(one.backbone.state_dict())
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(one.features(image), own((image - one.mean) / one.std))
        assert one(torch.rand(1, 2, 3, 64, 96)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"got \[60, 64\] pixels: set image_size to a multiple of 16"):
        one(torch.rand(1, 3, 60, 64))


def test_a_network_of_one_size_names_it() -> None:
    one = student("timm:levit_conv_128s")
    assert one.fixed_size == [224, 224]
    with pytest.raises(ValueError, match=r"takes images of \[224, 224\] pixels only, got \[64, 64\]: set image_size"):
        one(torch.rand(1, 3, 64, 64))
    try:
        timm.create_model("efficientvit_m0").eval()(torch.rand(1, 3, 112, 112))
        of_any_size = True
    except AssertionError:  # timm before 1.0.31
        of_any_size = False
    assert student("timm:efficientvit_m0").fixed_size == ([] if of_any_size else [224, 224])  # timm calls it fixed


def test_loading_weights_reaches_what_a_network_computed_of_the_old_ones() -> None:
    """TinyViT keeps its attention biases, indexed, from the first forward in eval mode on."""
    one = Student("timm:tiny_vit_5m_224").eval()
    other = deepcopy(one)
    for key, parameter in one.named_parameters():
        if "attention_biases" in key:
            nn.init.normal_(parameter, std=5)
    image = images(one, 1)
    with torch.no_grad():
        expected, before = one(image), other(image)
        assert not torch.allclose(before, expected, atol=0.01)
        other.load_state_dict(one.state_dict())
        torch.testing.assert_close(other(image), expected)
    assert not other.training


def test_wrong_requests_are_refused() -> None:
    known = "known: resnet18, mobilenet_v2, shufflenet_v2_x1_0, resnet10_3d, .*, timm:NAME"
    for ask in (Student, student_dims):
        with pytest.raises(ValueError, match=f"unknown student 'resnet19'; {known}"):
            ask("resnet19")
        with pytest.raises(ValueError, match=f"unknown student 'timm:resnet19'.*timm.list_models.*{known}"):
            ask("timm:resnet19")
        with pytest.raises(ValueError, match=r"unknown student 'timm:resnet18.nowhere'.*resnet18.a1_in1k"):
            ask("timm:resnet18.nowhere")
    assert student_dims("timm:resnet18.a1_in1k") == 2
    with pytest.raises(ValueError, match="at least 2, got 1"):
        Student("resnet18", num_classes=1)
    with pytest.raises(ValueError, match="got 3 dimensions"):
        student("resnet18")(torch.rand(3, 64, 64))
    with pytest.raises(ValueError, match=r"images have 3 channels, got \[2, 1, 64, 64\]"):
        student("resnet18")(torch.rand(2, 1, 64, 64))
    for shape in ((1, 3, 64, 64), (1, 4, 3, 64, 64), (1, 1, 32, 31, 32)):
        with pytest.raises(ValueError, match=r"'resnet10_3d' takes volumes .*at least 32 x 32 x 32, got \[1, "):
            student("resnet10_3d")(torch.rand(shape))


def test_a_3d_student_averages_the_features_of_windows() -> None:
    windows, network = torch.rand(2, 3, 32, 32, 32), student("resnet10_3d")
    features = network.slice_features(windows)
    assert features.shape == (2, 3, 512)
    torch.testing.assert_close(features[:, 2], network.features(windows[:, 2:]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network(windows), network.logits(features.mean(dim=1)))


def test_fold_and_unfold_are_inverse() -> None:
    bag = torch.rand(2, 5, 3, 4, 4)
    folded, slices = fold(bag)
    assert folded.shape == (10, 3, 4, 4)
    assert torch.equal(unfold(folded, slices), bag)
    assert fold(folded)[1] == 1


@pytest.mark.parametrize("name", ["resnet18", "timm:repvit_m0_9"])
def test_a_trained_students_file_fills_the_deployed_form(name: str) -> None:
    trained, deployed = student(name), DeployedStudent(name, 3)
    deployed.load_state_dict(trained.state_dict())
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = trained.deployed()(image)
        torch.testing.assert_close(deployed.eval()(image), expected)
        torch.testing.assert_close(torch.jit.script(deployed)(image), expected)
    again = DeployedStudent(name, 3)
    again.load_state_dict(deployed.state_dict())
    assert torch.equal(again.classifier.weight, trained.classifier.weight)
    with pytest.raises(RuntimeError, match=r"Missing key|Unexpected key"):
        deployed.load_state_dict(student("mobilenet_v2").state_dict())


@pytest.mark.parametrize(("name", "shape"), [("resnet18", (2, 3, 64, 64)), ("resnet10_3d", (1, 1, 32, 32, 32))])
def test_a_training_has_another_layout_and_the_same_values(name: str, shape: tuple[int, ...]) -> None:
    plain = Student(name, 2).eval()
    other = for_training(deepcopy(plain))
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    weights = [p for p in other.parameters() if p.dim() > 2 and min(p.shape[1], p.shape[-1]) > 1]
    assert len(weights) > 5
    assert all(p.is_contiguous(memory_format=formats[p.dim()]) for p in weights)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    image = torch.rand(shape)
    with torch.no_grad():
        torch.testing.assert_close(other(image), plain(image), atol=1e-4, rtol=1e-4)


def test_networks_of_depthwise_convolutions_of_volumes_stay_as_they_are() -> None:
    network = for_training(Student("efficientnet_b0_3d", 2))
    assert all(parameter.is_contiguous() for parameter in network.parameters())
