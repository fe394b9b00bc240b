"""Valid files taken into parts, spoilt by a recipe and put together again with right checksums."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import strategies as st

Parts = list[bytes]


@dataclass(frozen=True)
class Form:
    """One file format."""

    name: str
    """Of the file."""
    seeds: Sequence[Parts]
    """Valid files, each in parts."""
    join: Callable[[Parts], bytes]
    """Parts to a file, with lengths and checksums that fit them."""
    hostile: Sequence[bytes] = ()
    """Parts to put anywhere."""


class Step(NamedTuple):
    """One change; fractions of the number of parts or bytes, so that any recipe fits any file."""

    kind: str
    where: float
    what: float
    value: int


PART_KINDS = ("drop", "double", "many", "move", "hostile", "cut", "set", "flip", "grow", "number")
BYTE_KINDS = ("set", "flip", "cut", "erase", "double", "grow", "number")
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


class Example(NamedTuple):
    """A file to try."""

    form: str
    name: str
    data: bytes

    def __repr__(self) -> str:
        return f"{self.form}: {len(self.data)} bytes"


@st.composite
def files(draw: st.DrawFn, forms: Mapping[str, Form]) -> Example:
    """Spoilt parts, spoilt bytes, both, or noise; half have one change at most."""
    form_name = draw(st.sampled_from(sorted(forms)))
    form = forms[form_name]
    if draw(st.integers(0, 19)) == 0:
        return Example("noise", form.name, draw(st.binary(max_size=400)))
    parts = list(draw(st.sampled_from(form.seeds)))
    most_parts, most_bytes = draw(st.sampled_from([(0, 1), (1, 0), (4, 2), (4, 2)]))
    for step in draw(st.lists(_steps(PART_KINDS), max_size=most_parts)):
        change_parts(parts, step, form.hostile)
    data = form.join(parts)
    for step in draw(st.lists(_steps(BYTE_KINDS), max_size=most_bytes)):
        data = change_bytes(data, step)
    return Example(form_name, form.name, data)


def _steps(kinds: Sequence[str]) -> st.SearchStrategy[Step]:
    fraction = st.floats(0, 1, exclude_max=True, width=32)
    return st.builds(Step, st.sampled_from(kinds), fraction, fraction, st.integers(0, 2**16 - 1))


def change_parts(parts: Parts, step: Step, hostile: Sequence[bytes]) -> None:
    """One change of the parts, in place."""
    at = int(step.where * len(parts))
    if step.kind == "hostile" and hostile:
        parts.insert(at, hostile[int(step.what * len(hostile))])
    elif not parts:
        return
    elif step.kind == "drop":
        del parts[at]
    elif step.kind == "double":
        parts.insert(at, parts[at])
    elif step.kind == "many":
        few = parts[at : at + 1 + step.value % 4]
        parts[at:at] = few * (1 + step.value % 500)
    elif step.kind == "move":
        parts.insert(int(step.what * len(parts)), parts.pop(at))
    else:
        parts[at] = change_bytes(parts[at], step)


def change_bytes(data: bytes, step: Step) -> bytes:
    """One change of the bytes."""
    at = int(step.where * len(data)) if step.kind != "cut" else int(step.what * len(data))
    head, tail = data[:at], data[at:]
    if step.kind == "cut":
        return head
    if step.kind == "flip":
        return head + bytes([tail[0] ^ 1 << step.value % 8]) + tail[1:] if tail else data
    if step.kind == "set":
        return head + bytes([step.value % 256]) + tail[1:]
    if step.kind == "erase":
        length = 1 + step.value % 64
        return head + bytes(length) + tail[length:]
    if step.kind == "double":
        return head + tail[: 1 + step.value % 2000] * (1 + int(step.what * 20)) + tail
    if step.kind == "grow":
        return head + step.value.to_bytes(2, "big") * (1 + step.value % 40) + tail
    if step.kind == "number":
        size = (1, 2, 4, 8)[step.value % 4]
        number = NUMBERS[step.value // 4 % len(NUMBERS)] % 256**size
        order = "big" if step.value // 64 % 2 else "little"
        return head + number.to_bytes(size, order) + tail[size:]
    return data
