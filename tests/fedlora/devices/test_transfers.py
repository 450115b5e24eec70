"""One copy for many tensors: the same bits, whatever their shapes and dtypes."""

from __future__ import annotations

import pytest
import torch

from fedlora.devices.transfers import ALIGNED, carried, fetched, in_one, packed, read_together

BATCH = {
    "input_ids": torch.arange(15).view(3, 5),
    "attention_mask": torch.tensor([[True, False, True]]),
    "pixel_values": torch.linspace(-1, 1, 7),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "labels": torch.tensor(4),
    "none": torch.empty(0, 2),
}


def test_a_packed_batch_is_the_same_batch_in_one_piece_of_memory():
    whole = packed(BATCH)
    views = whole.to(torch.device("cpu")).views()
    assert views.keys() == BATCH.keys()
    for name, view in views.items():
        assert view.dtype == BATCH[name].dtype
        assert torch.equal(view, BATCH[name])
    assert len({view.untyped_storage().data_ptr() for view in views.values()}) == 1
    assert all(offset % ALIGNED == 0 for offset, _, _ in whole.places.values())


def test_a_transposed_tensor_is_packed_by_its_values():
    turned = torch.arange(6.0).view(2, 3).mT
    assert torch.equal(packed({"x": turned}).views()["x"], turned)


def test_on_a_cpu_nothing_is_packed():
    assert all(found is BATCH[name] for name, found in carried(BATCH, "cpu").items())


def test_what_is_fetched_is_a_copy_in_float32():
    double, single = torch.ones(2, dtype=torch.float64), torch.ones(3)
    found = fetched([double, single])
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.float32]
    single += 1
    assert found[1].tolist() == [1, 1, 1]


def test_tensors_that_came_as_one_have_their_own_memory():
    found = in_one([torch.arange(4.0).view(2, 2), torch.tensor(5.0), torch.empty(0)])
    assert [tensor.tolist() for tensor in found] == [[[0, 1], [2, 3]], 5, []]
    assert len({tensor.untyped_storage().data_ptr() for tensor in found[:2]}) == 2


def test_numbers_that_are_read_together_are_those_that_are_read_one_by_one():
    values = [torch.tensor(1 / 3), torch.tensor(7), torch.tensor(float("inf"))]
    assert read_together(*values) == [float(value) for value in values]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_there_and_back_again():
    there = carried(BATCH, "cuda")
    assert all(tensor.is_cuda for tensor in there.values())
    assert all(torch.equal(tensor.cpu(), BATCH[name]) for name, tensor in there.items())
    back = fetched([there["pixel_values"], there["half"]])
    assert torch.equal(back[0], BATCH["pixel_values"])
    assert torch.equal(back[1], BATCH["half"].float())
