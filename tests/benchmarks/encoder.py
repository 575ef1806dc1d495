"""ViT-B at 512 pixels: this encoder against transformers' SAM encoder, and against the machine's matmul peak.

    python tests/benchmarks/encoder.py

CPU seconds of one thread, median of passes in a fresh process; the two encoders take turns, pair
by pair. Memory is the peak of live tensors that one pass allocates. No gradients.
"""

import json
import statistics
import subprocess
import sys
import time

PASSES = 3
PAIRS = 2


def child(who: str, dtype_name: str) -> None:
    import torch

    torch.set_num_threads(1)  # two threads wait for each other when anything else runs here
    dtype = getattr(torch, dtype_name)
    torch.manual_seed(0)
    image = torch.randn(1, 3, 512, 512, dtype=dtype)
    if who == "matmul":
        a, b = (torch.randn(2048, 2048, dtype=dtype) for _ in range(2))
        seconds = []
        for _ in range(PASSES + 2):
            start = time.process_time()
            a @ b
            seconds.append(time.process_time() - start)
        print(json.dumps({"flops": 2 * 2048**3 / statistics.median(seconds[2:])}))
        return
    if who == "cwsam":
        from cwsam_cli.model.encoder import ImageEncoder
        from cwsam_cli.model.variants import VARIANTS, Architecture

        model = ImageEncoder(Architecture(**VARIANTS["sam_vit_b"], num_bands=3, num_classes=33, inp_size=512))
    else:
        from transformers import SamVisionConfig
        from transformers.models.sam.modeling_sam import SamVisionEncoder

        config = SamVisionConfig(image_size=512, global_attn_indexes=[2, 5, 8, 11])
        config._attn_implementation = who.removeprefix("transformers-")
        model = SamVisionEncoder(config)
    model = model.to(dtype).eval()
    seconds = []
    with torch.inference_mode():
        for _ in range(PASSES + 1):
            start = time.process_time()
            model(image)
            seconds.append(time.process_time() - start)
        with torch.profiler.profile(profile_memory=True) as record:
            model(image)
    live = peak = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak_mb": peak / 2**20}))


def measure(who: str, dtype: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, who, dtype], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from hardware import choose_precisions

    from cwsam_cli.model.variants import VARIANTS, Architecture
    from cwsam_cli.plan.parameters import forward_flops

    arch = Architecture(**VARIANTS["sam_vit_b"], num_bands=3, num_classes=33, inp_size=512)
    flops = forward_flops(arch)  # the decoder's 1 % is counted in, which favours nobody but the peak
    fp32 = 0.0
    for dtype in ("float32", "bfloat16")[: len(choose_precisions())]:
        peak = measure("matmul", dtype)["flops"]
        for peer in ("transformers-eager", "transformers-sdpa"):
            pairs = [(measure("cwsam", dtype), measure(peer, dtype)) for _ in range(PAIRS)]
            ours = statistics.median(a["seconds"] for a, _ in pairs)
            faster = statistics.median(b["seconds"] / a["seconds"] for a, b in pairs)
            memory = statistics.median(a["peak_mb"] / b["peak_mb"] for a, b in pairs)
            mb = statistics.median(a["peak_mb"] for a, _ in pairs)
            print(
                f"{dtype:9s} {ours:6.2f} CPU s, {mb:5.0f} MB; {peer}: {faster:.2f}× as slow, "
                f"memory ratio {memory:.2f}; {100 * flops / ours / peak:.0f} % of the matmul peak",
                flush=True,
            )
        fp32 = fp32 or ours
    if dtype == "bfloat16":
        print(f"bfloat16 against float32: {fp32 / ours:.2f}×")


if __name__ == "__main__":
    child(*sys.argv[1:]) if len(sys.argv) > 1 else main()
