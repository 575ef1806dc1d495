"""Choose and print the precisions that the other scripts measure. Without hardware for bf16 a step takes 45 × as long.

python tests/benchmarks/hardware.py
"""

import torch

from cwsam_cli.distributed.world import choose_precision


def choose_precisions(device: str = "cpu") -> tuple[str, ...]:
    """Return fp32 and, if the hardware computes in it, bf16; print the reason."""
    fast = choose_precision("auto", torch.device(device))
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU with {torch.backends.cpu.get_cpu_capability()}"
    print(f"{name}: {'bf16 in hardware' if fast == 'bf16' else 'no bf16 in hardware, so fp32 only'}", flush=True)
    return ("fp32", "bf16") if fast == "bf16" else ("fp32",)


if __name__ == "__main__":
    choose_precisions("cuda" if torch.cuda.is_available() else "cpu")
