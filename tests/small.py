"""A student that is trained and scored in a tenth of the time of a ResNet18, by the same code."""

SMALL = "timm:test_resnet"
