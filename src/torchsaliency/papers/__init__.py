"""The two papers made again: their tables and figures as recipes, and the survey of Opti-CAM."""
