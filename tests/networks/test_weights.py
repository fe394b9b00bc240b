import contextlib
import hashlib
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from vgglab.errors import InputError
from vgglab.networks import WeightsError, build_vgg, load_weights, read_state_dict
from vgglab.networks import weights as weights_module

THIN = {"width": 0.02, "num_classes": 10}


def thin(name="vgg11", **changes):
    return build_vgg(name, **{**THIN, **changes})


def save(state, path, form):
    """Write a state dict in one of the forms that are read."""
    if form == "zip":
        torch.save(state, path)
    elif form == "legacy":  # as torchvision's public files
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "torchvision's script":
        torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3}, path)
    elif form == "safetensors":
        save_file(state, path)
    else:
        prefix = {
            "checkpoint": "network.",
            "compiled": "network._orig_mod.",
            "distributed": "module.network.",
            "compiled outside": "_orig_mod.network.",
            "another project": "",
            "PyTorch's example": "module.",
        }[form]
        keys = {prefix + key: value for key, value in state.items()}
        if "network" in prefix:
            keys["ema.decay"] = torch.ones(1)
        content = {"epoch": 3, "state_dict": keys, "loops": [{}]}
        torch.save(content, path)


FORMS = {
    "zip": "w.pth",
    "legacy": "w.pt",
    "safetensors": "w.safetensors",
    "checkpoint": "w.ckpt",
    "compiled": "w.ckpt",
    "distributed": "w.ckpt",
    "compiled outside": "w.ckpt",
    "another project": "w.ckpt",
    "PyTorch's example": "w.ckpt",
    "torchvision's script": "w.pth",
}


def assert_equal_states(network, state):
    own = network.state_dict()
    assert list(own) == list(state)
    for key, value in state.items():
        assert torch.equal(own[key], value), key


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(tmp_path, form):
    source = thin(batch_norm=True)
    source(torch.randn(2, 3, 32, 32))  # running statistics off their defaults
    path = tmp_path / FORMS[form]
    save(source.state_dict(), path, form)
    target = thin(batch_norm=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_weights(target, path) == []
    assert_equal_states(target, source.state_dict())
    assert_equal_states(thin(batch_norm=True, weights=str(path)), source.state_dict())
    path.write_bytes(b"")  # what was loaded does not depend on the file any more
    target(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", ["imagenet", "compact"])
def test_other_number_of_classes_drops_the_last_layer_aloud(tmp_path, form, head):
    source, target = thin(head=head), thin(head=head, num_classes=7)
    path = tmp_path / FORMS[form]
    save(source.state_dict(), path, form)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    last = [f"classifier.{6 if head == 'imagenet' else 1}.{part}" for part in ("weight", "bias")]
    inputs = target.classifier[-1].in_features
    with pytest.warns(UserWarning, match="another number of classes") as caught:
        assert load_weights(target, path) == last
    message = str(caught[0].message)
    assert f"{last[0]} (10, {inputs}) in the file, (7, {inputs}) in the network" in message
    assert f"{last[1]} (10,) in the file, (7,) in the network" in message
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key] if key in last else source.state_dict()[key]), key


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_taken_off_a_plain_state_dict(tmp_path, wrapper):
    source = thin()
    torch.save({wrapper + key: v for key, v in source.state_dict().items()}, tmp_path / "w.pth")
    target = thin()
    load_weights(target, tmp_path / "w.pth")
    assert_equal_states(target, source.state_dict())


def test_half_precision_files_load_as_the_networks_type(tmp_path):
    state = thin().state_dict()
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "w.safetensors")
    target = thin()
    load_weights(target, tmp_path / "w.safetensors")
    assert_equal_states(target, {key: value.half().float() for key, value in state.items()})


def test_old_batch_norm_files_without_counters_fit(tmp_path):
    source, target = thin(batch_norm=True), thin(batch_norm=True)
    state = {k: v for k, v in source.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "w.pth")
    assert load_weights(target, tmp_path / "w.pth") == []
    assert torch.equal(target.features[0].weight, source.features[0].weight)


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ({"name": "vgg13"}, ["missing: features.3.weight", "unexpected: features.2.weight"]),
        ({"batch_norm": True}, ["unexpected: features.1.weight"]),
        ({"head": "compact"}, ["missing: classifier.0.weight", "unexpected: classifier.1.weight"]),
        (
            {"width": 0.05},
            ["of another shape: features.0.weight (3, 3, 3, 3) in the file, (1, 3, 3, 3) in the"],
        ),
        ({"in_channels": 1}, ["of another shape: features.0.weight (1, 1, 3, 3) in the file"]),
        ({"num_classes": 3, "width": 0.05}, ["of another shape", "and 19 more"]),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_key_and_nothing_loads(tmp_path, source, problems):
    torch.save(thin(**source).state_dict(), tmp_path / "w.pth")
    target = thin()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(target, tmp_path / "w.pth")
    message = str(caught.value)
    assert str(tmp_path / "w.pth") in message
    assert "does not fit VGG(name=vgg11" in message
    assert "\n" not in message
    for problem in problems:
        assert problem in message
    assert_equal_states(target, before)


def test_missing_keys_are_counted(tmp_path):
    state = thin().state_dict()
    kept = {key: state[key] for key in list(state)[5:]}
    torch.save(kept, tmp_path / "w.pth")
    first = "features.0.weight, features.0.bias, features.3.weight and 2 more"
    with pytest.raises(WeightsError, match=f"missing: {first}"):
        load_weights(thin(), tmp_path / "w.pth")


def test_half_a_last_layer_is_no_other_number_of_classes(tmp_path):
    state = thin(num_classes=3).state_dict()
    del state["classifier.6.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing: classifier\.6\.bias"):
        load_weights(thin(), tmp_path / "w.pth")


class Code:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path, legacy):
    path, proof = tmp_path / "evil.ckpt", tmp_path / "proof"
    content = {"state_dict": thin().state_dict(), "extra": Code(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=rf"{path}: it holds \w+\.mkdir.*refused") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # so the file would have done it


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_with_code_is_not_run(tmp_path):
    path, proof = tmp_path / "evil.pkl", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Code(proof)))
    with pytest.raises(WeightsError, match=str(path)):
        read_state_dict(path)
    assert not proof.exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"it holds torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999])
def test_a_torn_file_is_refused(tmp_path, form, kept):
    path = tmp_path / FORMS[form]
    save(thin().state_dict(), path, form)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    reason = "the file is empty" if kept == 0 else "torn, or not a"
    with pytest.raises(WeightsError, match=f"cannot read weights from {path}: {reason}") as caught:
        load_weights(thin(), path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "w.pth"
    state = {"w": torch.arange(1000.0)}
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[content.find(state["w"][500:504].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["w"][500] != 500  # torch itself takes it
    with pytest.raises(WeightsError, match="checksum"):
        read_state_dict(path)


def test_a_file_without_checksums_is_read(tmp_path):
    source, target = thin(), thin()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(source.state_dict(), tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        assert archive.testzip() is not None
    load_weights(target, tmp_path / "w.pth")
    assert_equal_states(target, source.state_dict())


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w.safetensors"])
@pytest.mark.parametrize("text", ["hello world, this is text\n", "<html>404</html>", "a"])
def test_text_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match="torn, or not a"):
        read_state_dict(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    form=st.sampled_from(["zip", "legacy", "safetensors"]),
    position=st.floats(0, 1, exclude_max=True),
    noise=st.binary(min_size=1, max_size=40),
)
def test_noise_in_a_file_gives_tensors_or_a_weights_error(tmp_path, form, position, noise):
    path = tmp_path / FORMS[form]
    save({"a": torch.ones(20), "b": torch.zeros(3, 3)}, path, form)
    content = bytearray(path.read_bytes())
    start = int(position * len(content))
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):
        assert all(isinstance(value, torch.Tensor) for value in read_state_dict(path).values())


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"model": {"features.0.weight": 1}},
        {"a": 1},
        {"state_dict": {"network.a": 1}},
    ],
    ids=str,
)
def test_other_content_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="neither a state dict nor a checkpoint"):
        read_state_dict(tmp_path / "w.pth")


def test_a_checkpoint_of_another_network_is_refused_by_its_keys(tmp_path):
    torch.save({"state_dict": {"model.a": torch.ones(1)}}, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=r"does not fit .*unexpected: model\.a"):
        load_weights(thin(), tmp_path / "w.ckpt")


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    torch.save(thin().state_dict(), tmp_path / "w.pth")

    def refuse(*_, **__):  # root, whom tests may run as, is never refused
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(WeightsError, match=r"w\.pth: permission denied"):
        read_state_dict(tmp_path / "w.pth")


def test_no_such_file(tmp_path):
    for missing in (tmp_path / "none.pth", tmp_path, "IMAGENET1K_V9"):
        with pytest.raises(WeightsError, match=f"no weights at {missing}.*IMAGENET1K_V1"):
            load_weights(thin(), missing)
    assert issubclass(WeightsError, InputError)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's download folder, and what would have been fetched; nothing reaches the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    fetched = []

    def download(url, path, digest):
        fetched.append((url, digest))
        torch.save(fetched_state, path)

    fetched_state = thin().state_dict()
    monkeypatch.setattr(weights_module, "_download", download)
    return tmp_path / "hub" / "checkpoints", fetched, fetched_state


@pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg16", "vgg19"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_public_weights_are_torchvisions_file_for_the_network(hub, name, batch_norm):
    folder, fetched, _ = hub
    source = thin(name, batch_norm=batch_norm)
    url = torchvision.models.get_model_weights(name + "_bn" * batch_norm)["IMAGENET1K_V1"].url
    folder.mkdir(parents=True)
    save(source.state_dict(), folder / url.rpartition("/")[2], "legacy")  # put there by hand
    target = thin(name, batch_norm=batch_norm, weights="IMAGENET1K_V1")
    assert_equal_states(target, source.state_dict())
    assert fetched == []


def test_public_weights_are_fetched_and_checked(hub):
    folder, fetched, state = hub
    target = build_vgg("A", **THIN, weights="IMAGENET1K_V1")
    assert_equal_states(target, state)
    assert fetched == [("https://download.pytorch.org/models/vgg11-8a719046.pth", "8a719046")]
    assert (folder / "vgg11-8a719046.pth").is_file()


def test_a_download_is_checked_and_whole_or_not_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 5000)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    weights_module._download(source.as_uri(), target, digest[:8])
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(OSError, match="SHA-256 does not begin with 0000"):
        weights_module._download(source.as_uri(), tmp_path / "other", "0000")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


@pytest.mark.parametrize("error", [URLError("no network"), OSError("its SHA-256")], ids=str)
def test_failed_download_says_where_to_put_the_file(hub, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(weights_module, "_download", fail)
    place = hub[0] / "vgg11-8a719046.pth"
    with pytest.raises(WeightsError, match=rf"cannot download https://.*put it at {place}"):
        load_weights(thin(), "IMAGENET1K_V1")


@pytest.mark.parametrize("name", ["A-LRN", "C"])
def test_columns_without_public_weights_say_who_has_them(hub, name):
    with pytest.raises(WeightsError, match="only for vgg11, vgg13, vgg16, vgg19"):
        thin(name, weights="IMAGENET1K_V1")
    assert hub[1] == []
