"""Options of `predict` that take one of a few words; `--help` lists them, so this imports nothing heavy."""

from typing import Literal

Views = Literal["none", "flips", "d4"]
"""Turned and mirrored views of a window whose scores are averaged."""
PrecisionChoice = Literal["auto", "fp32", "bf16"]
MapFormat = Literal["GTiff", "COG"]
AlphaRule = Literal["ignore", "mask"]
"""`mask` hides the pixels of a band tagged alpha, `ignore` reads the band as an image."""
Normalization = Literal["training", "scene"]
"""Whose mean and standard deviation normalise a scene's pixels: the training data's or its own."""
