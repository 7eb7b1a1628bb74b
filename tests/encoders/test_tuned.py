"""Prompts and adapters of a frozen alignment: where they begin, what they leave alone, what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from medcl.config.align import LinearHeadConfig, MapHeadConfig
from medcl.config.modalities import EcgViTConfig, ResNetConfig, ViTConfig
from medcl.config.prompt_tuning import ClassAwareTuning, GoproTuning, LoraTuning, MapleTuning, MsgcoopTuning, Tuning
from medcl.config.text import BertConfig
from medcl.encoders.build_text import build_text_encoder
from medcl.encoders.ecg import build_ecg_encoder
from medcl.encoders.image import build_image_encoder
from medcl.encoders.joint import JointEncoders
from medcl.encoders.prompts import merge_lora
from medcl.encoders.text import TextEncoder, Tokenizer, TokenTable, learn_vocabulary
from medcl.encoders.tuned import Tuned, build_tuned
from medcl.errors import ConfigError

WORDS = ["a radiograph of a large heart", "a radiograph of fluid", "nothing else"]
TEXTS = ["a radiograph of fluid", "a radiograph of a large heart", "a radiograph of nothing"]
LEADS = ["a radiograph of"]
INPUTS = {"radiograph": torch.Size([2, 1, 32, 32]), "ecg": torch.Size([2, 12, 100])}


def alignment(image: str = "vit", text: TextEncoder | None = None) -> JointEncoders:
    """Tiny and random; every output large enough to differ."""
    torch.manual_seed(0)
    text = text or build_text_encoder(
        BertConfig(layers=2, width=16, heads=2, max_length=24), learn_vocabulary(WORDS, 80, 24)
    )
    if image == "ecg":
        settings = EcgViTConfig(width=16, layers=2, heads=2, stem=4)
        encoders = {"ecg": build_ecg_encoder(settings, 12, 100), "report": text}
    else:
        config = ViTConfig(width=16, layers=2, heads=2) if image == "vit" else ResNetConfig(depth=10, width=4)
        encoders = {"radiograph": build_image_encoder(config, 1, (32, 32)), "report": text}
    heads = {name: LinearHeadConfig() for name in encoders}
    if image == "map":
        heads["radiograph"] = MapHeadConfig()
    network = JointEncoders(encoders, heads, 8).eval()
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.mul_(4)
    return network


def inputs_of(network: JointEncoders) -> tuple[str, torch.Tensor]:
    modality = next(name for name in network.encoders if name != "report")
    return modality, torch.randn(INPUTS[modality], generator=torch.Generator().manual_seed(1))


def frozen_similarity(image: str) -> torch.Tensor:
    network = alignment(image)
    modality, x = inputs_of(network)
    with torch.no_grad():
        found = Tuned(network, modality).eval()(x, network.tokenizer(TEXTS)).similarity
        codes = (normalize(network(*given), dim=1) for given in ((modality, x), ("report", network.tokenizer(TEXTS))))
        torch.testing.assert_close(found, torch.mm(next(codes), next(codes).T))
    return found


METHODS: list[Tuning] = [
    LoraTuning(rank=2, dropout=0.0),
    MapleTuning(tokens=0),
    MsgcoopTuning(tokens=0, prompts=2),
    GoproTuning(tokens=0),
    ClassAwareTuning(tokens=0, heads=2, text_guided=False),
]


@pytest.mark.parametrize("image", ["vit", "resnet", "map", "ecg"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_without_tokens_and_before_training_it_is_the_frozen_alignment(method: Tuning, image: str) -> None:
    network = alignment(image)
    modality, x = inputs_of(network)
    if isinstance(method, MapleTuning) and image in ("resnet", "map"):
        return
    tuned = build_tuned(network, modality, method, LEADS).eval()
    found = tuned(x, network.tokenizer(TEXTS)).similarity
    alike = isinstance(method, LoraTuning | MapleTuning)  # the others multiply in another order
    torch.testing.assert_close(found, frozen_similarity(image), rtol=0, atol=0 if alike else 1e-6)


@pytest.mark.parametrize(
    "method",
    [
        MsgcoopTuning(tokens=3, prompts=1),
        MapleTuning(tokens=3, depth=1),
        GoproTuning(tokens=2),
        ClassAwareTuning(heads=2, tokens=1),
    ],
    ids=lambda method: method.name,
)
def test_contexts_begin_as_the_words_that_they_replace(method: Tuning) -> None:
    network = alignment()
    tuned = build_tuned(network, "radiograph", method, LEADS).eval()
    if isinstance(method, MapleTuning):
        for couple in tuned.couplings:  # prompts of zeros still draw attention, so that of the text alone is compared
            nn.init.zeros_(couple.weight)
    told = tuned(inputs_of(network)[1], network.tokenizer(TEXTS))
    expected = Tuned(alignment(), "radiograph").eval()(inputs_of(network)[1], network.tokenizer(TEXTS))
    torch.testing.assert_close(told.text, expected.text.expand_as(told.text), rtol=0, atol=1e-5)
    with torch.no_grad():
        tuned.context.add_(torch.randn_like(tuned.context))
    changed = tuned(inputs_of(network)[1], network.tokenizer(TEXTS))
    assert (changed.text - told.text).abs().max() > 1e-3


def test_more_tokens_than_words_do_not_eat_the_class() -> None:
    network = alignment()
    tuned = build_tuned(network, "radiograph", MsgcoopTuning(tokens=6, prompts=2), LEADS)
    assert tuned.replaced == 3
    told = tuned(inputs_of(network)[1], network.tokenizer(TEXTS))
    assert told.text.shape == (2, 3, 8)
    assert not torch.allclose(told.text[0, 0], told.text[0, 2])
    torch.testing.assert_close(told.similarity, (told.image @ told.text.transpose(1, 2)).mean(0))


@pytest.mark.parametrize(
    "method",
    [*METHODS[:1], MapleTuning(), MsgcoopTuning(), GoproTuning(), ClassAwareTuning(heads=2)],
    ids=lambda m: m.name,
)
def test_only_what_is_its_own_learns(method: Tuning) -> None:
    network = alignment()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tuned = build_tuned(network, "radiograph", method, LEADS).train()
    learning = {name: value for name, value in tuned.named_parameters() if value.requires_grad}
    assert learning
    optimiser = torch.optim.SGD(learning.values(), lr=0.5)
    for _ in range(2):  # what begins at 0 lets a gradient through once it has moved
        optimiser.zero_grad()
        tuned(inputs_of(network)[1], network.tokenizer(TEXTS)).similarity[:, 0].sum().backward()
        optimiser.step()
    for name, value in tuned.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
        else:
            assert value.grad is None, name
    after = dict(tuned.network.state_dict())
    assert all(
        after.get(name, after.get(name.replace(".weight", ".base_layer.weight"), value)).equal(value)
        for name, value in before.items()
    )
    assert not tuned.network.training


def test_prompts_of_every_layer_count() -> None:
    network = alignment()
    tuned = build_tuned(network, "radiograph", MapleTuning(tokens=2, depth=9), LEADS).eval()
    assert tuned.deep.shape == (1, 2, 16)
    first = tuned(inputs_of(network)[1], network.tokenizer(TEXTS))
    with torch.no_grad():
        tuned.deep.add_(torch.randn_like(tuned.deep))
    second = tuned(inputs_of(network)[1], network.tokenizer(TEXTS))
    assert not torch.allclose(first.text, second.text, atol=1e-4)
    assert not torch.allclose(first.image, second.image, atol=1e-4)


def test_merged_adapters_are_the_unmerged_ones() -> None:
    network = alignment()
    names = set(network.state_dict())
    tuned = build_tuned(network, "radiograph", LoraTuning(rank=2), LEADS).eval()
    torch.manual_seed(2)
    for name, value in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    x, texts = inputs_of(network)[1], network.tokenizer(TEXTS)
    apart = tuned(x, texts).similarity
    assert (apart - frozen_similarity("vit")).abs().max() > 1e-3
    merge_lora(tuned.network)
    assert set(tuned.network.state_dict()) == names
    torch.testing.assert_close(tuned(x, texts).similarity, apart, rtol=0, atol=1e-5)


class TestRefusals:
    def test_maple_needs_a_transformer(self) -> None:
        with pytest.raises(
            ConfigError, match=r"maple .*the radiograph encoder of this alignment is none; use lora, msgcoop"
        ):
            build_tuned(alignment("resnet"), "radiograph", MapleTuning(), LEADS)

    def test_a_table_of_tokens_has_no_layers(self) -> None:
        tokenizer: Tokenizer = learn_vocabulary(WORDS, 80, 24)
        text = TextEncoder(TokenTable(torch.randn(len(tokenizer), 16)), tokenizer, 16, "mean")
        for method in (LoraTuning(), MsgcoopTuning()):
            with pytest.raises(ConfigError, match="text encoder has no layers"):
                build_tuned(alignment(text=text), "radiograph", method, LEADS)

    def test_prompts_longer_than_the_network_reads(self) -> None:
        network = alignment()
        tuned = build_tuned(network, "radiograph", MsgcoopTuning(tokens=24), LEADS)
        with pytest.raises(ConfigError, match="longer than the 24 tokens"):
            tuned(inputs_of(network)[1], network.tokenizer(TEXTS))

    def test_heads_that_do_not_divide(self) -> None:
        with pytest.raises(ConfigError, match=r"method.heads: 3 does not divide the 16"):
            build_tuned(alignment(), "radiograph", ClassAwareTuning(heads=3), LEADS)


@pytest.mark.parametrize(
    "method",
    [
        LoraTuning(rank=2, dropout=0.0),
        MapleTuning(depth=2),
        MsgcoopTuning(prompts=2),
        GoproTuning(),
        ClassAwareTuning(heads=2),
    ],
    ids=lambda m: m.name,
)
def test_every_method_learns_to_tell_bright_from_dark(method: Tuning) -> None:
    network = alignment()
    tuned = build_tuned(network, "radiograph", method, LEADS).train()
    texts = network.tokenizer(TEXTS[:2])
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8) % 2
    x = 0.3 * torch.randn(8, 1, 32, 32, generator=generator) + labels.view(-1, 1, 1, 1)
    optimiser = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(tuned(x, texts).similarity / 0.03, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < 0.9 * min(losses[0], 0.69)  # of a random alignment that hardly tells them
