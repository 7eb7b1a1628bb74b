"""Features of places and words: sums of the pieces of words, levels of maps, and heads that are maps."""

from __future__ import annotations

import pytest
import torch

from medcl.config.align import LinearHeadConfig, MapHeadConfig
from medcl.config.modalities import LabsMlpConfig, ResNetConfig
from medcl.config.text import BertConfig
from medcl.encoders.build_text import build_text_encoder
from medcl.encoders.image import build_image_encoder
from medcl.encoders.joint import JointEncoders
from medcl.encoders.labs import LabsMlp
from medcl.encoders.places import summed_words
from medcl.encoders.text import learn_vocabulary
from medcl.errors import ConfigError

JOINT = 6


def network(places: tuple[str, ...], head: object = None) -> JointEncoders:
    torch.manual_seed(0)
    tokenizer = learn_vocabulary(["a small effusion", "left lung"], 14, 24)  # so small that words have several pieces
    text = build_text_encoder(BertConfig(width=16, layers=1, heads=2, max_length=24, dropout=0), tokenizer)
    image = build_image_encoder(ResNetConfig(depth=10, width=4), 1, (32, 32))
    encoders = {"radiograph": image, "report": text, "labs": LabsMlp(LabsMlpConfig(hidden=(4,)), 2)}
    heads = {"radiograph": head or LinearHeadConfig(), "report": LinearHeadConfig(), "labs": LinearHeadConfig()}
    return JointEncoders(encoders, heads, JOINT, places=places).eval()


def test_a_word_is_the_sum_of_its_pieces() -> None:
    pieces = torch.arange(10.0).view(1, 1, 10).repeat(2, 3, 1).requires_grad_()
    word = torch.tensor([[-1, 0, 0, 1, 2, 2, 2, -1, -1, -1], [-1, 0, -1, -1, -1, -1, -1, -1, -1, -1]])
    found, valid = summed_words(pieces, word)
    assert found[:, 0].tolist() == [[3, 3, 15], [1, 0, 0]]
    assert valid.tolist() == [[True, True, True], [True, False, False]]
    found.sum().backward()
    assert torch.equal(pieces.grad[:, 0] != 0, word >= 0)
    assert summed_words(pieces[:0], word[:0])[0].shape == (0, 3, 1)


def test_words_of_a_text_do_not_see_the_padding_of_another() -> None:
    joint = network(("report",))
    texts = ["left lung", "a small effusion left lung"]
    tokens = joint.tokenizer(texts)
    assert (tokens.word.amax(1) + 1).tolist() == [2, 5]
    assert tokens.valid.sum(1).gt(torch.tensor([4, 7])).all()  # pieces, not words
    rows, valid = joint.localise("report", joint.encode("report", tokens))
    assert rows.shape == (2, JOINT, 5)
    assert valid.sum(1).tolist() == [2, 5]
    alone, _ = joint.localise("report", joint.encode("report", joint.tokenizer(texts[:1])))
    torch.testing.assert_close(rows[:1, :, :2], alone, rtol=1e-4, atol=1e-5)
    assert (rows[0, :, 2:] == 0).all()
    joint.tokenizer.backend.pre_tokenizer = None  # words cannot be told: pieces
    assert joint.tokenizer.words(tokens)[0].max() + 1 == tokens.valid[0].sum() - 2


def test_every_level_of_an_image_encoder_has_a_head_of_its_own() -> None:
    joint = network(("radiograph", "radiograph@-2"))
    encoded = joint.encode("radiograph", torch.randn(2, 1, 32, 32))
    assert [tuple(maps.shape[1:]) for maps in encoded.levels] == [(4, 8, 8), (8, 4, 4), (16, 2, 2), (32, 1, 1)]
    assert torch.equal(encoded.levels[-1], encoded.local)
    rows, valid = joint.localise("radiograph", encoded, -2)
    assert rows.shape == (2, JOINT, 2, 2)
    assert valid.all()
    assert joint.localise("radiograph", encoded)[0].shape == (2, JOINT, 1, 1)
    assert {name for name in joint.state_dict() if "places" in name} == {
        "places.radiograph.weight",
        "places.radiograph@-2.weight",
    }
    assert not [name for name in network(()).state_dict() if "places" in name]


def test_the_code_of_a_map_head_is_the_mean_of_its_map() -> None:
    joint = network(("radiograph", "report"), MapHeadConfig())
    encoded = joint.encode("radiograph", torch.randn(2, 1, 64, 64))
    rows, _ = joint.localise("radiograph", encoded)
    assert rows.shape == (2, JOINT, 2, 2)
    torch.testing.assert_close(joint.project("radiograph", encoded), rows.flatten(2).mean(2))
    assert set(joint.places) == {"report"}


@pytest.mark.parametrize("head", [LinearHeadConfig(), MapHeadConfig()])
def test_codes_of_single_sites_have_the_code_of_the_whole_as_their_mean(head: object) -> None:
    joint = network((), head).eval()
    encoded = joint.encode("radiograph", torch.randn(2, 1, 64, 96))
    sites = joint.sites("radiograph", encoded)
    assert sites.shape == (2, JOINT, 2, 3)
    torch.testing.assert_close(joint.project("radiograph", encoded), sites.flatten(2).mean(2))
    with pytest.raises(ConfigError, match="labs: its encoder gives one vector"):
        joint.sites("labs", joint.encode("labs", torch.zeros(1, 2)))


@pytest.mark.parametrize(
    ("places", "head", "message"),
    [
        (("labs",), None, "labs: its encoder gives one vector and nothing of places"),
        (("radiograph@-5",), None, "level -5 of radiograph: its encoder gives 4 maps; choose a level of at least -4"),
    ],
)
def test_what_has_no_places_is_refused(places: tuple[str, ...], head: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(places, head)
