"""RD from CT-FM, at its full size, to a residual and a dense student of volumes."""

from __future__ import annotations

import pytest
import torch

from monai_rd.methods import build_method
from monai_rd.networks import FrozenFoundationModel, Student, load_teacher
from tests.methods.steps import step
from tests.networks.teacher.zoo import published


@pytest.fixture(scope="module")
def ct_fm(tmp_path_factory: pytest.TempPathFactory) -> FrozenFoundationModel:
    path, _ = published.write(tmp_path_factory.mktemp("ct_fm"), "ct_fm")
    return load_teacher("ct_fm", path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10_3d", "densenet121_3d"])
def test_every_parameter_learns_from_ct_fm(name: str, ct_fm: FrozenFoundationModel) -> None:
    torch.manual_seed(0)
    student = Student(name, num_classes=2)
    method = build_method("rd", student, ct_fm, [0, 1])
    volumes, target = torch.rand(4, 1, 32, 32, 32), torch.tensor([0, 1, 0, 1])
    terms = step(method, student, ct_fm, volumes, target)
    sum(terms.values()).backward()
    for key, parameter in [*student.named_parameters(), *method.named_parameters()]:
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    with pytest.raises(ValueError, match=r"the teacher 'ct_fm' reads volumes, the student images or slices"):
        build_method("rd", Student("shufflenet_v2_x1_0"), ct_fm, [0, 1])
