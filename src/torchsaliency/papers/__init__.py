"""The two papers made again: their tables and figures as recipes, and the survey of Opti-CAM."""

from torchsaliency.errors import require_extra

require_extra("eval", "pandas")
