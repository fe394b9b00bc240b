"""What a step sends, by hand; tests/cluster/test_strategies.py counts it in running processes."""

from typing import Any

import pytest
import torch

from vgglab.cluster.traffic import Collective, collectives
from vgglab.config.schema import AcceleratorConfig
from vgglab.networks import build_vgg

PARAMETERS = 138_357_544  # VGG-16's, section 2.3's Table 2: 138 million
FC6, FC7, FC8 = 102_764_544, 16_781_312, 4_097_000
CONVOLUTIONS = PARAMETERS - FC6 - FC7 - FC8


def sent(world_size: int, tensor_parallel: int = 1, **settings: Any) -> list[Collective]:
    """What VGG-16 sends with 32 images a device, but for the two decisions of every step."""
    precision = settings.pop("precision", "32-true")
    with torch.device("meta"):
        network = build_vgg("vgg16", batch_norm=settings.get("sync_batchnorm", False))
    accelerator = AcceleratorConfig(**settings)
    issued = collectives(network, accelerator, world_size, tensor_parallel, 32, precision)
    assert all(one.bytes <= 8 for one in (issued[0], issued[-1]))
    return issued[1:-1]


def covered(issued: list[Collective], role: str) -> int:
    return sum(one.covers for one in issued if one.role == role)


def total(issued: list[Collective], kind: str) -> int:
    return sum(one.bytes for one in issued if one.kind == kind)


@pytest.mark.parametrize(
    ("kind", "wire_bytes"),
    [("all_reduce", 150), ("all_gather", 75), ("reduce_scatter", 75), ("broadcast", 75)],
)
def test_a_device_of_a_ring_of_four(kind: Any, wire_bytes: float) -> None:
    assert Collective(kind, 100, group_size=4).wire_bytes == wire_bytes
    assert Collective(kind, 100, group_size=1).wire_bytes == 0


def test_one_device_sends_nothing() -> None:
    with torch.device("meta"):
        network = build_vgg("vgg11")
    for strategy in ("ddp", "fsdp", "hybrid"):
        assert collectives(network, AcceleratorConfig(strategy=strategy), 1, 1, 32, "32-true") == []
    assert collectives(network, AcceleratorConfig(), 8, 1, 32, "32-true") == []


@pytest.mark.parametrize(
    ("compression", "precision", "bytes_each"),
    [
        ("none", "32-true", 4),
        ("none", "bf16-mixed", 4),
        ("none", "bf16-true", 2),
        ("bf16", "32-true", 2),
    ],
)
def test_ddp_sends_each_gradient_once(compression: str, precision: str, bytes_each: int) -> None:
    issued = sent(8, strategy="ddp", gradient_compression=compression, precision=precision)
    assert {(one.kind, one.group_size) for one in issued} == {("all_reduce", 8)}
    assert total(issued, "all_reduce") == bytes_each * PARAMETERS
    assert issued[2].bytes == bytes_each * FC6  # alone, as it is larger than a bucket


def test_power_sgd_sends_thin_matrices_of_fc6() -> None:
    issued = sent(8, strategy="ddp", gradient_compression="powersgd", powersgd_rank=4)
    fc6 = issued[6:9]  # the third bucket's plain numbers, P and Q
    assert [one.bytes for one in fc6] == [4 * 4096, 4 * 4 * 4096, 4 * 4 * 25088]
    assert [one.covers for one in fc6] == [4 * FC6, 0, 0]
    assert total(issued, "all_reduce") < 4 * PARAMETERS / 100


@pytest.mark.parametrize(
    ("world_size", "tensor_parallel", "settings"),
    [
        (8, 1, {"strategy": "ddp"}),
        (8, 1, {"strategy": "ddp", "gradient_compression": "bf16"}),
        (8, 1, {"strategy": "ddp", "gradient_compression": "powersgd"}),
        (3, 1, {"strategy": "fsdp"}),  # with padding
        (32, 8, {"strategy": "hybrid"}),
    ],
)
def test_gradients_cover_all_parameters_of_a_device(
    world_size: int, tensor_parallel: int, settings: dict[str, Any]
) -> None:
    issued = sent(world_size, tensor_parallel, **settings)
    dense = (FC6 + FC7) // tensor_parallel
    assert covered(issued, "gradients") == 4 * (CONVOLUTIONS + dense + FC8)
    if settings["strategy"] != "ddp":
        assert covered(issued, "parameters") == covered(issued, "gradients")
    roles = {one.role for one in issued}
    assert ("features" in roles) == (tensor_parallel > 1)
    assert "other" not in roles


def test_fsdp_gathers_twice_and_scatters_once() -> None:
    issued = sent(8, strategy="fsdp")
    # Rows that 8 does not divide are padded: of fc8's 1000 none, of a convolution's 64 none.
    assert total(issued, "reduce_scatter") == 4 * PARAMETERS
    assert total(issued, "all_gather") == 4 * (2 * PARAMETERS - FC8)
    assert covered(issued, "parameters again") == 4 * (PARAMETERS - FC8)
    assert sum(one.wire_bytes for one in issued) == pytest.approx(
        1.5 * sum(one.wire_bytes for one in sent(8, strategy="ddp")), rel=0.02
    )


def test_fsdp_pads_rows() -> None:
    issued = sent(3, strategy="fsdp")
    fc8 = next(one for one in issued if one.kind == "reduce_scatter")
    assert fc8.bytes == 4 * 1002 * (4096 + 1)


def test_hybrid_sends_features_in_place_of_fc6_and_fc7() -> None:
    issued = sent(8, tensor_parallel=8, strategy="hybrid")
    # Of 8 x 32 images fc6's input of 25088 numbers and fc7's output of 4096, there and back.
    features = 4 * 8 * 32 * (25088 + 4096)
    rest = 4 * (CONVOLUTIONS + FC8)
    assert total(issued, "all_gather") == total(issued, "reduce_scatter") == features + rest
    halved = sent(8, tensor_parallel=8, strategy="hybrid", precision="bf16-mixed")
    assert total(halved, "all_gather") == features / 2 + rest


def test_hybrid_across_nodes_shares_out_each_part_of_fc6() -> None:
    issued = sent(32, tensor_parallel=8, strategy="hybrid")
    across = [one for one in issued if one.group_size == 4]
    weights = FC6 - 4096 + FC7 - 4096
    each = 4 * (weights // 8 + 4096 // 8 + 4096)  # fc6's biases are split, fc7's are whole
    assert total(across, "all_gather") == total(across, "reduce_scatter") == each
    assert {one.group_size for one in issued} == {4, 8, 32}


def test_synchronised_batch_norm_sends_means_and_deviations() -> None:
    issued = sent(8, strategy="ddp", sync_batchnorm=True)
    channels = 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
    assert total(issued, "all_gather") == 8 * 4 * (2 * channels + 13)
    assert total(issued, "broadcast") == 4 * 2 * channels + 8 * 13
    assert total(issued, "all_reduce") == 4 * (PARAMETERS + 2 * channels) + 4 * 2 * channels
