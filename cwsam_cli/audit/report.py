"""Show an audit as text."""

from collections.abc import Sequence
from pathlib import Path

from cwsam_cli.audit.alignment import Alignment
from cwsam_cli.audit.pipeline import Audit
from cwsam_cli.audit.suspects import Suspect

_BAR = 30
"""Characters of the longest bar."""
_LITTLE = 0.05
"""Share of the correlation that counts as none. At a class's range, so much is left."""
_SCENES = 20
"""Most scenes whose alignment is printed."""
_SUSPECTS = 5
"""Most suspects that are printed."""
_VERDICTS = {"aligned": "without a shift", "shifted": "with a shift", "unknown": "without a finding"}


def as_text(audit: Audit) -> str:
    """Return the whole audit for people."""
    splits = list(audit.tiles)
    parts = ", ".join(
        f"{count:,} {split} tiles ({audit.labelled[split]:.0%} labelled)" for split, count in audit.tiles.items()
    )
    lines = [parts]
    if audit.pairs:
        lines += [
            "",
            *_table(
                [
                    ["splits", "shared ground", "nearest", "equal", "nearly equal"],
                    *(
                        [
                            " and ".join(pair.splits),
                            "-" if pair.nearest_m is None else _area(pair.shared_m2),
                            _length(pair.nearest_m),
                            f"{pair.duplicates:,}",
                            f"{pair.near_duplicates:,}",
                        ]
                        for pair in audit.pairs
                    ),
                ]
            ),
        ]
    if audit.folds:
        rows = [
            [str(own.fold), f"{own.train:,}", f"{own.val:,}", _area(own.shared_m2), _length(own.nearest_m)]
            for own in audit.folds
        ]
        lines += ["", *_table([["fold", "train tiles", "val tiles", "shared ground", "nearest"], *rows])]
    lines += [
        "",
        *_table(
            [
                ["class", *(f"{split} pixels" for split in splits), "range", "correlation at the test"],
                *(
                    [
                        entry.name,
                        *(f"{entry.pixels[split]:,}" for split in splits),
                        _length(entry.range_m),
                        "-" if entry.correlation_left is None else f"{entry.correlation_left:.2f}",
                    ]
                    for entry in audit.classes
                ),
            ]
        ),
    ]
    if audit.flattery is not None:
        lines += [
            "",
            f"On average {audit.flattery:.0%} of the spatial correlation is left between test ground and the nearest "
            "training ground.",
        ]
        if audit.flattery > _LITTLE:
            lines.append("The accuracy on the test is therefore likely too high.")
            ranges = [entry.range_m for entry in audit.classes if entry.correlation_left is not None]
            known = [range_m for range_m in ranges if range_m is not None]
            if known and len(known) == len(ranges):
                lines.append(
                    f"A buffer of {_length(max(known))} would leave at most {_LITTLE:.0%} of that correlation "
                    "in any class."
                )
    if audit.alignment:
        lines += ["", *_alignment_lines(audit.alignment)]
    if audit.suspects is not None:
        lines += ["", *_suspect_lines(audit.suspects, sum(audit.tiles.values()))]
    if audit.notes:
        lines += ["", *(f"note: {note}" for note in audit.notes)]
    if not audit.leaks and len(splits) > 1:
        lines += ["", "no leak found"]
    return "\n".join(lines)


def as_bars(audit: Audit) -> str:
    """Return the class table with a bar for each class's share of all labelled pixels."""
    totals = {entry.code: sum(entry.pixels.values()) for entry in audit.classes}
    whole, most = sum(totals.values()), max(totals.values(), default=0)
    return "\n".join(
        _table(
            [
                ["code", "class", "pixels", "share", ""],
                *(
                    [
                        str(entry.code),
                        entry.name,
                        f"{totals[entry.code]:,}",
                        f"{totals[entry.code] / whole:.1%}" if whole else "-",
                        "█" * round(_BAR * totals[entry.code] / most) if most else "",
                    ]
                    for entry in sorted(audit.classes, key=lambda entry: -totals[entry.code])
                ),
            ]
        )
    )


def _alignment_lines(found: Sequence[Alignment]) -> list[str]:
    """Return a line per scene. Of many scenes, only those with a shift have one."""
    shown = [own for own in found if own.verdict == "shifted" or own.scene == "all" or len(found) <= _SCENES][:_SCENES]
    counts = {verdict: sum(own.verdict == verdict for own in found if own.scene != "all") for verdict in _VERDICTS}
    rows = [f"{own.scene}: {own.text}" for own in shown]
    if len(shown) < len(found):
        rows.append("scenes: " + ", ".join(f"{count:,} {_VERDICTS[verdict]}" for verdict, count in counts.items()))
    return rows


def _suspect_lines(suspects: Sequence[Suspect], tiles: int) -> list[str]:
    lines = [f"{len(suspects):,} of {tiles:,} tiles disagree with a quick classifier in most of their labels."]
    lines += [
        f"{Path(own.image).name}: {own.disagreement:.0%} disagree, labelled {own.label}, looks like {own.looks_like}"
        for own in suspects[:_SUSPECTS]
    ]
    return [*lines, "..."] if len(suspects) > _SUSPECTS else lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: text of the first column and bars to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = {0} | {column for column, head in enumerate(rows[0]) if head in ("", "class")}
    return [
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _length(metres: float | None) -> str:
    if metres is None:
        return "-"
    return f"{metres / 1000:,.1f} km" if metres >= 1000 else f"{metres:,.0f} m"


def _area(square_metres: float) -> str:
    return f"{square_metres / 1e4:,.1f} ha" if square_metres >= 1e3 else f"{square_metres:,.0f} m²"
