"""Layers, heads and the distance network: shapes, gradients, and what they learn."""

from __future__ import annotations

import pytest
import torch

import dtkernels as dtk
from dtkernels.losses import SDFProductLoss, SignedDistanceRegressionLoss
from dtkernels.nn import DistanceHead, LRNet, ReconstructionBranch, SmoothHeaviside, pretrain


def blocks(dims: int, seed: int = 0, batch: int = 4) -> torch.Tensor:
    """Masks (B, 1, *spatial) with a box of random size each."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(batch, 1, *(20, 18, 16)[:dims])
    for mask in masks:
        size = torch.randint(4, 11, (dims,), generator=generator).tolist()
        at = torch.randint(1, 5, (dims,), generator=generator).tolist()
        mask[(0, *(slice(a, a + n) for a, n in zip(at, size, strict=True)))] = 1
    return masks


def test_heaviside() -> None:
    """0.5 on the boundary; 1 inside, where maps are negative."""
    z = dtk.distance_map(blocks(2), "xue_sdm", spatial_dims=2)
    p = SmoothHeaviside()(z)
    assert torch.equal(p >= 0.5, blocks(2) > 0)
    assert p[z == 0].eq(0.5).all()
    assert (z == 0).any()
    x = torch.tensor([-0.3, 0.0, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SmoothHeaviside(5.0), (x,))
    assert "k=5" in repr(SmoothHeaviside(5.0))


@pytest.mark.parametrize("dims", [2, 3])
def test_two_heads_on_the_same_features(dims: int) -> None:
    features = torch.randn(2, 6, *(8, 7, 6)[:dims], requires_grad=True)
    labels = torch.randint(0, 3, (2, 1, *features.shape[2:]))
    head = DistanceHead(6, 3, dims)
    logits, maps = head(features)
    assert logits.shape == maps.shape == (2, 3, *features.shape[2:])
    assert maps.abs().max() <= 1
    SDFProductLoss(to_onehot_y=True)(maps, labels).backward()
    assert head.distance.weight.grad is not None
    assert head.segmentation.weight.grad is None
    assert features.grad is not None
    assert features.grad.ne(0).any()
    raw = DistanceHead(6, 3, dims, activation=None)
    assert raw(100 * features)[1].abs().max() > 1


@pytest.mark.parametrize("dims", [2, 3])
def test_reconstruction_branch(dims: int) -> None:
    """Odd sizes fit, and every level has a part in it."""
    sizes = ((3, 3, 2), (5, 6, 4), (9, 11, 7))
    features = [torch.randn(1, c, *s[:dims], requires_grad=True) for c, s in zip((8, 6, 4), sizes, strict=True)]
    maps = ReconstructionBranch([8, 6, 4], 2, dims)(features)
    assert maps.shape == (1, 2, *sizes[-1][:dims])
    SignedDistanceRegressionLoss()(maps, (torch.randn_like(maps) > 0).float()).backward()
    assert all(f.grad is not None and f.grad.ne(0).any() for f in features)


@pytest.mark.parametrize("dims", [2, 3])
def test_distance_network_learns_distances_and_is_frozen(dims: int) -> None:
    torch.manual_seed(0)
    net = LRNet(dims)
    masks = blocks(dims)
    losses = pretrain(net, [masks] * 150, "ma_dtm01")
    assert torch.stack(losses[-5:]).mean() < 0.25 * torch.stack(losses[:5]).mean()
    target = dtk.distance_map(masks, "ma_dtm01", spatial_dims=dims)
    assert torch.nn.functional.mse_loss(net(masks), target) < 0.5 * target.var()
    before = [p.clone() for p in net.parameters()]
    p = masks.clone().requires_grad_()
    torch.nn.functional.mse_loss(net(p), target).backward()
    assert p.grad is not None
    assert p.grad.ne(0).any()  # through the network
    assert all(q.grad is None for q in net.parameters()) or all(not q.requires_grad for q in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not net.training


def test_distance_network_has_the_papers_size_and_any_number_of_classes() -> None:
    net = LRNet(2).eval()
    widths = [block[0].out_channels for block in net.down]
    assert widths == [2, 4, 8]
    x = torch.rand(2, 3, 9, 7)
    y = net(x)
    assert y.shape == x.shape
    assert y.min() >= 0
    torch.testing.assert_close(y[:, 1:2], net(x[:, 1:2]))


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="spatial_dims: expected 2 or 3, got 4"):
        DistanceHead(4, 2, spatial_dims=4)
