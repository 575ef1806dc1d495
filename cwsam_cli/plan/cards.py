"""GPUs by name, with the peak rates of their data sheets. `--help` lists them, so this imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

MACHINE = 8
"""GPUs per machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Peak rates of a GPU."""

    tflops: float
    """10¹² operations per second of products in bf16 and fp16, without sparsity."""
    float32_tflops: float
    """10¹² operations per second of products in float32, without TF32."""
    bandwidth: float
    """Bytes per second of the GPU's own memory."""
    link: float
    """Bytes per second that the GPU sends to others in the same machine."""
    memory: int
    """Bytes of memory."""


CardName = Literal["a100", "b200", "h100", "h200", "l40s", "rtx4090"]
CARDS: dict[CardName, Card] = {
    "a100": Card(tflops=312, float32_tflops=19.5, bandwidth=2.04e12, link=300e9, memory=80 * 10**9),
    "b200": Card(tflops=2250, float32_tflops=75, bandwidth=7.7e12, link=900e9, memory=180 * 10**9),
    "h100": Card(tflops=989, float32_tflops=67, bandwidth=3.35e12, link=450e9, memory=80 * 10**9),
    "h200": Card(tflops=989, float32_tflops=67, bandwidth=4.8e12, link=450e9, memory=141 * 10**9),
    "l40s": Card(tflops=362, float32_tflops=91.6, bandwidth=0.864e12, link=32e9, memory=48 * 10**9),
    "rtx4090": Card(tflops=165, float32_tflops=82.6, bandwidth=1.008e12, link=32e9, memory=24 * 10**9),
}
"""Source: NVIDIA's data sheets (SXM boards where there are some; b200: an eighth of HGX B200)."""
