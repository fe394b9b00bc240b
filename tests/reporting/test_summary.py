"""Shapes, parameters and cost of networks, against published numbers."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tests.conftest import Script
from vgglab.errors import InputError
from vgglab.networks import build_vgg
from vgglab.reporting.summary import summarize


# Parameters: section 2.3 and Table 2 of the paper, to the unit as in torchvision. Multiply-adds
# at 224: the `_ops` of torchvision's weights (docs.pytorch.org/vision/stable/models.html, GFLOPS).
@pytest.mark.parametrize(
    ("name", "parameters", "billions"),
    [
        ("vgg11", 132_863_336, 7.609),
        ("vgg13", 133_047_848, 11.308),
        ("vgg16", 138_357_544, 15.470),
        ("vgg19", 143_667_240, 19.632),
    ],
)
def test_totals_are_the_published_ones(name: str, parameters: int, billions: float) -> None:
    with torch.device("meta"):  # no memory, and nothing is computed
        network = build_vgg(name)  # type: ignore[arg-type]
    summary = summarize(network, (3, 224, 224))
    assert summary.parameters == summary.trainable == parameters
    assert round(summary.mult_adds / 1e9, 3) == billions
    assert summary.parameter_bytes == 4 * parameters
    assert sum(row.parameters for row in summary.rows) == parameters
    assert sum(row.mult_adds for row in summary.rows) == summary.mult_adds


def test_rows_have_the_papers_names_shapes_and_costs() -> None:
    network = build_vgg("vgg11_lrn", num_classes=7, head="compact", batch_norm=True, width=0.125)
    rows = {row.name: row for row in summarize(network, (3, 32, 32)).rows}
    first = rows["conv1_1"]
    assert (first.type, first.output) == ("Conv2d", (8, 32, 32))
    assert first.parameters == 8 * 3 * 9 + 8
    assert first.mult_adds == 8 * 3 * 9 * 32 * 32
    assert rows["bn1_1"].parameters == 16
    assert rows["pool5"].output == (64, 1, 1)
    assert rows["fc"].mult_adds == 64 * 7
    assert {"lrn1_1", "relu1_1", "avgpool", "dropout"} <= rows.keys()


class Counter(nn.Module):
    """A network with everything that is easily lost: see the test."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4, bias=False)
        self.frozen = nn.BatchNorm1d(4).requires_grad_(False).eval()
        self.scale = nn.Parameter(torch.ones(4))
        self.unused = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        noise = torch.rand(4)
        once = self.shared(images.flatten(1)) * self.scale + noise
        return self.frozen(self.shared(once)) @ self.scale.diag()


def test_any_module_is_counted_whole_and_left_as_it_was() -> None:
    network = Counter()
    network.frozen.running_mean.fill_(3.0)  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    summary = summarize(network, (1, 2, 2))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], v) for name, v in network.state_dict().items())
    assert (network.training, network.shared.training, network.frozen.training) == (1, 1, 0)
    assert all(not module._forward_hooks for module in network.modules())

    rows = {row.name: row for row in summary.rows}
    assert (rows["shared"].parameters, rows["shared"].mult_adds) == (16, 2 * 16)
    assert (rows["Counter"].parameters, rows["Counter"].mult_adds) == (4, 16)
    assert (rows["unused"].parameters, rows["unused"].output) == (15, None)
    assert summary.parameters == sum(row.parameters for row in summary.rows) == 16 + 8 + 4 + 15
    assert summary.trainable == 16 + 4 + 15
    assert summary.mult_adds == sum(row.mult_adds for row in summary.rows) == 3 * 16


def test_activations_count_once_what_is_in_place() -> None:
    layers = (nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout(), nn.MaxPool2d(2))
    network = nn.Sequential(*layers)
    floats = 2 * 4 * 4 + 2 * 2 * 2
    assert summarize(network, (1, 4, 4)).activation_bytes == 4 * floats
    assert summarize(network.to(torch.bfloat16), (1, 4, 4)).activation_bytes == 2 * floats


def test_an_impossible_size_is_bad_input_and_a_bug_is_not() -> None:
    network = build_vgg("vgg11", num_classes=5, head="compact", width=0.125)
    with pytest.raises(InputError, match=r"3x16x16: .*too small"):
        summarize(network, (3, 16, 16))
    with pytest.raises(InputError, match="1x32x32"):
        summarize(network, (1, 32, 32))

    class Buggy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.no_such_method()

    with pytest.raises(RuntimeError):
        summarize(Buggy(), (3, 32, 32))


def test_the_table_fits_eighty_columns_and_hides_activations() -> None:
    with torch.device("meta"):
        summary = summarize(build_vgg("vgg19", batch_norm=True), (3, 224, 224))
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(summary.table())
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "conv5_4" in text
    assert "102,764,544" in text
    assert "143,678,248 parameters" in text
    assert "19.632 billion" in text
    assert "relu" not in text


def test_the_script_prints_a_table_and_leaves_nothing_behind(
    process: Script, tmp_path: Path
) -> None:
    result = process("summarize", "model=vgg11", "model.head=compact", "input_size=[3,64,64]")
    assert (result.returncode, result.stderr) == (0, "")
    assert "conv1_1" in result.stdout
    assert "9,733,480 parameters" in result.stdout
    assert not list(tmp_path.iterdir())


def test_the_script_prints_nothing_but_json_for_programs(
    script: Script,
) -> None:
    overrides = ("model=vgg16_bn", "model.head=compact", "model.num_classes=10", "format=json")
    result = script("summarize", *overrides, "input_size=[1,32,32]")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert found["rows"][0]["name"] == "conv1_1"
    assert found["rows"][0]["parameters"] == 64 * 9 + 64
    assert found["rows"][-1]["output"] == [10]
    assert sum(row["parameters"] for row in found["rows"]) == found["parameters"]


def test_bad_input_is_one_line_and_exit_code_2(script: Script, tmp_path: Path) -> None:
    result = script("summarize", "input_size=[3,32]")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: input_size=[3, 32] must be [channels, height, width]\n"
    assert tmp_path.exists()  # the run folder is the user's own, though empty
    assert not list(tmp_path.iterdir())
