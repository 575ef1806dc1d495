"""Change good files at random and read them: `make fuzz`, or `python -m tests.fuzz.fuzz 60 [READER]`.

Hypothesis chooses the changes. A case that fails is kept in `corpus/`, and `test_corpus.py` tries it with the other
tests.
"""

import hashlib
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, try_bytes

CORPUS = Path(__file__).with_name("corpus")
_ODD = (
    b"\x00",
    b"\xff",
    b"-1",
    b"NaN",
    b"1e999",
    b"9" * 400,
    b"null",
    b"true",
    b"[" * 2000,
    b"\xed\xa0\x80",
    b"../",
    b"&a *a",
)

_CHANGE = st.tuples(
    st.integers(0, 1 << 20),
    st.sampled_from(("replace", "insert", "remove", "cut", "repeat")),
    st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(_ODD)),
)


def change(content: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    """Apply changes to bytes; places are taken modulo the length."""
    for place, how, own in changes:
        at = place % (len(content) + 1)
        if how == "replace":
            content = content[:at] + own + content[at + len(own) :]
        elif how == "insert":
            content = content[:at] + own + content[at:]
        elif how == "remove":
            content = content[:at] + content[at + len(own) :]
        elif how == "cut":
            content = content[:at]
        else:
            content = content[:at] + content[at : at + 64] * 3 + content[at:]
    return content


def fuzz(name: str, seconds: float) -> int:
    """Fuzz one reader; return the number of examples.

    Raises:
        Exception: a reader raised an error that is not meant for users. The bytes are in the corpus.
    """
    count, last = [0], [b""]
    with tempfile.TemporaryDirectory() as folder:
        path = TARGETS[name].make(Path(folder))
        good = path.read_bytes()
        try_bytes(name, path, good)
        end = time.monotonic() + seconds

        @settings(
            max_examples=100,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # making a case smaller takes minutes
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(_CHANGE, min_size=1, max_size=4))
        def attempt(changes: list[tuple[int, str, bytes]]) -> None:
            last[0] = change(good, changes)
            count[0] += 1
            try_bytes(name, path, last[0])

        while time.monotonic() < end:
            try:
                attempt()
            except BaseException:
                kept = CORPUS / name.replace(" ", "_") / hashlib.sha256(last[0]).hexdigest()[:12]
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(last[0])
                print(f"{name}: failed, kept in {kept}")
                raise
    return count[0]


def main() -> None:
    """Fuzz all readers, or those named, in the same time each."""
    names = sys.argv[2:] or [*TARGETS]
    seconds = float(sys.argv[1]) / len(names)
    for name in names:
        print(f"{name}: {fuzz(name, seconds):,} examples")


if __name__ == "__main__":
    main()
