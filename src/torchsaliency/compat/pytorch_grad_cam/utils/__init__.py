"""Targets, pictures, layers and layouts, under the other library's names."""

from torchsaliency.compat.pytorch_grad_cam.utils import model_targets as model_targets
from torchsaliency.compat.pytorch_grad_cam.utils import reshape_transforms as reshape_transforms
from torchsaliency.compat.pytorch_grad_cam.utils.image import deprocess_image as deprocess_image
