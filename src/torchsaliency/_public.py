"""Everything that `torchsaliency` offers, imported together so that all of it is registered."""

from types import ModuleType as _ModuleType

from torchsaliency.api import overlay as overlay
from torchsaliency.api import preprocess as preprocess
from torchsaliency.core.acceleration import accelerated as accelerated
from torchsaliency.core.discovery import default_layer as default_layer
from torchsaliency.core.discovery import register_default_layer as register_default_layer
from torchsaliency.core.embedding import embeddings as embeddings
from torchsaliency.core.embedding import similarity_to as similarity_to
from torchsaliency.core.explain import explain as explain
from torchsaliency.core.explanation import Explanation as Explanation
from torchsaliency.core.layer import ChannelsLast as ChannelsLast
from torchsaliency.core.layer import Grid as Grid
from torchsaliency.core.layer import Layer as Layer
from torchsaliency.core.layer import Tokens as Tokens
from torchsaliency.core.masking import BlackPixel as BlackPixel
from torchsaliency.core.masking import Blur as Blur
from torchsaliency.core.masking import GivenImage as GivenImage
from torchsaliency.core.masking import ImageMinimum as ImageMinimum
from torchsaliency.core.masking import Masking as Masking
from torchsaliency.core.masking import MeanColour as MeanColour
from torchsaliency.core.masking import RISEBlur as RISEBlur
from torchsaliency.core.method import ChannelCAM as ChannelCAM
from torchsaliency.core.method import Method as Method
from torchsaliency.core.method import Needs as Needs
from torchsaliency.core.method import Saliency as Saliency
from torchsaliency.core.method import create as create
from torchsaliency.core.method import register as register
from torchsaliency.core.target import BoxScore as BoxScore
from torchsaliency.core.target import EmbeddingSimilarity as EmbeddingSimilarity
from torchsaliency.core.target import Logit as Logit
from torchsaliency.core.target import LogProbability as LogProbability
from torchsaliency.core.target import Margin as Margin
from torchsaliency.core.target import MaskScore as MaskScore
from torchsaliency.core.target import OwnEmbedding as OwnEmbedding
from torchsaliency.core.target import Probability as Probability
from torchsaliency.core.target import Regression as Regression
from torchsaliency.core.target import Target as Target
from torchsaliency.core.trace import Trace as Trace
from torchsaliency.core.trace import View as View
from torchsaliency.core.trace import tracing as tracing
from torchsaliency.errors import CheckpointError as CheckpointError
from torchsaliency.errors import DataError as DataError
from torchsaliency.errors import InputError as InputError
from torchsaliency.errors import LayerError as LayerError
from torchsaliency.errors import OptionError as OptionError
from torchsaliency.errors import TargetError as TargetError
from torchsaliency.errors import TorchSaliencyError as TorchSaliencyError
from torchsaliency.methods.attention import AttentionGradCAM as AttentionGradCAM
from torchsaliency.methods.attention import AttentionRollout as AttentionRollout
from torchsaliency.methods.attention import GenericAttention as GenericAttention
from torchsaliency.methods.attention import RawAttention as RawAttention
from torchsaliency.methods.attribution import LIME as LIME
from torchsaliency.methods.attribution import FeatureAblation as FeatureAblation
from torchsaliency.methods.attribution import GradientSHAP as GradientSHAP
from torchsaliency.methods.attribution import InputXGradient as InputXGradient
from torchsaliency.methods.attribution import IntegratedGradients as IntegratedGradients
from torchsaliency.methods.attribution import KernelSHAP as KernelSHAP
from torchsaliency.methods.attribution import NormGrad as NormGrad
from torchsaliency.methods.attribution import SmoothGrad as SmoothGrad
from torchsaliency.methods.attribution import VanillaGradient as VanillaGradient
from torchsaliency.methods.cam import CAM as CAM
from torchsaliency.methods.cam import AblationCAM as AblationCAM
from torchsaliency.methods.cam import FakeCAM as FakeCAM
from torchsaliency.methods.cam import GradCAM as GradCAM
from torchsaliency.methods.cam import GradCAMPlusPlus as GradCAMPlusPlus
from torchsaliency.methods.cam import HiResCAM as HiResCAM
from torchsaliency.methods.cam import LayerCAM as LayerCAM
from torchsaliency.methods.cam import OptiCAM as OptiCAM
from torchsaliency.methods.cam import ScoreCAM as ScoreCAM
from torchsaliency.methods.cam import XGradCAM as XGradCAM
from torchsaliency.methods.masking import IBA as IBA
from torchsaliency.methods.masking import RISE as RISE
from torchsaliency.methods.masking import ExtremalPerturbation as ExtremalPerturbation
from torchsaliency.methods.masking import MeaningfulPerturbation as MeaningfulPerturbation
from torchsaliency.methods.masking import Occlusion as Occlusion
from torchsaliency.methods.propagation import LRP as LRP
from torchsaliency.methods.propagation import TIBAV as TIBAV
from torchsaliency.methods.propagation import DeconvNet as DeconvNet
from torchsaliency.methods.propagation import DeepLIFT as DeepLIFT
from torchsaliency.methods.propagation import DeepSHAP as DeepSHAP
from torchsaliency.methods.propagation import GuidedBackprop as GuidedBackprop
from torchsaliency.methods.smoothing import Augmented as Augmented
from torchsaliency.methods.smoothing import EigenSmoothed as EigenSmoothed
from torchsaliency.methods.tucker import MTSM as MTSM
from torchsaliency.methods.tucker import TSM as TSM
from torchsaliency.methods.tucker import EigenCAM as EigenCAM
from torchsaliency.methods.tucker import MultivecEigenCAM as MultivecEigenCAM
from torchsaliency.methods.tucker import dominant_variance as dominant_variance
from torchsaliency.viz import Panel as Panel
from torchsaliency.viz import Row as Row
from torchsaliency.viz import grid as grid
from torchsaliency.zoo import Network as Network
from torchsaliency.zoo import Preprocessing as Preprocessing
from torchsaliency.zoo import load_model as load_model
from torchsaliency.zoo import paper_layer as _paper_layer

register_default_layer(_paper_layer)

__all__ = sorted(  # noqa: PLE0605
    name
    for name, value in globals().items()
    if not name.startswith("_") and not isinstance(value, _ModuleType)
)
