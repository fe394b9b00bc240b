"""`_target_` sections: what they may call, with which arguments."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from annotated_types import Gt
from hypothesis import given
from hypothesis import strategies as st

from vgglab.config.components import Component
from vgglab.config.schema import Callback, Data, Logger, Loss, Network, Optimizer
from vgglab.errors import InputError


def component(kind: type[Component], target: str, **arguments: Any) -> Component:
    return kind.model_validate({"_target_": target, **arguments})


class Base(torch.nn.Module):
    def __init__(self, *, width: Annotated[int, Gt(0)] = 1, ratio: float = 0.5) -> None:
        super().__init__()
        self.width, self.ratio = width, ratio


class Derived(Base):
    def __init__(self, *, depth: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.depth = depth


def unannotated(num_classes=10):  # type: ignore[no-untyped-def]
    return torch.nn.Linear(1, num_classes)


HERE = f"{__name__}.Derived"


def derived(**arguments: Any) -> Component:
    return component(Network, HERE, **arguments).checked("model", [__name__])


@given(
    depth=st.integers(),
    width=st.integers(1),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
)
def test_arguments_of_a_class_and_its_bases_arrive(depth: int, width: int, ratio: float) -> None:
    built = derived(depth=depth, width=width, ratio=ratio).build("model")
    assert (built.depth, built.width, built.ratio) == (depth, width, ratio)


def test_whole_numbers_become_floats_where_floats_are_wanted() -> None:
    assert isinstance(derived(depth=1, ratio=1).build("model").ratio, float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 1, "widht": 2}, r"model\.widht: .* did you mean width\?"),
        ({"depth": "deep"}, r"model\.depth='deep': .*integer"),
        ({"depth": 1, "width": 0}, r"model\.width=0: .*greater than 0"),
        ({}, r"model\.depth is required"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        derived(**arguments)


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "subprocess.run", "torchx.run", HERE, "vgglabber.thing"],
)
def test_only_allowed_packages_are_called(target: str) -> None:
    with pytest.raises(InputError, match="outside the packages"):
        component(Network, target).checked("model")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (Optimizer, "torch.load"),
        (Optimizer, "torch.hub.load"),
        (Optimizer, "torch.nn.Linear"),
        (Callback, "torch.optim.SGD"),
        (Data, "vgglab.networks.build_vgg"),
        (Network, "vgglab.networks.load_weights"),
        (Network, "torch.nn"),
        (Network, "torch.nn.Module.get_submodule"),
        (Callback, "torch.hub.os.system"),
        (Logger, "torch.optim.SGD"),
    ],
)
def test_a_slot_takes_only_what_belongs_there(kind: type[Component], target: str) -> None:
    with pytest.raises(InputError, match="does not make"):
        component(kind, target).checked("slot")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        # Attributes reach other packages' classes.
        (Network, "vgglab.training.assembly.torch.fx.GraphModule"),
        (Network, "torch.fx.graph_module.reduce_graph_module"),
        (Network, "torch.distributed.nn.RemoteModule"),
        (Network, "torch.jit.ScriptModule"),
        (Loss, "torchmetrics.text.bert.BERTScore"),
        (Data, "lightning.pytorch.demos.mnist_datamodule.MNISTDataModule"),
        (Logger, "lightning.pytorch.loggers.MLFlowLogger"),
        (Logger, "lightning.pytorch.loggers.WandbLogger"),
    ],
)
def test_not_all_that_fits_a_slot_is_called(kind: type[Component], target: str) -> None:
    with pytest.raises(InputError, match="outside the modules") as caught:
        component(kind, target).checked("slot")
    assert f"allowed_targets=[{target}]" in str(caught.value)
    assert "torch.nn, torch.optim" not in str(caught.value)  # not all homes, in one line


@pytest.mark.parametrize("target", ["torch.optim.SGDD", "vgglab.nowhere.Thing", "torch.", "torch"])
def test_a_target_that_is_not_there_is_refused(target: str) -> None:
    with pytest.raises(InputError, match=r"slot\._target_"):
        component(Optimizer, target).checked("slot")


def test_a_function_counts_by_what_it_returns() -> None:
    network = component(Network, "vgglab.networks.build_vgg", name="A", width=0.02)
    built = network.checked("model").build("model", num_classes=3)
    assert built.num_classes == 3


def test_a_function_that_does_not_say_what_it_returns_is_told_to() -> None:
    with pytest.raises(InputError, match=r"annotate what it returns \(`-> torch\.nn\.Module`\)"):
        component(Network, f"{__name__}.unannotated").checked("model", [__name__])


def test_configured_arguments_win_over_supplied_ones_and_null_leaves_them() -> None:
    target = "vgglab.networks.build_vgg"
    fixed = component(Network, target, name="A", width=0.02, num_classes=5).checked("model")
    assert fixed.build("model", num_classes=3).num_classes == 5
    left = component(Network, target, name="A", width=0.02, num_classes=None).checked("model")
    assert left.build("model", num_classes=3).num_classes == 3


def test_what_the_target_itself_refuses_is_one_line() -> None:
    optimizer = component(Optimizer, "torch.optim.SGD", lr=-1.0).checked("optimizer")
    with pytest.raises(InputError, match="optimizer: Invalid learning rate"):
        optimizer.build("optimizer", params=[torch.nn.Parameter(torch.zeros(1))])


SOURCE = {
    "import_block": "open('owned', 'w').close()\n",
    "body": {"code": "def forward(self): pass", "_graphmodule_cls_name": "X"},
}


def test_source_text_in_the_arguments_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = "torch.fx.graph_module.reduce_graph_module"
    attack = component(Network, target, **SOURCE)
    with pytest.raises(InputError, match="outside the modules"):
        attack.checked("model")
    assert not list(tmp_path.iterdir())
    attack.checked("model", [target])  # it fits the slot, and would be run
    with suppress(Exception):
        attack.build("model")
    assert (tmp_path / "owned").exists()


def test_what_is_allowed_by_its_full_name_may_come_from_anywhere() -> None:
    target = "lightning.pytorch.demos.boring_classes.BoringDataModule"
    for allowed in ([target], ["lightning.pytorch.demos"]):
        component(Data, target).checked("data", allowed)
    for allowed in (["lightning.pytorch.demo"], [f"{target}s"]):
        with pytest.raises(InputError, match="outside the modules"):
            component(Data, target).checked("data", allowed)


def test_an_allowed_package_does_not_open_others() -> None:
    through = f"{__name__}.torch.fx.GraphModule"
    with pytest.raises(InputError, match="outside the modules"):
        component(Network, through).checked("model", [__name__])


@pytest.mark.parametrize("word", ["_partial_", "_args_", "_recursive_", "_convert_", "_target_"])
@pytest.mark.parametrize("deep", [False, True])
def test_words_of_instantiate_are_refused(word: str, deep: bool) -> None:
    arguments: dict[str, Any] = {word: "os.system"}
    if deep:
        arguments = {"options": {"list": [arguments]}}
    elif word == "_target_":
        return  # the section's own
    # A target that takes any argument.
    with pytest.raises(InputError, match=rf"{word}: only the section itself is built"):
        component(Network, "torchvision.models.vgg16", **arguments).checked("model")
