"""pytorch-grad-cam's names and calls: `from torchsaliency.compat.pytorch_grad_cam import GradCAM`.

What changes, and what is corrected, is in docs/from-pytorch-grad-cam.md.
"""

import sys

from torchsaliency.compat.pytorch_grad_cam import cams as _cams
from torchsaliency.compat.pytorch_grad_cam.ablation_layer import AblationLayer as AblationLayer
from torchsaliency.compat.pytorch_grad_cam.ablation_layer import (
    AblationLayerFasterRCNN as AblationLayerFasterRCNN,
)
from torchsaliency.compat.pytorch_grad_cam.ablation_layer import (
    AblationLayerVit as AblationLayerVit,
)
from torchsaliency.compat.pytorch_grad_cam.base_cam import BaseCAM as BaseCAM
from torchsaliency.compat.pytorch_grad_cam.cams import FEM as FEM
from torchsaliency.compat.pytorch_grad_cam.cams import KPCA_CAM as KPCA_CAM
from torchsaliency.compat.pytorch_grad_cam.cams import AblationCAM as AblationCAM
from torchsaliency.compat.pytorch_grad_cam.cams import EigenCAM as EigenCAM
from torchsaliency.compat.pytorch_grad_cam.cams import EigenGradCAM as EigenGradCAM
from torchsaliency.compat.pytorch_grad_cam.cams import FinerCAM as FinerCAM
from torchsaliency.compat.pytorch_grad_cam.cams import FullGrad as FullGrad
from torchsaliency.compat.pytorch_grad_cam.cams import GradCAM as GradCAM
from torchsaliency.compat.pytorch_grad_cam.cams import GradCAMElementWise as GradCAMElementWise
from torchsaliency.compat.pytorch_grad_cam.cams import GradCAMPlusPlus as GradCAMPlusPlus
from torchsaliency.compat.pytorch_grad_cam.cams import HiResCAM as HiResCAM
from torchsaliency.compat.pytorch_grad_cam.cams import LayerCAM as LayerCAM
from torchsaliency.compat.pytorch_grad_cam.cams import RandomCAM as RandomCAM
from torchsaliency.compat.pytorch_grad_cam.cams import RefineCAM as RefineCAM
from torchsaliency.compat.pytorch_grad_cam.cams import ScoreCAM as ScoreCAM
from torchsaliency.compat.pytorch_grad_cam.cams import SegEigenCAM as SegEigenCAM
from torchsaliency.compat.pytorch_grad_cam.cams import ShapleyCAM as ShapleyCAM
from torchsaliency.compat.pytorch_grad_cam.cams import XGradCAM as XGradCAM
from torchsaliency.compat.pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization as DeepFeatureFactorization,
)
from torchsaliency.compat.pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    run_dff_on_image as run_dff_on_image,
)
from torchsaliency.compat.pytorch_grad_cam.guided_backprop import (
    GuidedBackpropReLUModel as GuidedBackpropReLUModel,
)
from torchsaliency.compat.pytorch_grad_cam.metrics import cam_mult_image as cam_mult_image
from torchsaliency.compat.pytorch_grad_cam.metrics import road as road
from torchsaliency.compat.pytorch_grad_cam.utils import model_targets as model_targets
from torchsaliency.compat.pytorch_grad_cam.utils import reshape_transforms as reshape_transforms

for _name in (
    *("ablation_cam", "eigen_cam", "eigen_grad_cam", "fem", "finer_cam", "fullgrad_cam"),
    *("grad_cam", "grad_cam_elementwise", "grad_cam_plusplus", "hirescam", "kpca_cam", "layer_cam"),
    *("random_cam", "refine_cam", "score_cam", "seg_eigen_cam", "shapley_cam", "xgrad_cam"),
):  # the other library has a module for each class
    sys.modules[f"{__name__}.{_name}"] = _cams
