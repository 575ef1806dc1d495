"""Anonymous memory of `cwsam upcycle` while it writes a file larger than that.

    python tests/benchmarks/upcycle.py [--blocks 2]

A dense ViT-B with random weights grows into 6 groups × 16 experts in its last blocks. Anonymous
memory is what cannot be dropped; pages of the two mapped files can. Linux only (/proc).
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

from cwsam_cli.checkpoints.checkpoint import Checkpoint, save_checkpoint
from cwsam_cli.config.load import load_config, load_taxonomy
from cwsam_cli.dataset.manifest import Band
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.variants import architecture
from cwsam_cli.upcycle.pipeline import upcycle

BANDS = tuple(Band(name=name, mean=0.0, std=1.0) for name in ("red", "green", "blue"))


def anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=2)
    blocks = parser.parse_args().blocks
    taxonomy = load_taxonomy("land_cover_33")
    dense = load_config("vit_b", ["model.args.inp_size=256"])
    mixture = (
        f"{{moe_start_layer_index: {12 - blocks}, moe_num_expert_groups: 6, moe_experts_per_group: 16, "
        "moe_k_groups: 2, moe_k_experts: 2}"
    )
    large = load_config("vit_b", ["model.args.inp_size=256", f"model.args.encoder_mode={mixture}"])
    with tempfile.TemporaryDirectory() as folder:
        arch = architecture(dense.model, num_bands=3, num_classes=len(taxonomy))
        source, output = Path(folder) / "dense.pth", Path(folder) / "grown.pth"
        weights = dict(ClassWiseSam(arch).state_dict())
        checkpoint = Checkpoint(
            weights=weights,
            architecture=arch,
            taxonomy=taxonomy,
            bands=BANDS,
            dtype="uint8",
            gsd_m=1.0,
            ignore_background=False,
            epoch=0,
            metrics={},
        )
        save_checkpoint(checkpoint, source)
        del weights, checkpoint
        peak, running = anonymous_mb(), True
        before = peak

        def watch() -> None:
            nonlocal peak
            while running:
                peak = max(peak, anonymous_mb())
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.process_time()
        result = upcycle(str(source), large, output)
        running = False
        watcher.join()
        size = output.stat().st_size / 2**20
        largest = 16 * 768 * 3072 * 4 / 2**20
        print(
            f"{result.parameters / 1e9:.2f} B parameters, {size:,.0f} MB, {time.process_time() - start:.0f} CPU s; "
            f"anonymous memory {peak - before:,.0f} MB above the start ({(peak - before) / size:.2f} of the file, "
            f"{(peak - before) / largest:.1f} of the largest tensor)"
        )


if __name__ == "__main__":
    main()
