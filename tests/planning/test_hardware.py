"""Every entry has true arithmetic beside its figures; what follows from them is checked by hand."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from vgglab.errors import InputError
from vgglab.planning.hardware import Hardware, parse_hardware

ENTRIES = sorted((ROOT / "conf/hardware").glob("*.yaml"))
# A source's closing arithmetic, such as `..., 989 TFLOPS with sparsity, dense 989 / 2`.
ARITHMETIC = re.compile(r"[\d.,]+(?: [x/] [\d.,]+)+$")


def entry(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((ROOT / f"conf/hardware/{name}.yaml").read_text())
    return settings


def hardware(name: str) -> Hardware:
    return parse_hardware(entry(name))


def figures(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "source" in settings:
        yield settings
    else:
        for value in settings.values():
            if isinstance(value, dict):
                yield from figures(value)


def computed(expression: str) -> float:
    first, *rest = re.findall(r"(?:[x/] )?[\d.,]+", expression)
    total = float(first.replace(",", ""))
    for part in rest:
        operator, number = part.split()
        factor = float(number.replace(",", ""))
        total = total * factor if operator == "x" else total / factor
    return total


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_every_entry_is_complete_and_its_arithmetic_is_right(path: Path) -> None:
    settings = entry(path.stem)
    found = parse_hardware(settings)
    rates = found.matrix_tflops
    # Twice the width, at most half the speed; a datasheet's sparse rate would break this.
    halves = [rate.value for rate in (rates.bf16, rates.fp16) if rate is not None]
    assert len(set(halves)) <= 1
    if rates.tf32 is not None:
        assert rates.fp32.value <= rates.tf32.value <= halves[0] / 2
    assert 0 < found.usable_bytes < found.memory_gib.value * 2**30
    assert found.attainable is None or found.attainable.value < 1
    for figure in figures(settings):
        if match := ARITHMETIC.search(figure["source"]):
            assert computed(match[0]) == pytest.approx(figure["value"], rel=0.01), figure


def test_arithmetic_is_found_in_the_entries() -> None:
    sources = [f["source"] for path in ENTRIES for f in figures(entry(path.stem))]
    assert sum(ARITHMETIC.search(source) is not None for source in sources) > 20


def test_the_matrix_rate_is_the_attainable_one_of_the_precision() -> None:
    h200, a100, v100 = hardware("h200"), hardware("a100"), hardware("v100")
    assert h200.matrix_rate("bf16-mixed") == pytest.approx(790e12, rel=1e-3)  # as measured
    assert a100.matrix_rate("32-true") == pytest.approx(0.859 * 156e12)  # TF32
    assert v100.matrix_rate("32-true") == pytest.approx(0.664 * 15.7e12)  # has none
    assert hardware("rtx_3090").matrix_rate("16-true") == 71.2e12  # nobody measured it


def test_arithmetic_that_the_hardware_lacks_is_refused_with_the_choices() -> None:
    message = "trainer.precision=bf16-mixed: .*V100.*; choices: 32-true, 16-mixed, 16-true"
    with pytest.raises(InputError, match=message):
        hardware("v100").matrix_rate("bf16-mixed")


def test_a_ring_within_a_node_takes_its_rounds_and_its_bytes() -> None:
    a100 = hardware("a100")  # 240 GB/s and 3.4 us a round
    wire = 2 * 7 / 8 * 553_430_176  # VGG-16's gradients among eight
    by_hand = 8.4e-6 + 14 * 3.4e-6 + wire / 240e9
    assert a100.collective_seconds("all_reduce", wire, 8) == pytest.approx(by_hand)
    half = a100.collective_seconds("reduce_scatter", wire / 2, 8)
    assert half == pytest.approx(8.4e-6 + 7 * 3.4e-6 + wire / 2 / 240e9)
    assert a100.collective_seconds("all_reduce", 0, 1) == 0


def test_a_group_across_nodes_uses_a_port_a_device() -> None:
    h200 = hardware("h200")
    assert h200.bandwidth(1, 2) == 50e9
    assert h200.bandwidth(4, 2) == 200e9
    assert h200.bandwidth(8, 2) == pytest.approx(370.8e9)  # eight ports give more than NVLink
    by_hand = 8.4e-6 + (7 - 1) * 3.4e-6 + 1 * 14e-6 + 1e9 / 200e9
    assert h200.collective_seconds("all_gather", 1e9, 8, nodes=2) == pytest.approx(by_hand)


def test_devices_share_their_nodes_ports_with_those_that_send_beside_them() -> None:
    titan, v100 = hardware("titan_black"), hardware("v100")
    # One Ethernet port of 1 Gb/s: no device fills more, no number of devices gets more.
    assert titan.bandwidth(1, 2) == titan.bandwidth(2, 2) == titan.bandwidth(4, 2) == 0.125e9
    assert titan.bandwidth(1, 2, busy=4) == 0.125e9 / 4
    assert v100.bandwidth(1, 2) == v100.bandwidth(1, 2, busy=4) == 12.5e9
    assert v100.bandwidth(8, 2) == 4 * v100.bandwidth(2, 2, busy=8) == 50e9
    # As many bytes through the same ports take no longer for fewer devices a node.
    wire = 1e9
    alone, all_four = (titan.collective_seconds("all_gather", wire, 4 * n, 4) for n in (1, 4))
    assert alone == pytest.approx(all_four, rel=0.01)


def test_on_many_nodes_a_tree_is_faster_than_a_ring() -> None:
    h200 = hardware("h200")
    nodes, size = 512, 1e6
    devices = 8 * nodes
    wire = 2 * (devices - 1) / devices * size
    tree = 8.4e-6 + 2 * (7 * 3.4e-6 + math.log2(nodes) * 14e-6) + 2 * size / (0.92 * 370.8e9)
    assert h200.collective_seconds("all_reduce", wire, devices, nodes) == pytest.approx(tree)
    ring = h200.collective_seconds("broadcast", wire, devices, nodes)
    assert tree < ring / 10


def test_the_assumed_figures_are_named() -> None:
    assert hardware("h200").assumptions() == ["hardware.reserved_gib", "hardware.storage_gb_s"]
    assert {"hardware.network.gb_s", "hardware.network.ports"} < set(
        hardware("titan_black").assumptions()
    )


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("memory_gib", {"value": 141}, "hardware.memory_gib.source is required"),
        ("memory_gib", {"value": 141, "source": ""}, "hardware.memory_gib.source=''"),
        ("memory_gib", {"value": -1, "source": "x"}, "hardware.memory_gib.value=-1"),
        ("memory_gib", 141, "hardware.memory_gib=141"),
        ("place", "gpu", "hardware.place='gpu'.*'cuda' or 'cpu'"),
        ("memory_gb", 141, "hardware.memory_gb: no such setting.*did you mean memory_gib?"),
        ("node_devices", {"value": 1.5, "source": "x"}, "hardware.node_devices.value=1.5"),
        ("link", {"gb": 1}, "hardware.link.gb_s is required"),
        (
            "attainable",
            {"valu": 1, "value": 1, "source": "x"},
            "hardware.attainable.valu: no such setting.*did you mean value?",
        ),
    ],
)
def test_a_bad_entry_is_one_line_with_the_setting(part: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse_hardware({**entry("h200"), part: value})
    assert "\n" not in str(error.value)
