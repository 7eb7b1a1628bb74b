"""What a fine-tuning does beside the segmentation loss: composed views, hard voxels, a finished teacher, class means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medcl.config.encoder import ResidualEncoderConfig
from medcl.config.finetune import CoreTuningConfig, DistilConfig
from medcl.config.unlabelled import MeanTeacherConfig, PseudoContrastConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.objectives.segmentation import segmentation_loss
from medcl.tasks.copy_paste import paste
from medcl.tasks.core_tuning import CoreTuning, chosen_voxels
from medcl.tasks.distillation import Distillation
from medcl.tasks.pool import build_learner
from medcl.views.view import View
from medcl.workflow.pseudo_labels import largest_components

SHAPE = (16, 16, 16)


def segmenter(seed: int = 0, classes: int = 3) -> Segmenter:
    torch.manual_seed(seed)
    return Segmenter(build_encoder(ResidualEncoderConfig(), 1, SHAPE), classes)


def batch(count: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    label = torch.zeros(count, *SHAPE, dtype=torch.long)
    for number in range(count):
        label[number, 2 + number : 8 + number, 3:9, 3:12] = 1
        label[number, 9:13, 10:15, 4:9] = 2
    return label[:, None] + 0.2 * torch.randn(count, 1, *SHAPE, generator=draw), label


def view(data: torch.Tensor, label: torch.Tensor | None) -> View:
    count = len(data)
    zeros = torch.zeros(count, dtype=torch.long)
    return View(
        data, torch.eye(4).repeat(count, 1, 1), torch.zeros(count, 2, 3), zeros, 0, label, zeros, torch.zeros(count, 3)
    )


def test_pasting_changes_image_and_label_in_the_same_voxels() -> None:
    data, label = batch()
    same = paste(data, label, 0.0, np.random.default_rng(0))
    assert torch.equal(same[0], data)
    assert torch.equal(same[1], label)
    image, mask = paste(data, label, 1.0, np.random.default_rng(0))
    for number in range(3):
        donors = [
            other
            for other in range(3)
            if other != number and (mask[number][label[other] > 0] == label[other][label[other] > 0]).all()
        ]
        assert donors  # the whole foreground of one other view is there
        over = label[donors[0]] > 0
        assert torch.equal(image[number, 0][over], data[donors[0], 0][over])
        assert torch.equal(image[number, 0][~over], data[number, 0][~over])
        assert torch.equal(mask[number][~over], label[number][~over])


def test_a_single_view_has_no_donor() -> None:
    data, label = batch(1)
    image, mask = paste(data, label, 1.0, np.random.default_rng(0))
    assert torch.equal(image, data)
    assert torch.equal(mask, label)


def test_half_of_the_chosen_voxels_are_the_least_certain_of_their_class() -> None:
    torch.manual_seed(0)
    _, label = batch(2)
    scores = 3 * torch.randn(2, 3, *SHAPE)
    index = chosen_voxels(scores, label, 8)
    flat = label.flatten()
    assert len(index) == len(set(index.tolist())) == 2 * 3 * 8
    entropy = torch.special.entr(scores.softmax(1)).sum(1).flatten()
    for value in range(3):
        mine = [i for i in index.tolist() if flat[i] == value and i < 16**3]
        assert len(mine) == 8
        every = torch.nonzero(flat[: 16**3] == value)[:, 0]
        least_certain = every[entropy[every].topk(4).indices].tolist()
        assert set(least_certain) <= set(mine)


def test_a_class_with_few_voxels_gives_what_it_has() -> None:
    label = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    label[0, 0, 0, :3] = 1
    index = chosen_voxels(torch.randn(1, 3, 4, 4, 4), label, 32)
    assert int((label.flatten()[index] == 1).sum()) == 3
    assert int((label.flatten()[index] == 2).sum()) == 0


def test_core_tuning_reaches_the_network_and_its_own_head() -> None:
    network, (data, label) = segmenter(), batch()
    extra = CoreTuning(CoreTuningConfig(voxels=8, out=16), network.head.in_channels)
    features = network.features(data)
    loss, figures = extra(features, network.head(features), label, network.head)
    loss.backward()
    assert torch.isfinite(loss)
    assert set(figures) == {"mixed_cross_entropy", "contrast"}
    for module in (network.encoder.encoder, network.head, extra.head):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    silent = CoreTuning(CoreTuningConfig(voxels=8, weight=0.0, mixed=0.0), network.head.in_channels)
    assert float(silent(features, network.head(features), label, network.head)[0].detach()) == 0


def test_distillation_begins_as_large_as_the_segmentation_loss_and_is_zero_for_a_twin() -> None:
    student, (data, label) = segmenter(1), batch()
    extra = Distillation(DistilConfig(teacher="runs/base"), segmenter(2))
    scores = student(data)
    loss = segmentation_loss(scores, label).loss
    first, _ = extra(data, scores, label, loss)
    assert float(first.detach()) == pytest.approx(2 * float(loss.detach()), rel=1e-4)
    kept = extra.weights.clone()
    extra(data, 2 * scores, label, 5 * loss)
    assert torch.equal(extra.weights, kept)
    assert list(extra.state_dict()) == ["weights"]  # no teacher in a checkpoint
    assert not any(p.requires_grad for p in extra.parameters())
    twin = Distillation(DistilConfig(teacher="runs/base", edge=50, body=20), student)
    assert float(twin(data, scores, label, loss)[0]) == pytest.approx(0, abs=1e-5)


def test_pseudo_contrast_pulls_voxels_to_the_means_of_their_class() -> None:
    network, (data, label) = segmenter(), batch(2)
    learner = build_learner(PseudoContrastConfig(voxels=16), segmentation_loss, network, None)
    views = (view(data, label),)
    optimiser = torch.optim.Adam([*network.parameters(), *learner.parameters()], 3e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)
        loss = learner.loss(network, views, views)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_a_mean_teacher_is_kept_learns_nothing_by_gradient_and_sees_a_clean_view() -> None:
    config = MeanTeacherConfig()
    assert config.views.clean_first
    network, (data, _) = segmenter(), batch(2)
    learner = build_learner(config, segmentation_loss, network, None)
    assert learner.kept(network) is not network
    loss = learner.loss(network, (view(data, None), view(data + 0.1, None)), ())
    loss.backward()
    assert all(p.grad is None for p in learner.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in learner.parameters()]
    learner.after_step(network, 10_000)
    moved = [float((new - old).abs().max()) for new, old in zip(learner.parameters(), before, strict=True)]
    assert all(move == pytest.approx(0.01, rel=1e-3) for move in moved)


def test_an_unsure_teacher_teaches_nothing() -> None:
    network, (data, _) = segmenter(), batch(2)
    nn.init.zeros_(network.head.weight)
    learner = build_learner(MeanTeacherConfig(), segmentation_loss, network, None)
    assert float(learner.loss(network, (view(data, None), view(data, None)), ())) == 0


def test_only_the_largest_part_of_a_class_is_kept() -> None:
    label = np.zeros((8, 8, 8), np.int16)
    label[0:4, 0:4, 0:4], label[6, 6, 6] = 1, 1
    label[5:8, 0:2, 0:2], label[0, 7, 7] = 2, 2
    kept = largest_components(label)
    assert [int((kept == value).sum()) for value in (1, 2)] == [64, 12]
    assert not largest_components(np.zeros_like(label)).any()
