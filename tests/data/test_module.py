import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vgglab.data import Synthetic
from vgglab.data.batches import Batch
from vgglab.data.module import stratified_split
from vgglab.errors import InputError


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(10, 60), min_size=2, max_size=6),
    fraction=st.floats(0.1, 0.5),
    seed=st.integers(0, 2**62),
)
def test_a_split_is_disjoint_complete_and_in_proportion(counts, fraction, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    first, second = stratified_split(labels, fraction, seed)
    assert sorted(torch.cat([first, second]).tolist()) == list(range(len(labels)))
    assert abs(len(second) - fraction * len(labels)) <= 1
    for label, count in enumerate(counts):
        held_out = int((labels[second] == label).sum())
        assert abs(held_out - fraction * count) <= 1.5
    again, _ = stratified_split(labels, fraction, seed)
    assert torch.equal(first, again)


def test_another_seed_gives_another_split():
    labels = torch.arange(200) % 4
    assert len({tuple(stratified_split(labels, 0.2, seed)[1].tolist()) for seed in range(4)}) == 4


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(InputError, match=r"cannot hold out 0\.5"):
        stratified_split(torch.tensor([0, 0, 0, 1]), 0.5, 0)


class OnRank:
    """What the data module asks its trainer."""

    training = True

    def __init__(self, rank, world_size):
        self.global_rank, self.world_size = rank, world_size
        self.strategy = type("Strategy", (), {"root_device": torch.device("cpu")})


def on_rank(rank, world_size, **settings):
    data = Synthetic(height=8, width=8, train_size=64, val_size=21, batch_size=16, **settings)
    data.trainer = OnRank(rank, world_size)
    data.setup("fit")
    return data


def test_two_ranks_see_together_what_one_process_sees():
    whole = next(iter(on_rank(0, 1, pad=2, flip=True).train_dataloader()))
    shards = [next(iter(on_rank(rank, 2, pad=2, flip=True).train_dataloader())) for rank in (0, 1)]
    assert len(shards[0].images) == len(shards[1].images) == 8
    data = on_rank(0, 1, pad=2, flip=True)
    expected, _ = data.on_after_batch_transfer(whole, 0)
    for rank, shard in enumerate(shards):
        got, labels = data.on_after_batch_transfer(shard, 0)
        assert torch.equal(got, expected[rank::2])
        assert torch.equal(labels, whole.labels[rank::2])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_sees_every_image_once(world_size):
    seen = []
    for rank in range(world_size):
        for batch in on_rank(rank, world_size).val_dataloader():
            seen += batch.indices.tolist()
    assert sorted(seen) == list(range(21))


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(InputError, match=r"batch_size=16.*3 processes; use 15 or 18"):
        on_rank(0, 3).train_dataloader()


def test_a_batch_larger_than_the_training_set_is_refused():
    data = Synthetic(train_size=8, batch_size=16)
    data.setup("fit")
    with pytest.raises(InputError, match=r"batch_size=16 is larger than the training set \(8"):
        data.train_dataloader()


def test_only_training_batches_are_augmented():
    data = on_rank(0, 1, pad=3, flip=True)
    batch = next(iter(data.train_dataloader()))
    plain = data.preprocessing.normalize(batch.images)
    assert not torch.equal(data.on_after_batch_transfer(batch, 0)[0], plain)
    data.trainer.training = False
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], plain)
    data.trainer.training = True
    data.augment = False
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], plain)


def test_mixing_gives_label_weights():
    data = on_rank(0, 1, mixup_alpha=0.2, cutmix_alpha=1.0)
    batch = next(iter(data.train_dataloader()))
    _, labels = data.on_after_batch_transfer(batch, 0)
    assert labels.shape == (16, 10)


def test_other_batches_pass_through():
    data = on_rank(0, 1)
    other = (torch.zeros(1), torch.zeros(1))
    assert data.on_after_batch_transfer(other, 0) is other


def test_shuffle_can_be_switched_off():
    batch: Batch = next(iter(on_rank(0, 1, shuffle=False).train_dataloader()))
    assert batch.indices.tolist() == list(range(16))


def prepared(**settings):
    data = Synthetic(train_size=20, batch_size=10, **settings)
    data.setup("fit")
    return data


def test_evaluation_resizes_to_the_centre_of_the_training_scale():
    data = prepared(train_scale=[32, 48])
    assert data.preprocessing.resize == 40
    assert data.preprocessing.train_scale == (32, 48)
    batch = next(iter(data.val_dataloader()))
    images, _ = data.network_input(batch, augment=False)
    expected = torch.stack([data.preprocessing.fit(image) for image in batch.images])
    assert torch.equal(images, data.preprocessing.normalize(expected))


def test_training_images_are_rescaled_and_their_colours_shifted():
    batch = next(iter(prepared().train_dataloader()))
    plain, _ = prepared().network_input(batch, augment=True)
    for changed in ({"train_scale": 40}, {"colour_deviation": 0.1}):
        images, _ = prepared(**changed).network_input(batch, augment=True)
        assert images.shape == plain.shape
        assert not torch.equal(images, plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_scale": 30}, "below the network's input of 32"),
        ({"train_scale": [48, 32]}, "smallest comes first"),
        ({"train_scale": 40, "pad": 4}, "one of them"),
        ({"colour_deviation": 0.1, "channels": 1}, "RGB"),
        ({"colour_deviation": 0.1, "colour_axes": "nowhere.json"}, "no such file"),
    ],
)
def test_scales_and_colours_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        prepared(**settings)
