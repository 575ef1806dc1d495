"""The text of an audit stays short, however many scenes and suspects there are."""

from typing import Any

from cwsam_cli.audit.alignment import Alignment, Verdict
from cwsam_cli.audit.pipeline import Audit
from cwsam_cli.audit.report import as_text
from cwsam_cli.audit.suspects import Suspect


def audit(**found: Any) -> Audit:
    empty: dict[str, Any] = {
        "tiles": {"train": 40},
        "labelled": {"train": 1.0},
        "pairs": (),
        "folds": (),
        "classes": (),
    }
    return Audit(**empty, flattery=None, leaks=(), notes=(), **found)


def aligned(scene: str, verdict: Verdict) -> Alignment:
    text = f"this scene is {verdict}"
    return Alignment(scene=scene, verdict=verdict, right_px=None, down_px=None, error_px=None, text=text)


def test_few_scenes_have_a_line_each() -> None:
    text = as_text(audit(alignment=(aligned("a", "aligned"), aligned("b", "unknown"))))
    assert "a: this scene is aligned\nb: this scene is unknown" in text and "scenes" not in text


def test_of_many_scenes_those_with_a_shift_are_named() -> None:
    found = [aligned("all", "aligned"), aligned("bad", "shifted"), *(aligned(f"s{n}", "aligned") for n in range(30))]
    text = as_text(audit(alignment=tuple(found)))
    assert "all: this scene is aligned\nbad: this scene is shifted\n" in text and "s3:" not in text
    assert "scenes: 30 without a shift, 1 with a shift, 0 without a finding" in text


def test_the_worst_suspects_are_named() -> None:
    suspects = tuple(
        Suspect(image=f"images/t{n}.tif", split="train", disagreement=0.9, label="forest", looks_like="water")
        for n in range(7)
    )
    text = as_text(audit(suspects=suspects))
    assert "7 of 40 tiles disagree" in text and "t4.tif: 90% disagree, labelled forest, looks like water\n..." in text
    assert "t5.tif" not in text
    assert "0 of 40 tiles" in as_text(audit(suspects=())) and "disagree" not in as_text(audit())
