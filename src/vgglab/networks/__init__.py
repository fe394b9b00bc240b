"""The networks of the paper in plain torch: no Lightning, no Hydra.

Import from here; the modules behind may move.
"""

from vgglab.networks.build import build_vgg
from vgglab.networks.dense import DenseVGG, to_dense
from vgglab.networks.effective_field import EffectiveField, effective_receptive_field
from vgglab.networks.layers import extract, layer_names
from vgglab.networks.perceptual import PerceptualLoss
from vgglab.networks.receptive_field import ReceptiveField, receptive_field
from vgglab.networks.transfer import initialise_from
from vgglab.networks.vgg import VGG
from vgglab.networks.weights import WeightsError, load_weights, read_state_dict

__all__ = [
    "VGG",
    "DenseVGG",
    "EffectiveField",
    "PerceptualLoss",
    "ReceptiveField",
    "WeightsError",
    "build_vgg",
    "effective_receptive_field",
    "extract",
    "initialise_from",
    "layer_names",
    "load_weights",
    "read_state_dict",
    "receptive_field",
    "to_dense",
]
