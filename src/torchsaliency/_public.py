"""Everything that `torchsaliency` offers, imported together so that all of it is registered."""

from types import ModuleType as _ModuleType

from torchsaliency.allocator import tune_allocator as tune_allocator
from torchsaliency.api import overlay as overlay
from torchsaliency.api import overlay_concepts as overlay_concepts
from torchsaliency.api import preprocess as preprocess
from torchsaliency.concepts import ConceptBank as ConceptBank
from torchsaliency.concepts import ConceptTest as ConceptTest
from torchsaliency.concepts import Factorisation as Factorisation
from torchsaliency.concepts import craft as craft
from torchsaliency.concepts import dff as dff
from torchsaliency.concepts import tcav as tcav
from torchsaliency.core.acceleration import accelerated as accelerated
from torchsaliency.core.detection import Box as Box
from torchsaliency.core.detection import BoxScore as BoxScore
from torchsaliency.core.detection import DetectionScore as DetectionScore
from torchsaliency.core.discovery import default_layer as default_layer
from torchsaliency.core.discovery import register_default_layer as register_default_layer
from torchsaliency.core.embedding import embeddings as embeddings
from torchsaliency.core.embedding import similarity_to as similarity_to
from torchsaliency.core.explain import explain as explain
from torchsaliency.core.explanation import Explanation as Explanation
from torchsaliency.core.explanation import set_viewer as _set_viewer
from torchsaliency.core.given import GivenMaps as GivenMaps
from torchsaliency.core.inputs import Inputs as Inputs
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
from torchsaliency.core.neurons import Neuron as Neuron
from torchsaliency.core.segmentation import MaskScore as MaskScore
from torchsaliency.core.segmentation import Segment as Segment
from torchsaliency.core.target import Contrast as Contrast
from torchsaliency.core.target import EmbeddingSimilarity as EmbeddingSimilarity
from torchsaliency.core.target import Finer as Finer
from torchsaliency.core.target import Logit as Logit
from torchsaliency.core.target import LogProbability as LogProbability
from torchsaliency.core.target import Margin as Margin
from torchsaliency.core.target import OwnEmbedding as OwnEmbedding
from torchsaliency.core.target import Probability as Probability
from torchsaliency.core.target import Regression as Regression
from torchsaliency.core.target import ResidualSoftmax as ResidualSoftmax
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
from torchsaliency.methods.attention import LeGrad as LeGrad
from torchsaliency.methods.attention import RawAttention as RawAttention
from torchsaliency.methods.attribution import LIME as LIME
from torchsaliency.methods.attribution import XRAI as XRAI
from torchsaliency.methods.attribution import BlurIG as BlurIG
from torchsaliency.methods.attribution import FeatureAblation as FeatureAblation
from torchsaliency.methods.attribution import GradientSHAP as GradientSHAP
from torchsaliency.methods.attribution import InputXGradient as InputXGradient
from torchsaliency.methods.attribution import IntegratedGradients as IntegratedGradients
from torchsaliency.methods.attribution import KernelSHAP as KernelSHAP
from torchsaliency.methods.attribution import NormGrad as NormGrad
from torchsaliency.methods.attribution import SmoothGrad as SmoothGrad
from torchsaliency.methods.attribution import SmoothGradSquared as SmoothGradSquared
from torchsaliency.methods.attribution import VanillaGradient as VanillaGradient
from torchsaliency.methods.attribution import VarGrad as VarGrad
from torchsaliency.methods.cam import CAM as CAM
from torchsaliency.methods.cam import FEM as FEM
from torchsaliency.methods.cam import ISCAM as ISCAM
from torchsaliency.methods.cam import SSCAM as SSCAM
from torchsaliency.methods.cam import AblationCAM as AblationCAM
from torchsaliency.methods.cam import Edges as Edges
from torchsaliency.methods.cam import FakeCAM as FakeCAM
from torchsaliency.methods.cam import FinerCAM as FinerCAM
from torchsaliency.methods.cam import GradCAM as GradCAM
from torchsaliency.methods.cam import GradCAMElementwise as GradCAMElementwise
from torchsaliency.methods.cam import GradCAMPlusPlus as GradCAMPlusPlus
from torchsaliency.methods.cam import GroupCAM as GroupCAM
from torchsaliency.methods.cam import HiResCAM as HiResCAM
from torchsaliency.methods.cam import LayerCAM as LayerCAM
from torchsaliency.methods.cam import OptiCAM as OptiCAM
from torchsaliency.methods.cam import RandomCAM as RandomCAM
from torchsaliency.methods.cam import RefineCAM as RefineCAM
from torchsaliency.methods.cam import RelevanceCAM as RelevanceCAM
from torchsaliency.methods.cam import ScoreCAM as ScoreCAM
from torchsaliency.methods.cam import ShapleyCAM as ShapleyCAM
from torchsaliency.methods.cam import SmoothGradCAMPlusPlus as SmoothGradCAMPlusPlus
from torchsaliency.methods.cam import XGradCAM as XGradCAM
from torchsaliency.methods.masking import DRISE as DRISE
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
from torchsaliency.methods.propagation import FullGrad as FullGrad
from torchsaliency.methods.propagation import GuidedBackprop as GuidedBackprop
from torchsaliency.methods.propagation import GuidedGradCAM as GuidedGradCAM
from torchsaliency.methods.smoothing import Augmented as Augmented
from torchsaliency.methods.smoothing import EigenSmoothed as EigenSmoothed
from torchsaliency.methods.smoothing import NoiseTunnel as NoiseTunnel
from torchsaliency.methods.tucker import KPCACAM as KPCACAM
from torchsaliency.methods.tucker import MTSM as MTSM
from torchsaliency.methods.tucker import TSM as TSM
from torchsaliency.methods.tucker import EigenCAM as EigenCAM
from torchsaliency.methods.tucker import EigenGradCAM as EigenGradCAM
from torchsaliency.methods.tucker import MultivecEigenCAM as MultivecEigenCAM
from torchsaliency.methods.tucker import SegEigenCAM as SegEigenCAM
from torchsaliency.methods.tucker import dominant_variance as dominant_variance
from torchsaliency.viz import Panel as Panel
from torchsaliency.viz import Row as Row
from torchsaliency.viz import grid as grid
from torchsaliency.zoo import Network as Network
from torchsaliency.zoo import Preprocessing as Preprocessing
from torchsaliency.zoo import load_model as load_model
from torchsaliency.zoo import paper_layer as _paper_layer

register_default_layer(_paper_layer)


def _show(explanation: Explanation) -> str:
    """Return an explanation as HTML; the pages are imported when a notebook shows the first one."""
    from torchsaliency.pages.notebook import explanation_html  # noqa: PLC0415

    return explanation_html(explanation)


_set_viewer(_show)

__all__ = sorted(  # noqa: PLE0605
    name
    for name, value in globals().items()
    if not name.startswith("_") and not isinstance(value, _ModuleType)
)
