"""Which parameters decay."""

from vgglab.networks import build_vgg
from vgglab.training.optim import parameter_groups


def test_everything_decays_as_in_the_paper() -> None:
    network = build_vgg("A", width=0.02, batch_norm=True)
    (group,) = parameter_groups(network, decay_norm_and_bias=True)
    assert len(group["params"]) == len(list(network.parameters()))
    assert "weight_decay" not in group


def test_biases_and_norms_are_exempt_when_asked() -> None:
    network = build_vgg("A", width=0.02, batch_norm=True)
    decayed, exempt = parameter_groups(network, decay_norm_and_bias=False)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    kept = {names[id(parameter)] for parameter in decayed["params"]}
    assert kept == {
        f"{path}.weight"
        for path, module in network.named_modules()
        if type(module).__name__ in ("Conv2d", "Linear")
    }
    assert exempt["weight_decay"] == 0
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)


def test_frozen_parameters_are_left_out() -> None:
    network = build_vgg("A", width=0.02)
    network.features.requires_grad_(False)
    (group,) = parameter_groups(network, decay_norm_and_bias=True)
    assert len(group["params"]) == len(list(network.classifier.parameters()))
