"""Which images a rank sees, in which order: every one once in evaluation, equally many in training."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.loading.samplers import EpochSampler, EvalSampler, StreamEvalSampler, StreamSampler


@pytest.mark.parametrize(("num_images", "world_size"), [(10, 1), (10, 2), (11, 2), (13, 4), (3, 4), (0, 2)])
@pytest.mark.parametrize("kind", [EvalSampler, lambda size: StreamEvalSampler(size, 8)])
def test_eval_ranks_cover_every_image_exactly_once(kind: type[EvalSampler], num_images: int, world_size: int) -> None:
    sampler = kind(num_images)
    parts = [list(sampler.items(rank, world_size)) for rank in range(world_size)]
    assert sorted(index for part in parts for index in part) == list(range(num_images)) == sorted(sampler)
    assert [sampler.count(rank, world_size) for rank in range(world_size)] == list(map(len, parts))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 and len(sampler) == num_images


def test_train_ranks_are_disjoint_and_equally_long() -> None:
    sampler = EpochSampler(11, seed=0)
    shares = [[index for index, _ in sampler.items(rank, 2)] for rank in range(2)]
    assert [len(share) for share in shares] == [5, 5] == [sampler.count(rank, 2) for rank in range(2)]
    assert len({*shares[0], *shares[1]}) == 10 and len(sampler) == 11


def test_a_division_is_for_one_iteration() -> None:
    sampler = EpochSampler(11, seed=0)
    whole = list(sampler)
    sampler.divide(1, 2, start=2)
    assert list(sampler) == whole[1:10:2][2:]
    assert list(sampler) == whole and len(sampler) == 11


def test_order_and_seeds_depend_on_seed_and_epoch() -> None:
    sampler = EpochSampler(50, seed=1)
    first = list(sampler)
    assert list(sampler) == first and sorted(index for index, _ in first) == list(range(50))
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first and list(EpochSampler(50, seed=2)) != first
    assert dict(first).keys() == dict(second).keys() and not set(dict(first).values()) & set(dict(second).values())


def test_item_seeds_do_not_depend_on_the_number_of_ranks() -> None:
    sampler = EpochSampler(12, seed=3)
    assert {index: seed for rank in range(3) for index, seed in sampler.items(rank, 3)} == dict(sampler)


def test_one_group_is_dealt_out_anew_each_epoch() -> None:
    sampler = StreamSampler(np.zeros(203, dtype=np.int64), 2, 8, seed=0)
    seen = []
    for epoch in range(12):
        sampler.set_epoch(epoch)
        seen.append({index for index, _ in sampler.items(1, 2)})
    assert len(set().union(*seen)) == 203 and seen[0] != seen[5]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_streaming_rank_has_equally_many_batches_and_no_image_twice(world_size: int) -> None:
    sampler = StreamSampler(np.repeat(np.arange(50), 21), 3, 8, seed=3)
    orders = [[index for index, _ in sampler.items(rank, world_size)] for rank in range(world_size)]
    assert {len(order) for order in orders} == {1050 // world_size, sampler.count(0, world_size)}
    assert len({index for order in orders for index in order}) == sum(map(len, orders))


def test_a_batch_of_sorted_data_mixes_row_groups() -> None:
    groups = np.repeat(np.arange(400), 100)  # each group another class, as Food-101 comes
    order = [index for index, _ in StreamSampler(groups, 25, 64, seed=0)]
    mixed = [len(set(groups[order[start : start + 64]])) for start in range(0, len(order) - 64, 64)]
    assert min(mixed) >= 5 and np.mean(mixed) > 15
