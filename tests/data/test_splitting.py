import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vgglab.data.splitting import stratified_split
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
