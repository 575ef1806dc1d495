"""Summarise a dataset for people: tiles, ground, classes by split, and what was left out."""

from collections.abc import Mapping

from cwsam_cli.config.sizes import area_text
from cwsam_cli.dataset.manifest import Manifest


def summary_text(manifest: Manifest) -> str:
    """Return a table of the splits and their classes, and the tiles that were left out by reason."""
    splits = [split for split, count in manifest.tiles.items() if count]
    rows = [["", *splits], ["tiles", *(f"{manifest.tiles[split]:,}" for split in splits)]]
    totals = {split: sum(manifest.pixels[split]) for split in splits}
    if manifest.ground_m2:
        rows.append(["labelled ground", *(area_text(manifest.ground_m2[split]) for split in splits)])
    else:
        rows.append(["labelled pixels", *(f"{totals[split]:,}" for split in splits)])
    for index, entry in enumerate(manifest.taxonomy.classes):
        shares = [manifest.pixels[split][index] / totals[split] if totals[split] else 0.0 for split in splits]
        rows.append([entry.name, *(f"{share:.1%}" if share else "none" for share in shares)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(splits) + 1)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    ends = left_out_text(manifest.left_out), _corrected_text(manifest.corrected)
    return "\n".join([*lines, *filter(None, ends)])


def _corrected_text(corrected: Mapping[str, int]) -> str:
    """Return how many pixels were corrected; empty without corrections."""
    if not corrected:
        return ""
    return (
        f"corrected: {corrected['pixels']:,} pixels of the scenes; {corrected['class_changed']:,} have another class, "
        f"{corrected['label_added']:,} had no label, {corrected['label_removed']:,} lost their label"
    )


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Return how many tiles were left out, by reason; empty if there are none."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    return f"left out: {reasons}" if reasons else ""
