"""The models by name. A new one is a file in this folder, a line here, and its config in training/configs.py."""

from __future__ import annotations

from training.models.base import Model, RetrievalModel
from training.models.bert4rec import Bert4Rec
from training.models.conv_net import ConvNet
from training.models.decoder import TextDecoder
from training.models.matrix_factorisation import MatrixFactorisation
from training.models.multi_task import MultiTask
from training.models.quantile_mlp import QuantileMlp
from training.models.ranking import DcnV2, DeepFm, Dlrm, FinalMlp, Fm, LogisticRegression
from training.models.row_mlp import RowMlp
from training.models.sequence import Sequence
from training.models.text_classes import TextClasses
from training.models.tuned_text_classes import TunedTextClasses
from training.models.two_tower import TwoTower
from training.models.value_mlp import ValueMlp
from training.models.vision_transformer import VisionTransformer
from training.models.word_weights import WordWeights

__all__ = ["MODELS", "Model", "RetrievalModel"]

MODELS: dict[str, type[Model]] = {
    "two_tower": TwoTower,
    "matrix_factorisation": MatrixFactorisation,
    "row_mlp": RowMlp,
    "quantile_mlp": QuantileMlp,
    "sequence": Sequence,
    "bert4rec": Bert4Rec,
    "logistic_regression": LogisticRegression,
    "fm": Fm,
    "deepfm": DeepFm,
    "dlrm": Dlrm,
    "dcn_v2": DcnV2,
    "final_mlp": FinalMlp,
    "multi_task": MultiTask,
    "value_mlp": ValueMlp,
    "word_weights": WordWeights,
    "text_classes": TextClasses,
    "tuned_text_classes": TunedTextClasses,
    "conv_net": ConvNet,
    "vision_transformer": VisionTransformer,
    "decoder": TextDecoder,
}
