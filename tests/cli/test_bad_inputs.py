"""Bad input: one line that names what is wrong, exit code 2, and a disk that is as it was.

Rows run in forks (`tests.forks`), because a process of its own costs a row ten seconds; a
sample runs both ways.
"""

import errno
import gzip
import hashlib
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.cli.bad_files import (
    ARCHIVES,
    GOOD,
    Maker,
    RunsCode,
    altered,
    animation,
    card,
    classes,
    code_pickle,
    cut,
    deep_tiff,
    devkit,
    features,
    filled,
    flipped_bit,
    folder,
    gif_header,
    image,
    jpeg_header,
    link,
    member,
    meta,
    model_section,
    network_weights,
    other_zip,
    pickled,
    pipe,
    png_header,
    preprocessing,
    safetensors,
    state,
    tar,
    tiff_header,
    tree,
    wrong_crc,
)
from tests.conftest import TINY, Script
from tests.forks import Finished, Forks

SECONDS = 60.0  # for a row; most take less than one
TRAIN = " ".join(["train", *TINY])
# Three classes, four validation images: archives of ImageNet that are small.
SMALL = (
    "from vgglab.data.sources import prepare as p;"
    "p.prepare_imagenet.__kwdefaults__['counts'] = p.Counts(classes=3, train=3, val=4)"
)

Content = bytes | str | Maker


class Row(NamedTuple):
    """What a user types, what the line must have (` | ` between parts), and the files there.

    Each folder also holds `good.ckpt`, of a network for 32x32 RGB and the classes `class 0` to
    `class 3`, and the image `good.png`.
    """

    command: str
    says: str
    files: Mapping[str, Content] = {}
    before: str = ""


# Overrides: names, kinds, bounds, Hydra's grammar, code, and files that are not there.
SETTINGS = {
    "train model=vgg61": "model=vgg61 | did you mean vgg1 | vgg16 | conf/model",
    "train modle=vgg16": "modle | did you mean model?",
    "train data=digitz": "data=digitz | did you mean digits?",
    "train experiment=cifar10": "experiment=cifar10 | cifar10_vgg16_bn",
    "train scheduler=cosin": "scheduler=cosin | did you mean cosine?",
    "train callbacks=[default,emma]": "callbacks | emma | did you mean ema?",
    "train trainer.max_epoch=3": "trainer.max_epoch | did you mean max_epochs? | precision",
    "train +trainer.max_epoch=3": "trainer.max_epoch | did you mean max_epochs? | precision",
    "train optimizer.learning_rate=0.1": "optimizer.learning_rate | lr",
    "train +data.btch_size=3": "data.btch_size | did you mean batch_size?",
    "train ~optimizer": "optimizer | required",
    "train ~trainer.max_epochs": "max_epochs | max_steps",
    "summarize optimizer=sgd": "optimizer",
    "train optimizer.lr=abc": "optimizer.lr='abc' | number",
    "train optimizer.lr=-1": "optimizer | learning rate | -1",
    "train optimizer.lr=[0.1,0.2]": "optimizer.lr=[0.1, 0.2]",
    "train optimizer.lr=": "optimizer.lr=''",
    "train optimizer.weight_decay=-1": "optimizer | weight_decay | -1",
    "train optimizer=null": "optimizer",
    "train data.batch_size=-1": "data.batch_size=-1 | greater than 0",
    "train data.batch_size=1.5": "data.batch_size=1.5 | integer",
    "train data.validation_fraction=1": "data.validation_fraction=1",
    "train data.validation_fraction=0": "data.validation_fraction=0",
    "train data.train_scale=4 data.pad=0": "data.train_scale=[4, 4] | 8",
    "train data.train_scale=12": "data.train_scale | data.pad",
    "train +data.colour_deviation=0.1": "data.colour_deviation | RGB",
    "train seed=-1": "seed=-1",
    "train seed=1.5": "seed=1.5 | integer",
    "train test=maybe": "test='maybe'",
    "train trainer.max_epochs=0": "trainer.max_epochs=0",
    "train trainer.precision=17": "trainer.precision=17 | bf16-mixed",
    "train accelerator=cpu trainer.precision=16-mixed": "trainer.precision=16-mixed | bf16-mixed",
    "train trainer.gradient_clip_val=nan": "trainer.gradient_clip_val=nan",
    "train accelerator=cpu accelerator.devices=0": "accelerator.devices=0",
    "train accelerator=ddp_cpu data.batch_size=65": "data.batch_size=65 | 64 or 66",
    "train model.width=inf": "model.width=inf",
    "train model.num_classes=3": "model.num_classes=3 | labels 0 to 9",
    "train model.max_pools=5": "8x8",
    "train model.head=compct": "model.head='compct' | compact",
    "train loss.label_smoothing=2": "label_smoothing | 2",
    "train allowed_targets=os": "allowed_targets='os' | list",
    "train data=synthetic data.num_classes=1": "data.num_classes=1",
    "train data=synthetic data.train_size=5": "data.batch_size | 5 images",
    "train data=image_folder": "data.root is required",
    "train data=imagenet_stream": "data.uri is required",
    "train data=imagenet_stream data.uri=ftp://a/b": "data.uri=ftp://a/b | s3://bucket/folder or gs://",
    "train data=imagenet_stream data.uri=no": "data.uri=no | no/train/vgglab.json: no such file",
    "train data=imagenet_stream data.uri=no data.max_cache_size=all": "cache_size=all | 200GB",
    "train data=imagenet_stream data.uri=no data.interleave=0": "data.interleave=0",
    "train data=imagenet_stream data.uri=no data.retry_seconds=-1": "data.retry_seconds=-1",
    "train data=imagenet_stream data.uri=s3://b data.endpoint=x": "data.endpoint=x | http:// or https://",
    "train data=imagenet_stream data.uri=s3://b data.endpoint=http://127.0.0.1:9"
    " data.anonymous=true data.retry_seconds=0": "s3://b/train/vgglab.json: Could not connect",
    "train accelerator=ddp_cpu accelerator.timeout_seconds=0": "accelerator.timeout_seconds=0",
    "train accelerator=ddp_cpu accelerator.strategy=hybrid": "fc6 and fc7 | accelerator=ddp",
    "train accelerator=ddp_cpu accelerator.sync_batchnorm=true": "sync_batchnorm",
    "plan hardware=h2000": "hardware=h2000 | did you mean h200?",
    "plan devices=0": "devices=0 | greater than 0",
    "plan devices=abc": "devices | abc | 1..4096",
    "plan devices=7..6": "devices | 7..6 | 1..4096",
    "plan devices=16": "devices=16 | has 8 | num_nodes=N",
    "plan devices=[12]": "devices=12 | nodes of NVIDIA H200",
    "plan devices=[8] num_nodes=2": "num_nodes=2 | leave num_nodes out",
    "plan experiment=imagenet_vgg16 accelerator=ddp devices=7": "data.batch_size=256 | 252 or 259",
    "plan experiment=none data=image_folder data.root=x": "ImageFolder | images=N classes=N",
    "plan hardware=v100 experiment=imagenet_vgg16": "trainer.precision=bf16-mixed | 16-mixed",
    "plan batch_size=512": "batch_size | data.batch_size=512",
    "plan data.batch_size=5000": "data.batch_size=5000 | 1293 images",
    "plan hardware.memory_gb_s.value=-1": "hardware.memory_gb_s.value=-1",
    "plan hardware.foo=1": "hardware.foo: no such setting",
    "plan accelerator=hybrid devices=8": "fc6 and fc7 | accelerator=ddp",
    "sbatch accelerator=ddp": "accelerator.devices=auto",
    "sbatch accelerator=ddp accelerator.devices=8 slurm.tme=1": "slurm.tme | did you mean time?",
    "sbatch accelerator.devices=8 slurm.time=tomorrow": "slurm.time | tomorrow | 24:00:00",
    "benchmark target=loaders": "target=loaders | did you mean loader?",
    "benchmark processes=1": "processes=1",
    "benchmark settings=[digits]": "settings | processes",
    "benchmark target=dashboard model.width=1": "model | settings",
    "benchmark target=loader": "data=<OPTION> | image_folder",
    "benchmark target=loader data=image_folder": "data.root is required",
    "benchmark target=loader data=synthetic steps=0": "steps=0 | greater than 0",
    "benchmark target=loader data=synthetic accelerator.devices=3": "data.batch_size=64 | 63 or 66",
    "benchmark target=loader data=synthetic data.batch_size=5000": "data.batch_size=5000 | images",
    "benchmark target=loader data=synthetic accelerator=ddp": "accelerator",
    "benchmark target=decoding": "images is required",
    "benchmark target=decoding images=nowhere": "images=nowhere",
    "benchmark target=decoding images=nowhere limit=0": "limit=0",
    "benchmark processes=4096": "processes=4096 | cores",
    "summarize input_size=[3,224]": "input_size=[3, 224] | height",
    "summarize model=vgg11 model.head=compact input_size=[3,4,4]": "3x4x4",
    "summarize format=xml": "format='xml' | table | json",
    "compare_stacks channels=0": "channels=0",
    "receptive_field": "model= | checkpoint=",
    "receptive_field +model._target_=torch.nn.Sequential": "model",
    "paper_tables table=8": "table | 8 | 1 to 7",
    "paper_tables table=3": "table=3 | checkpoints=",
    "paper_tables table=6 checkpoints=[good.ckpt]": "table=6 | checkpoints=",
    "paper_tables table=3 checkpoints=[good.ckpt,good.ckpt]": "good.ckpt | twice",
    "prepare_imagenet": "archives is required",
    "evaluate": "checkpoint= | weights=",
    "evaluate checkpoint=good.ckpt model=vgg16": "model=",
    "evaluate checkpoint=good.ckpt protocol=dens": "protocol='dens' | dense",
    "evaluate checkpoint=good.ckpt scales=[0]": "scales",
    "evaluate checkpoint=good.ckpt scales=[8]": "scales=[8] | 32",
    "evaluate checkpoint=good.ckpt data=digits": "data | 10 classes | good.ckpt",
    "evaluate checkpoint=good.ckpt device=tpu": "device='tpu' | cpu",
    "linear_probe features=a.npz train_per_class=1": "train_per_class=1",
    "colour_axes limit=0": "limit=0",
    "shard_dataset output=out": "data=",
    "shard_dataset data=synthetic": "output is required",
    "shard_dataset data=synthetic output=out quality=101": "quality=101",
    "shard_dataset data=synthetic output=out shortest_side=0": "shortest_side=0",
    "shard_dataset data=synthetic output=s3://bucket": "output | s3://bucket | docs/data.md",
    "restyle checkpoint=good.ckpt content=a.png style=a.png output=b.png steps=0": "steps=0",
    "train trainer.max_epochs": "trainer.max_epochs",
    "train seed=0,1": "seed=0,1",
    "train seed='${nowhere}'": "nowhere",
    "train seed='${eval:1}'": "eval",
    "train --config-name=nothing": "nothing",
    "train --config-dir=nowhere": "nowhere",
    "train --nonsense": "--nonsense",
    "train optimizer._target_=os.system": "optimizer._target_=os.system | allowed_targets",
    "train optimizer._target_=torch.load": "optimizer._target_=torch.load | torch.optim.Optimizer",
    "train model._target_=builtins.open": "model._target_=builtins.open | allowed_targets",
    "train model._target_=torch.nn.Nothing": "model._target_=torch.nn.Nothing",
    "train model._target_=": "model._target_",
    "train loss._target_=torch.optim.SGD": "loss._target_=torch.optim.SGD",
    "train +callbacks.mine._target_=os.system": "callbacks.mine._target_=os.system",
    "train data._target_=vgglab.files.replace_file": "data._target_=vgglab.files.replace_file",
    "train data=image_folder data.root=nowhere": "data.root=nowhere | no such folder",
    "train resume=nowhere.ckpt": "nowhere.ckpt",
    "train weights=nowhere.pth": "nowhere.pth",
    "train model.init_from=nowhere.pth": "nowhere.pth",
    "train model=vgg11_lrn weights=IMAGENET1K_V1": "IMAGENET1K_V1 | vgg11_lrn",
    "predict checkpoint=good.ckpt images=nowhere": "images=nowhere",
    "predict checkpoint=good.ckpt images=[]": "images=[]",
    "predict checkpoint=good.ckpt images=good.png on_error=ignore": "on_error | skip",
    "visualize checkpoint=good.ckpt images=good.png layer=conv9_9": "layer=conv9_9 | conv1_1",
    "visualize checkpoint=good.ckpt images=good.png class=dragon": "class=dragon | class 0",
    "receptive_field checkpoint=good.ckpt image=good.png layers=[conv9_9]": "conv9_9",
    "extract_features checkpoint=good.ckpt images=nowhere output=a.npz": "nowhere",
    "linear_probe features=nowhere.npz": "features=nowhere.npz",
    "linear_probe features=good.png": "features=good.png | .npz",
    "prepare_imagenet archives=nowhere root=out": "archives=nowhere",
    "restyle checkpoint=good.ckpt content=nowhere.png style=good.png output=a.png": "nowhere.png",
    "train +model.weights=nowhere.pth": "nowhere.pth",
    "train model.width=1e12": "memory",
    "train accelerator=tpu": "accelerator=tpu | did you mean | cpu",
    "train name='${name}'": "name:  | Recursive",
    "train seed='${oc.env:NO_SUCH_VARIABLE}'": "NO_SUCH_VARIABLE",
    "train scheduler=cosine scheduler.warmup_epochs=nan": "scheduler.warmup_epochs=nan",
    "summarize model=vgg11 model.head=compact input_size=[3,10000000,10000000]": "memory",
    "compare_stacks channels=10000000": "memory",
    "evaluate checkpoint=good.ckpt scales=[2000000]": "memory",
    "colour_axes data=digits output=axes.json": "data: | RGB",
    "train data.validation_fraction=0.0001": "data.validation_fraction | 0.0001",
    "train =3": "=3: | string or a list",
    "train model.width=nan": "model.width=nan",
    "receptive_field checkpoint=good.ckpt image=good.png layers=[conv5_1] size=2": "size | 2x2",
    "predict checkpoint=. images=good.png": "at .",
    "train trainer.max_epochs=[1": "trainer.max_epochs=[1",
    "export_weights checkpoint=good.ckpt output=a.onnx": "output=a.onnx | .safetensors",
    "export_weights checkpoint=good.ckpt output=nowhere/a.pth": "output=nowhere/a.pth",
    "replay": "run | batch=",
    "replay run=nowhere": "run=nowhere | no such folder",
    "replay run=.": "run=. | .hydra/config.yaml",
    "replay batch=nowhere.pt": "nowhere.pt",
    "compare": "runs is required",
    "compare nowhere": "nowhere | no such folder",
    "compare nowhere/*": "nowhere/* | no folder",
    "compare good.ckpt": "good.ckpt | the folder of a run",
    "compare .": "no run",
    "compare . price=0": "price=0",
    "compare . format=html": "format='html' | markdown",
    "compare . runs=[x]": "paths alone or runs=[...]",
    "train trainer.limit_train_batches=1.5": "limit_train_batches | 1.5",
    "train data=synthetic data.train_size=1000000000000": "memory",
}

# An experiment of a stranger: train --config-dir=theirs experiment=mine
EXPERIMENTS: dict[str, tuple[str, Content]] = {
    "broken": ("mine.yaml, line 3", "# @package _global_\nseed: [1\ntest: true\n"),
    "tab": ("mine.yaml, line 3", "# @package _global_\ntrainer:\n\tmax_epochs: 3\n"),
    "binary": ("mine.yaml", bytes(range(256))),
    "list": ("mine", "- 1\n- 2\n"),
    "text": ("hello", "hello\n"),
    "folder": ("experiment=mine", folder),
    "dangling": ("experiment=mine", link("gone.yaml")),
    "loop": ("experiment=mine", link("mine.yaml")),
    "pipe": ("experiment=mine", pipe),
    "key": ("trainer.max_epoch | did you mean max_epochs?", "trainer: {max_epoch: 3}"),
    "section": ("trainr | did you mean trainer?", "trainr: {max_epochs: 3}"),
    "choice": ("vgg61 | did you mean vgg1", "defaults:\n  - override /model: vgg61"),
    "kind": ("seed='many'", "seed: many"),
    "tag": ("mine.yaml, line 2", "name: !!python/object/apply:os.system ['touch escaped']"),
    "os.system": ("os.system", "optimizer: {_target_: os.system, command: touch escaped}"),
    "torch.load": ("torch.load", "model: {_target_: torch.load, f: good.ckpt}"),
    "torch.hub.load": ("torch.hub.load", "model: {_target_: torch.hub.load, repo_or_dir: .}"),
    "open": ("builtins.open", "callbacks: {mine: {_target_: builtins.open, file: a, mode: w}}"),
    "environment": ("NO_SUCH_VARIABLE", "name: ${oc.env:NO_SUCH_VARIABLE}"),
    "permission": ("allowed_targets", "allowed_targets: [os]\noptimizer: {_target_: os.system}"),
    "source text": (
        "torch.fx",
        "model: {_target_: torch.fx.graph_module.reduce_graph_module, "
        "import_block: \"open('escaped', 'w').close()\\n\", "
        "body: {code: 'def forward(self): pass'}}",
    ),
    "before main": (
        "hydra.callbacks",
        "hydra: {callbacks: {x: {_target_: builtins.open, file: a, mode: w}}}",
    ),
    "aliases": ("mine.yaml | aliases", "name: &a mine\nrun_dir: *a"),
    "outside": ("hydra.run", "hydra: {run: {dir: /tmp/escaped}}"),
}

# predict checkpoint=bad.ckpt images=good.png
CHECKPOINTS: dict[str, tuple[str, Content]] = {
    "empty": ("bad.ckpt | empty", b""),
    "torn in the middle": ("bad.ckpt", cut(0.5)),
    "torn late": ("bad.ckpt", cut(0.999)),
    "flipped bit": ("bad.ckpt", flipped_bit),
    "text": ("bad.ckpt", "hello\n" * 100),
    "image": ("bad.ckpt", image()),
    "another zip": ("bad.ckpt", other_zip),
    "folder": ("bad.ckpt", folder),
    "pipe": ("bad.ckpt", pipe),
    "device": ("bad.ckpt", link("/dev/zero")),
    "loop": ("bad.ckpt", link("bad.ckpt")),
    "dangling": ("bad.ckpt", link("gone.ckpt")),
    "code": ("bad.ckpt | system", pickled({"state_dict": {}, "code": RunsCode()})),
    "code, old format": ("bad.ckpt", pickled(RunsCode(), legacy=True)),
    "code, plain pickle": ("bad.ckpt", code_pickle()),
    "number": ("bad.ckpt", pickled(3)),
    "state dict": ("bad.ckpt | weights=", altered(network_weights)),
    "no card": ("bad.ckpt", altered(lambda c: {"state_dict": c["state_dict"]})),
    "card is a list": ("bad.ckpt", altered(lambda c: {**c, "vgglab": []})),
    "no model": ("bad.ckpt | model", card(config={"data": {}})),
    "no classes": ("bad.ckpt | classes", card(classes=None)),
    "classes are numbers": ("bad.ckpt | classes", card(classes=[1, 2, 3, 4])),
    "other number of classes": ("bad.ckpt", card(classes=["a", "b"])),
    "no preprocessing": ("bad.ckpt | preprocessing", card(preprocessing=None)),
    "other preprocessing": ("bad.ckpt | preprocessing", card(preprocessing={"scale": 2})),
    "size is a text": ("bad.ckpt | preprocessing.size", preprocessing(size="large")),
    "size is negative": ("bad.ckpt | preprocessing", preprocessing(size=[-1, -1])),
    "size is huge": ("bad.ckpt | preprocessing", preprocessing(size=[10**6, 10**6])),
    "two channels": ("bad.ckpt", preprocessing(mean=[0.5, 0.5], std=[0.2, 0.2])),
    "deviation of zero": ("bad.ckpt | std", preprocessing(std=[0.0, 0.0, 0.0])),
    "mean is NaN": ("bad.ckpt | mean", preprocessing(mean=[float("nan")] * 3)),
    "model is os.system": ("bad.ckpt | os.system", model_section(_target_="os.system")),
    "model is torch.load": ("bad.ckpt | torch.load", model_section(_target_="torch.load")),
    "model of another name": ("bad.ckpt | vgg61", model_section(name="vgg61")),
    "model of another column": ("bad.ckpt", model_section(name="vgg16")),
    "model is huge": ("bad.ckpt", model_section(width=1e9)),
    "missing weight": ("bad.ckpt | classifier.1.bias", state(lambda s: s.popitem())),
    "no weights": ("bad.ckpt", state(lambda s: s.clear())),
    "shape": ("bad.ckpt | features.0.weight", filled("features.0.weight", shape=(3, 3))),
    "text for a weight": ("bad.ckpt", state(lambda s: s.update({"network.features.0.bias": "a"}))),
    "NaN": ("bad.ckpt | finite", filled("features.0.weight", value=float("nan"))),
}

# summarize +model.weights=bad.safetensors
SAFETENSORS: dict[str, tuple[str, Content]] = {
    "empty": ("bad.safetensors | empty", b""),
    "torn": ("bad.safetensors", safetensors(a=(100, 0, 400))),
    "huge header": ("bad.safetensors", safetensors(length=2**62)),
    "overlap": ("bad.safetensors", safetensors(data=bytes(24), a=(4, 0, 16), b=(4, 8, 24))),
    "no tensors": ("bad.safetensors | missing", safetensors(data=b"")),
    "checkpoint": ("bad.safetensors", altered(network_weights)),
}

# train ... resume=bad.ckpt
RESUMED: dict[str, tuple[str, Content]] = {
    "weights": ("bad.ckpt | weights=", altered(network_weights)),
    "number": ("bad.ckpt", pickled(3)),
    "torn": ("bad.ckpt", cut(0.7)),
    "flipped bit": ("bad.ckpt", flipped_bit),
    "folder": ("bad.ckpt", folder),
    "code": ("bad.ckpt", pickled(RunsCode())),
    "step is a text": ("bad.ckpt", altered(lambda c: {**c, "global_step": "many"})),
    "no optimiser": ("bad.ckpt", altered(lambda c: c.pop("optimizer_states") and None)),
    "no loops": ("bad.ckpt", altered(lambda c: c.pop("loops") and None)),
    "card is a list": ("bad.ckpt", altered(lambda c: {**c, "vgglab": []})),
    "shape": ("bad.ckpt", filled("features.0.weight", shape=(3, 3))),
}

# predict checkpoint=good.ckpt images=bad.SUFFIX
IMAGES: dict[str, tuple[str, Content]] = {
    "empty": ("png", b""),
    "truncated JPEG": ("jpg", image(cut=0.5)),
    "truncated PNG": ("png", image("PNG", cut=0.5)),
    "header of a JPEG": ("jpg", image(cut=0.1)),
    "text": ("jpg", b"hello"),
    "bomb in a PNG": ("png", png_header(100_000, 100_000)),
    "bomb in a JPEG": ("jpg", jpeg_header(65_535, 65_535)),
    "bomb in a GIF": ("gif", gif_header(65_535, 65_535)),
    "bomb in a TIFF": ("tiff", tiff_header(100_000, 100_000)),
    "no pixels": ("png", png_header(0, 0)),
    "32 bits": ("tif", deep_tiff()),
    "cut animation": ("gif", animation(0.2)),
    "folder": ("png", folder),
    "dangling": ("png", link("gone.png")),
    "loop": ("png", link("bad.png")),
    "pipe": ("png", pipe),
    "endless": ("png", link("/dev/zero")),
    "device": ("png", link("/dev/null")),
}

# train data=image_folder data.root=photos; small images are kept in memory, others are not
TREES: dict[str, tuple[str, Content]] = {
    "empty": ("data.root=photos | train", folder),
    "file": ("data.root=photos", b"hello"),
    "no classes": ("photos/train | class", tree(train=None)),
    "no class folders": ("photos/train | class", tree(train={"a.jpg": image()})),
    "one class": ("photos/train | one class", tree(**classes(5))),
    "class without images": ("photos/train/c | no images", tree(**classes(5, 5, 0))),
    "one image a class": (
        "data.validation_fraction",
        tree(**classes(1, 1), **classes(1, 1, split="test")),
    ),
    "more classes in val": (
        "photos/val | c",
        tree(**classes(5, 5), **classes(1, 1, 1, split="val")),
    ),
    "fewer classes in val": ("photos/val | b", tree(**classes(5, 5), **classes(1, split="val"))),
    "no test": ("data.root=photos | test", tree(**classes(15, 15))),
    "text": ("photos/train/a/bad.png", tree(**classes(15, 15, bad_png=b"hello"))),
    "torn": (
        "photos/train/a/bad.png",
        tree(
            **classes(15, 15, bad_png=image("PNG", (16, 16), cut=0.6)),
            **classes(1, 1, split="test"),
        ),
    ),
    "pipe": ("photos/train/a/bad.png", tree(**classes(15, 15, bad_png=pipe))),
    "dangling": ("photos/train/a/bad.png", tree(**classes(15, 15, bad_png=link("gone")))),
}

VAL = "ILSVRC2012_val_0000000"
# prepare_imagenet archives=archives root=out: the devkit, the validation and the training images
ARCHIVED: dict[str, tuple[str, Content | None, Content, Content]] = {
    "no official devkit": ("devkit_t12.tar.gz | official", b"hello", b"", b""),
    "devkit empty": ("devkit_t12.tar.gz", b"", b"", b""),
    "devkit truncated": ("devkit_t12.tar.gz", gzip.compress(devkit())[:-100], b"", b""),
    "devkit with a wrong checksum": ("devkit_t12.tar.gz | CRC", wrong_crc(devkit()), b"", b""),
    "devkit without meta.mat": ("devkit_t12.tar.gz | meta.mat", devkit(without="mat"), b"", b""),
    "devkit without labels": ("devkit_t12.tar.gz | truth", devkit(without="txt"), b"", b""),
    "meta.mat is text": ("devkit_t12.tar.gz | labels", devkit(mat=b"hello" * 100), b"", b""),
    "meta.mat is empty": ("devkit_t12.tar.gz | labels", devkit(mat=b""), b"", b""),
    "meta.mat is torn": ("devkit_t12.tar.gz | labels", devkit(mat=meta()[:-100]), b"", b""),
    "few classes": (
        "devkit_t12.tar.gz | 2 classes",
        devkit(mat=meta(2), labels="1 1 2 2"),
        b"",
        b"",
    ),
    "wnid climbs out": ("devkit_t12.tar.gz | ../", devkit(mat=meta(name="../{:05d}")), b"", b""),
    "labels are words": ("devkit_t12.tar.gz | labels", devkit(labels="cat dog"), b"", b""),
    "labels outside": ("devkit_t12.tar.gz | labels", devkit(labels="1 2 3 4"), b"", b""),
    "devkit is a pipe": ("devkit_t12.tar.gz", pipe, b"", b""),
    "devkit is a link": (
        "devkit_t12.tar.gz | meta.mat",
        tar(member("ILSVRC2012_devkit_t12/data/meta.mat", type=b"2", linkname="/etc/passwd")),
        b"",
        b"",
    ),
    "val is text": ("img_val.tar", None, b"hello" * 500, b""),
    "val of other names": ("img_val.tar | cat.jpg", None, tar(member("cat.jpg")), b""),
    "val climbs out": ("img_val.tar | ../escaped", None, tar(member("../escaped")), b""),
    "val is absolute": ("img_val.tar | /escaped", None, tar(member("/escaped")), b""),
    "val: link": (
        "img_val.tar | link",
        None,
        tar(member(f"{VAL}1.JPEG", type=b"2", linkname="a")),
        b"",
    ),
    "val: hard link": (
        "img_val.tar | link",
        None,
        tar(member(f"{VAL}1.JPEG", type=b"1", linkname="a")),
        b"",
    ),
    "val: device": ("img_val.tar | device", None, tar(member(f"{VAL}1.JPEG", type=b"3")), b""),
    "val: pipe": ("img_val.tar | device", None, tar(member(f"{VAL}1.JPEG", type=b"6")), b""),
    "val: number outside": ("img_val.tar | 00000005", None, tar(member(f"{VAL}5.JPEG")), b""),
    "val: no images": ("out/val.part | 0 images", None, b"", b""),
    "val: size bomb": (
        "img_val.tar | bytes",
        None,
        member(f"{VAL}1.JPEG", declared=1 << 40)[0].tobuf(),
        b"",
    ),
    "val: torn": ("img_val.tar", None, tar(member(f"{VAL}1.JPEG", bytes(9000)))[:3000], b""),
}

# linear_probe features=bad.npz train_per_class=2
FEATURES: dict[str, tuple[str, Content]] = {
    "empty": ("bad.npz", b""),
    "text": ("bad.npz", b"hello" * 100),
    "another zip": ("bad.npz", other_zip),
    "code": ("bad.npz", features(paths=np.array([RunsCode()] * 12, dtype=object))),
    "no features": ("bad.npz | features", features(features=None)),
    "no labels": ("bad.npz | labels", features(labels=None)),
    "no names": ("bad.npz | classes", features(classes=None)),
    "two bytes": ("bad.npz | float32", features(features=np.ones((12, 4), np.float16))),
    "one dimension": ("bad.npz", features(features=np.ones(12, np.float32))),
    "no width": ("bad.npz", features(features=np.ones((12, 0), np.float32))),
    "no rows": ("bad.npz", features(0)),
    "not finite": ("features | finite", features(features=np.full((12, 4), np.inf, np.float32))),
    "few labels": ("bad.npz | labels", features(labels=np.arange(3))),
    "labels outside": ("bad.npz | labels", features(labels=np.arange(12))),
    "labels are words": ("bad.npz | labels", features(labels=np.array(["cat", "dog"] * 6))),
    "one class": ("bad.npz | cat", features(labels=np.zeros(12, int), classes=np.array(["cat"]))),
    "few images": ("train_per_class=2 | cat", features(4)),
    "pipe": ("bad.npz", pipe),
    "loop": ("bad.npz", link("bad.npz")),
}

LONG = "a" * 300
STYLED = "restyle checkpoint=good.ckpt content=good.png style=good.png"
EXTRACT = "extract_features checkpoint=good.ckpt images=photos"
SHIFTED = (
    "train experiment=none data=synthetic data.colour_deviation=0.1 data.colour_axes=axes.json"
)
CIFAR = "train experiment=none data=cifar10 data.root=data"
TESTED = "evaluate checkpoint=bad.ckpt data=image_folder data.root=photos"
TORN_TEST = {
    "bad.ckpt": card(classes=list("abcd")),
    "photos": tree(
        **classes(1, 1, 1, 1),
        **classes(1, 1, 1, 1, split="test", bad_jpg=image(size=(80, 80), cut=0.5)),
    ),
}
PHOTO = {"photos/a.jpg": image()}
TORN_PHOTO = {**PHOTO, "photos/b.jpg": image(cut=0.5)}
AXES = '{"eigenvalues": [NaN, 1, 1], "eigenvectors": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}'

OTHERS = {
    "bound: rate": Row(f"{TRAIN} optimizer.lr=nan", "optimizer.lr=nan"),
    "bound: mixup": Row(f"{TRAIN} data.mixup_alpha=inf", "data.mixup_alpha=inf"),
    "sweep": Row(
        f"{TRAIN.replace('train', 'train --multirun', 1)} optimizer.lr=-1,-2", "optimizer"
    ),
    "resume with another rate": Row(
        f"{TRAIN} resume=good.ckpt optimizer.lr=0.5", "good.ckpt | optimizer.lr=0.01 | 0.5"
    ),
    "resume with another seed": Row(f"{TRAIN} resume=good.ckpt seed=7", "good.ckpt | seed=0 | 7"),
    "used folder": Row(
        f"{TRAIN} hydra.run.dir=mine", "mine | resume=auto", {"mine/checkpoints/last.ckpt": b"kept"}
    ),
    "used folder, wrong setting": Row(
        "train optimizer.lr=abc hydra.run.dir=mine", "optimizer.lr", {"mine/notes.txt": "kept"}
    ),
    "weights of another network": Row("train weights=good.ckpt", "good.ckpt | does not fit"),
    "weights with code": Row(
        "train weights=bad.pth", "bad.pth", {"bad.pth": pickled({"a": RunsCode()})}
    ),
    "layers of another column": Row("train model.init_from=good.ckpt", "model.init_from=good.ckpt"),
    "weights for another model": Row(
        "visualize weights=bad.pth model=vgg11 images=good.png",
        "bad.pth | classifier.6",
        {"bad.pth": altered(network_weights)},
    ),
    "data of a checkpoint is os.system": Row(
        "evaluate checkpoint=bad.ckpt",
        "os.system",
        {"bad.ckpt": altered(lambda c: c["vgglab"]["config"]["data"].update(_target_="os.system"))},
    ),
    "checkpoint without data": Row(
        "evaluate checkpoint=bad.ckpt",
        "bad.ckpt | data",
        {"bad.ckpt": altered(lambda c: c["vgglab"]["config"].pop("data") and None)},
    ),
    "NaN weights to test": Row(
        "evaluate checkpoint=bad.ckpt",
        "finite",
        {"bad.ckpt": filled("features.0.weight", value=float("nan"))},
    ),
    "NaN weights in features": Row(
        "extract_features checkpoint=bad.ckpt images=photos output=a.npz",
        "finite",
        {"bad.ckpt": filled("features.0.weight", value=float("nan")), **PHOTO},
    ),
    "fused with another": Row(
        "evaluate checkpoint=[good.ckpt,bad.ckpt]",
        "bad.ckpt | 'a' | 'class 0'",
        {"bad.ckpt": card(classes=list("abcd"))},
    ),
    "torn checkpoint in a table": Row(
        "paper_tables table=3 checkpoints=[bad.ckpt]", "bad.ckpt", {"bad.ckpt": cut(0.5)}
    ),
    "torn checkpoint to export": Row(
        "export_weights checkpoint=bad.ckpt output=a.pth", "bad.ckpt", {"bad.ckpt": cut(0.5)}
    ),
    "checkpoint of a long name": Row(f"predict checkpoint={LONG} images=good.png", "aaa"),
    "bomb to restyle": Row(
        "restyle checkpoint=good.ckpt content=bad.png style=good.png output=a.png",
        "bad.png",
        {"bad.png": png_header(100_000, 100_000)},
    ),
    "endless style": Row(
        "restyle checkpoint=good.ckpt content=good.png style=/dev/zero output=a.png", "/dev/zero"
    ),
    "photos that are none": Row(
        "predict checkpoint=good.ckpt images=photos on_error=skip",
        "images=photos | none can be read | photos/b.jpg",
        {"photos/b.jpg": b"hello"},
    ),
    "text among photos": Row(
        "predict checkpoint=good.ckpt images=photos",
        "photos/b.jpg",
        {**PHOTO, "photos/b.jpg": b"hello"},
    ),
    "line feed in a name": Row(
        "predict checkpoint=good.ckpt images=photos",
        "photos/a b.png",
        {"photos/a\nb.png": b"hello"},
    ),
    "escape in a name": Row(
        "predict checkpoint=good.ckpt images=photos",
        "photos/a\\x1b[31mb.png",
        {"photos/a\x1b[31mb.png": b"hello"},
    ),
    "name that is no text": Row(
        "predict checkpoint=good.ckpt images=photos",
        "photos/a\\udcffb.png",
        {"photos/a\udcffb.png": b"hello"},
    ),
    "no Imagenette": Row(
        "train data=imagenette data.root=photos", "photos | ten", {"photos": tree(**classes(5, 5))}
    ),
    "no ImageNet": Row(
        "train data=imagenet data.root=photos",
        "photos | 1000",
        {"photos": tree(**classes(5, 5), **classes(1, 1, split="val"))},
    ),
    "two sizes in memory": Row(
        "train data=image_folder data.root=photos data.in_memory=true",
        "photos/train/a/bad.png | 16x16 | 40x40",
        {"photos": tree(**classes(5, 5, bad_png=image("PNG")), **classes(1, 1, split="test"))},
    ),
    "memory limit": Row(
        "train data=image_folder data.root=photos data.in_memory=true data.memory_limit_gib=1e-9",
        "data.memory_limit_gib=1e-09",
        {"photos": tree(**classes(5, 5), **classes(1, 1, split="test"))},
    ),
    "torn test image": Row(f"{TESTED} data.num_workers=0", "photos/test/a/bad.jpg", TORN_TEST),
    "torn test image for a worker": Row(
        f"{TESTED} data.num_workers=1", "photos/test/a/bad.jpg", TORN_TEST
    ),
    "images beside classes": Row(
        f"{EXTRACT} output=a.npz", "photos | beside", {**PHOTO, "photos/cat/a.jpg": image()}
    ),
    "pipe beside images": Row(
        f"{EXTRACT} output=a.npz", "photos/b.jpg", {**PHOTO, "photos/b.jpg": pipe}
    ),
    "torn image for features": Row(f"{EXTRACT} output=a.npz", "photos/b.jpg", TORN_PHOTO),
    "torn image for a worker": Row(
        f"{EXTRACT} output=a.npz num_workers=1", "photos/b.jpg", TORN_PHOTO
    ),
    "colours of a torn image": Row(
        "colour_axes data=image_folder data.root=photos output=axes.json",
        "photos/train/a/bad.png",
        {
            "photos": tree(
                **classes(15, 15, bad_png=image("PNG", cut=0.6)), **classes(1, 1, split="test")
            )
        },
    ),
    "torn image for a shard": Row(
        "shard_dataset data=image_folder data.root=photos output=a/b data.num_workers=0",
        "photos/train/a/bad.png | data.on_error=skip",
        {"photos": tree(**classes(2, 2, bad_png=image("PNG", cut=0.6)))},
    ),
    "torn axes": Row(SHIFTED, "data.colour_axes=axes.json", {"axes.json": '{"eigenvalues": [1'}),
    "axes of NaN": Row(SHIFTED, "data.colour_axes=axes.json", {"axes.json": AXES}),
    "axes are a pipe": Row(SHIFTED, "data.colour_axes=axes.json", {"axes.json": pipe}),
    "kept axes of another kind": Row(
        "colour_axes data=synthetic output=axes.json", "output=axes.json", {"axes.json": "[]"}
    ),
    "damaged CIFAR archive": Row(
        f"{CIFAR} data.mirrors=[]",
        "cifar-10-binary.tar.gz",
        {"data/cifar-10-binary.tar.gz": b"hello"},
    ),
    "no CIFAR archive": Row(f"{CIFAR} data.mirrors=[]", "cifar-10-binary.tar.gz | mirrors"),
    "mirror that is no address": Row(
        f"{CIFAR} data.mirrors=[file:///etc/passwd]", "file:///etc/passwd"
    ),
    "features of other images": Row(
        "linear_probe features=[a.npz,b.npz] train_per_class=2",
        "a.npz | b.npz",
        {"a.npz": features(12), "b.npz": features(14)},
    ),
    "features torn": Row(
        "linear_probe features=bad.safetensors",
        "bad.safetensors",
        {"bad.safetensors": safetensors(length=10**9)},
    ),
    "features of weights": Row(
        "linear_probe features=bad.safetensors",
        "bad.safetensors",
        {"bad.safetensors": safetensors(data=bytes(16), a=(4, 0, 16))},
    ),
    "run without a checkpoint": Row(
        "replay run=mine", "mine", {"mine/.hydra/config.yaml": "seed: 1\n"}
    ),
    "broken run": Row(
        "replay run=mine", "mine/.hydra/config.yaml", {"mine/.hydra/config.yaml": "seed: [1\n"}
    ),
    "run with code": Row(
        "replay run=mine", "mine", {"mine/.hydra/config.yaml": "optimizer: {_target_: os.system}\n"}
    ),
    "nothing but a broken run": Row(
        "compare .", "mine/.hydra/config.yaml", {"mine/.hydra/config.yaml": "seed: [1\n"}
    ),
    "batch with code": Row("replay batch=bad.pt", "bad.pt", {"bad.pt": pickled(RunsCode())}),
    "batch of another kind": Row("replay batch=good.ckpt", "good.ckpt"),
    # Outputs
    "output is a folder": Row(
        f"{STYLED} output=out.png", "output=out.png | folder", {"out.png": folder}
    ),
    "output in no folder": Row(f"{STYLED} output=out/a.png", "output=out/a.png | folder"),
    "output of a long name": Row(f"{STYLED} output={LONG}.png", "aaa"),
    "features into a folder": Row(
        f"{EXTRACT} output=out.npz", "output=out.npz | folder", {"out.npz": folder, **PHOTO}
    ),
    "features into no folder": Row(
        f"{EXTRACT} output=out/a.npz", "output=out/a.npz | folder", PHOTO
    ),
    "features into /proc": Row(f"{EXTRACT} output=/proc/a.npz", "output=/proc/a.npz", PHOTO),
    "weights into a folder": Row(
        "export_weights checkpoint=good.ckpt output=out.pth", "output=out.pth", {"out.pth": folder}
    ),
    "axes into a folder": Row(
        "colour_axes data=synthetic output=out", "output=out", {"out": folder}
    ),
    "shards into a file": Row("shard_dataset data=synthetic output=good.png", "output=good.png"),
    "shards into photos": Row(
        "shard_dataset data=synthetic output=photos",
        "photos/train | no folder of shards",
        {"photos": tree(**classes(2, 2))},
    ),
    "shards into /proc": Row("shard_dataset data=synthetic output=/proc/a", "output=/proc/a"),
    "sheet in no folder": Row(
        "predict checkpoint=good.ckpt images=good.png sheet=out/a.png", "sheet=out/a.png | folder"
    ),
    "sheet in /proc": Row(
        "predict checkpoint=good.ckpt images=good.png sheet=/proc/a.png", "sheet=/proc/a.png"
    ),
    "run below a file": Row(f"{TRAIN} hydra.run.dir=good.png/run", "good.png/run"),
    "run in /proc": Row(f"{TRAIN} hydra.run.dir=/proc/run", "/proc/run"),
    "run of a long name": Row(f"{TRAIN} hydra.run.dir={LONG}", "aaa"),
    "logs is a file": Row(TRAIN, "logs", {"logs": "hello"}),
    "tables below a file": Row("paper_tables table=1 hydra.run.dir=good.png/run", "good.png/run"),
    "cache is a file": Row(
        "paper_tables table=3 checkpoints=[good.ckpt] cache=good.png", "cache=good.png"
    ),
    "ImageNet into a file": Row(
        "prepare_imagenet archives=archives root=good.png",
        "good.png",
        {
            f"archives/{ARCHIVES[2]}": gzip.compress(devkit()),
            **{f"archives/{n}": b"" for n in ARCHIVES[:2]},
        },
        SMALL,
    ),
    "archives is a file": Row("prepare_imagenet archives=good.png root=out", "archives=good.png"),
}


def rows() -> dict[str, Row]:
    """All of the tables above, by names of one line each."""
    theirs = "# @package _global_\n"
    found = {command: Row(command, says) for command, says in SETTINGS.items()}
    for name, (says, content) in EXPERIMENTS.items():
        text = theirs + content if isinstance(content, str) and "@" not in content else content
        files = {"theirs/experiment/mine.yaml": text}
        found[f"experiment: {name}"] = Row("train --config-dir=theirs experiment=mine", says, files)
    for name, (suffix, content) in IMAGES.items():
        file = f"bad.{suffix}"
        found[f"image: {name}"] = Row(f"predict {CHECKED} images={file}", file, {file: content})
    for kind, command, file, table in (
        ("checkpoint", "predict checkpoint=bad.ckpt images=good.png", "bad.ckpt", CHECKPOINTS),
        ("weights", f"{SUMMARIZE} +model.weights=bad.safetensors", "bad.safetensors", SAFETENSORS),
        ("resume", f"{TRAIN} resume=bad.ckpt", "bad.ckpt", RESUMED),
        ("folder", FOLDER, "photos", TREES),
        ("features", "linear_probe features=bad.npz train_per_class=2", "bad.npz", FEATURES),
    ):
        for name, (says, content) in table.items():
            found[f"{kind}: {name}"] = Row(command, says, {file: content})
    for name, (says, *contents) in ARCHIVED.items():
        kit, val, train = contents
        default = gzip.compress(devkit())
        given = (train or tar(), val or tar(), default if kit is None else kit)
        files = {f"archives/{file}": c for file, c in zip(ARCHIVES, given, strict=True)}
        before = "" if "official" in name else SMALL
        found[f"archives: {name}"] = Row(
            "prepare_imagenet archives=archives root=out", says, files, before
        )
    return found | OTHERS


CHECKED = "checkpoint=good.ckpt"
SUMMARIZE = "summarize model=vgg11 model.head=compact model.width=0.0625"
FOLDER = "train data=image_folder data.root=photos data.num_workers=0 data.batch_size=2"
ROWS = rows()

# What other parts of the project have still to learn.
# In a process of their own too, to see that a fork does as a process does.
SAMPLE = (
    "train model=vgg61",
    "train optimizer.lr=abc",
    "train optimizer._target_=os.system",
    "experiment: tab",
    "checkpoint: code",
    "image: bomb in a PNG",
    "archives: no official devkit",
    "run below a file",
)


@pytest.fixture(scope="module")
def checkpoint(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("trained")
    arguments = [*TINY, "trainer.max_epochs=1", "test=false", "hydra.run.dir=run"]
    done = forks.run("train", arguments, folder, seconds=240)
    assert done.returncode == 0, done.stderr
    return (folder / "run/checkpoints/last.ckpt").read_bytes()


@pytest.fixture
def place(checkpoint: bytes, tmp_path: Path) -> Path:
    """A working folder with the two good files."""
    put(tmp_path, {GOOD: checkpoint, "good.png": image("PNG")})
    return tmp_path


def put(folder: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def snapshot(folder: Path) -> dict[str, tuple[str, str]]:
    """Kind and content of everything below a folder."""
    found = {}
    for path in folder.rglob("*"):
        mode, content = path.lstat().st_mode, ""
        if stat.S_ISLNK(mode):
            content = os.readlink(path)
        elif stat.S_ISREG(mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (stat.filemode(mode), content)
    return found


def check(done: Finished, row: Row) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    for part in row.says.split(" | "):
        assert part in line
    # A sweep says which job it begins.
    assert done.stdout == "" or "--multirun" in row.command


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_input_costs_one_line_and_no_more(row: Row, forks: Forks, place: Path) -> None:
    put(place, row.files)
    before = snapshot(place)
    script, *arguments = shlex.split(row.command)
    done = forks.run(script, arguments, place, seconds=SECONDS, before=row.before)
    check(done, row)
    assert snapshot(place) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_fork_does_as_a_process(name: str, forks: Forks, place: Path, process: Script) -> None:
    row = ROWS[name]
    put(place, row.files)
    before = snapshot(place)
    command, *arguments = shlex.split(row.command)
    done = process(command, *arguments)
    check(done, row)
    assert snapshot(place) == before
    assert forks.run(command, arguments, place, seconds=SECONDS) == done


@pytest.mark.parametrize(
    ("largest_file", "callbacks", "name"),
    [
        pytest.param(300, "essential", "logs/train", id="configuration"),
        pytest.param(5_000, "default", "tensorboard/events", id="tensorboard"),
        pytest.param(100_000, "essential", "checkpoints/", id="checkpoint"),
    ],
)
def test_a_disk_that_fills_up_costs_one_line(
    largest_file: int, callbacks: str, name: str, forks: Forks, tmp_path: Path
) -> None:
    job = (*TINY, f"callbacks={callbacks}")
    done = forks.run("train", job, tmp_path, seconds=SECONDS, largest_file=largest_file)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert name in line
    assert os.strerror(errno.EFBIG) in line


def test_a_disk_that_is_full_for_shards_costs_one_line_too(forks: Forks, tmp_path: Path) -> None:
    job = ("data=synthetic", "output=out/shards", "data.num_workers=0")
    done = forks.run("shard_dataset", job, tmp_path, seconds=SECONDS, largest_file=1000)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "out/shards" in line
    assert os.strerror(errno.EFBIG) in line
    assert not list(tmp_path.iterdir())
