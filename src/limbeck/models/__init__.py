"""Models: the small pairs and the papers' CIFAR nets, all others by name, saving, loading, calling."""

from limbeck.models.cifar import CifarResNet
from limbeck.models.forward import forward_of, unwrapped, without_answers
from limbeck.models.keras import KerasModule, as_module, is_keras
from limbeck.models.lora import Lora, add_adapters
from limbeck.models.names import build, known_models
from limbeck.models.pairs import ConvNet, conv_student, conv_teacher, dense_student, dense_teacher
from limbeck.models.saved import SavedCard, load, read_card, save
from limbeck.models.shrinking import shrink
from limbeck.models.spec import ModelSpec, Shape, TextShape
from limbeck.models.vgg import CifarVGG
from limbeck.models.wide import WideResNet

__all__ = [
    "CifarResNet",
    "CifarVGG",
    "ConvNet",
    "KerasModule",
    "Lora",
    "ModelSpec",
    "SavedCard",
    "Shape",
    "TextShape",
    "WideResNet",
    "add_adapters",
    "as_module",
    "build",
    "conv_student",
    "conv_teacher",
    "dense_student",
    "dense_teacher",
    "forward_of",
    "is_keras",
    "known_models",
    "load",
    "read_card",
    "save",
    "shrink",
    "unwrapped",
    "without_answers",
]
