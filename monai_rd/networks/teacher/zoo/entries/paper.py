"""The teachers of the paper (arXiv 2407.06504): PMC-CLIP, RadImageNet, LVM-Med."""

from __future__ import annotations

from monai_rd.networks.preprocessing import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from monai_rd.networks.teacher.zoo.entry import Hub, TeacherEntry

__all__ = ["ENTRIES"]

# As in the authors' code: (x - 127.5) * 2 / 255, with OpenCV's channel order. The model card of the mirror states
# ImageNet's mean and standard deviation instead.
_RADIMAGENET = Preprocessing(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), channel_order="BGR")
_RADIMAGENET_TERMS = "the data set has its own terms at radimagenet.com"
_RADIMAGENET_SOURCE = "https://github.com/BMEII-AI/RadImageNet (RadImageNet_pytorch/{}) or its mirror on the Hub"
_RADIMAGENET_PAPER = "Mei et al., Radiology: Artificial Intelligence 2022, 4(5)"
_RADIMAGENET_UNVERIFIED = "that the mirror holds the authors' files"

_NOT_RADIMAGENET = "a network of torchvision or timm: RadImageNet's tensors are called backbone.0.... and so on"
_KERAS = (
    "RadImageNet-ResNet50_notop.pth, a conversion from Keras with other weights, convolutions with a bias and another "
    "preprocessing"
)

_INCEPTION_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")

_LVM_MED_SOURCE = "https://github.com/duyhominhnguyen/LVM-Med (Google Drive)"
_LVM_MED_PAPER = "Nguyen et al., NeurIPS 2023, arXiv 2306.11925"
_LVM_MED_TERMS = "2000 images of HAM10000, the training data of ISIC2018, were in its pretraining"


def _radimagenet(name: str, file: str, **other: object) -> TeacherEntry:
    return TeacherEntry(
        name=name,
        preprocessing=_RADIMAGENET,
        kind="map",
        licence="MIT",
        terms=_RADIMAGENET_TERMS,
        source=_RADIMAGENET_SOURCE.format(file),
        modality="CT, MR, ultrasound",
        file=file,
        hub=Hub("Lab-Rasool/RadImageNet", file),
        citation=_RADIMAGENET_PAPER,
        unverified=_RADIMAGENET_UNVERIFIED,
        **other,  # type: ignore[arg-type]
    )


ENTRIES = (
    TeacherEntry(
        name="pmc_clip",
        # Head width 64 gives 32 heads in the attention pool, which is loaded but does not run. Public copies of the
        # loading code say 8 heads; the training code says 32.
        builder="open_clip:visual",
        arguments={
            "embed_dim": 768,
            "vision_cfg": {"layers": [3, 4, 6, 3], "width": 64, "head_width": 64, "image_size": 224},
        },
        preprocessing=Preprocessing(224, CLIP_MEAN, CLIP_STD, interpolation="bicubic"),
        channels=2048,
        kind="map",
        licence="MIT (code)",
        terms="the card of the data set, where the weights lie, says OpenRAIL [unverified]",
        source="https://huggingface.co/datasets/axiong/pmc_oa",
        renamed={r"^(module\.)?visual\.": ""},
        ignored={
            r"(module\.)?text_encoder\.": "text encoder",
            r"(module\.)?(positional_embedding|ln_final|text_projection|mlm_projection|logit_scale)": "text encoder",
            r"(module\.)?(img_special_token|fusion_module)": "fusion module",
        },
        lookalikes={
            r"((module\.)?visual\.)?head\.weight": "the other ResNet of PMC-CLIP's code, which was not released: one "
            "convolution as stem and a linear head in place of the attention pool"
        },
        modality="figures of papers",
        tap="layer4",
        grid=(7, 7),
        params=37.79,
        gmacs=5.37,
        file="image_encoder(resnet50).pth or checkpoint.pt",
        hub=Hub("axiong/pmc_oa", "image_encoder(resnet50).pth", repo_type="dataset"),
        citation="Lin et al., MICCAI 2023, arXiv 2303.07240",
        numerics="timm's resnet50_clip",
        unverified="the licence of the weights",
    ),
    _radimagenet(
        "radimagenet_densenet121",
        "DenseNet121.pt",
        # timm's last normalisation includes the ReLU that torchvision applies after `features`. The features of the
        # published file end before this ReLU; final_relu=False gives those.
        builder="timm:densenet121",
        arguments={"num_classes": 0, "global_pool": "", "final_relu": True},
        channels=1024,
        renamed={r"^backbone\.0\.": "features."},
        lookalikes={r"features\.": _NOT_RADIMAGENET},
        tap="features, after the last ReLU",
        grid=(7, 7),
        params=6.95,
        gmacs=2.83,
        numerics="torchvision's densenet121",
    ),
    _radimagenet(
        "radimagenet_resnet50",
        "ResNet50.pt",
        builder="timm:resnet50",
        arguments={"num_classes": 0, "global_pool": ""},
        channels=2048,
        renamed={
            r"^backbone\.0\.": "conv1.",
            r"^backbone\.1\.": "bn1.",
            **{rf"^backbone\.{index + 3}\.": f"layer{index}." for index in (1, 2, 3, 4)},
        },
        lookalikes={r"(.*\.)?conv1\.bias": _KERAS, r"conv1\.weight": _NOT_RADIMAGENET},
        tap="layer4",
        grid=(7, 7),
        params=23.51,
        gmacs=4.09,
        numerics="torchvision's resnet50",
    ),
    _radimagenet(
        "radimagenet_inceptionv3",
        "InceptionV3.pt",
        builder="timm:inception_v3",
        arguments={"num_classes": 0, "global_pool": ""},
        channels=2048,
        # The published keys number the children of torchvision's network; 3 and 6 are pooling layers.
        renamed={
            rf"^backbone\.{index}\.": f"{child}."
            for index, child in {
                0: "Conv2d_1a_3x3",
                1: "Conv2d_2a_3x3",
                2: "Conv2d_2b_3x3",
                4: "Conv2d_3b_1x1",
                5: "Conv2d_4a_3x3",
                **dict(zip(range(7, 18), (f"Mixed_{block}" for block in _INCEPTION_BLOCKS), strict=True)),
            }.items()
        },
        lookalikes={r"Conv2d_1a_3x3\.": _NOT_RADIMAGENET},
        tap="Mixed_7c",
        grid=(5, 5),
        params=21.79,
        gmacs=2.84,
        numerics="torchvision's inception_v3",
    ),
    TeacherEntry(
        name="lvm_med_vit_b",
        # SAM's image encoder for 1024 pixels without absolute position embeddings. The authors run it at 224 pixels:
        # the attention windows fit, and the relative positions of the global blocks are interpolated.
        builder="timm:samvit_base_patch16",
        arguments={"num_classes": 0, "use_abs_pos": False, "img_size": 1024, "layer_norm_eps": 1e-6, "neck": False},
        preprocessing=Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD),
        channels=768,
        kind="map",
        licence="CC BY-NC-SA 4.0",
        source=_LVM_MED_SOURCE,
        renamed={r"\.mlp\.lin": ".mlp.fc"},
        ignored={r"neck\.": "neck"},
        modality="many modalities",
        terms=_LVM_MED_TERMS,
        tap="last block, before the neck",
        grid=(14, 14),
        params=85.74,
        gmacs=17.52,
        non_commercial=True,
        file="lvmmed_vit.pth",
        citation=_LVM_MED_PAPER,
        numerics="SAM's encoder, written anew",
    ),
    TeacherEntry(
        name="lvm_med_resnet50",
        builder="timm:resnet50",
        arguments={"num_classes": 0, "global_pool": ""},
        preprocessing=Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD),
        channels=2048,
        kind="map",
        licence="CC BY-NC-SA 4.0",
        source=_LVM_MED_SOURCE,
        modality="many modalities",
        terms=_LVM_MED_TERMS,
        tap="layer4",
        grid=(7, 7),
        params=23.51,
        gmacs=4.09,
        non_commercial=True,
        file="lvmmed_resnet.torch",
        citation=_LVM_MED_PAPER,
        numerics="torchvision's resnet50",
    ),
)
