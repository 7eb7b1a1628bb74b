"""Codes of one modality as inputs of another: what is searched for is found, in its place of the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional

from medcl.config.align import ModalitiesConfig
from medcl.config.alignment_use import InversionConfig, RetrieveConfig
from medcl.config.load import load_config, validate
from medcl.encoders.inversion import Search, inverted_to_image, inverted_to_text
from medcl.encoders.joint import JointEncoders, build_joint
from medcl.encoders.prompts import prompted_text
from medcl.encoders.text import learn_vocabulary
from medcl.errors import ConfigError
from medcl.evaluation.inversion import score_inversion
from medcl.preparation.recipe import MinMaxIntensity, Recipe

TEMPLATE = "chest x-ray showing {v} today"


def _network(encoder: dict) -> JointEncoders:
    torch.manual_seed(0)
    modalities = {
        "radiograph": {"encoder": encoder, "shorter": 16, "patch": [16, 16]},
        "report": {"encoder": {"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 16, "dropout": 0.1}},
    }
    recipe = Recipe(
        modality="radiograph", spacing=(None, None, None), shorter=16, intensity=MinMaxIntensity(), patch=(16, 16, 1),
        channels=("radiograph",),
    )  # fmt: skip
    tokenizer = learn_vocabulary(["chest x-ray showing edema today", "effusion fracture pneumonia"], 200, 16)
    config = validate(ModalitiesConfig, modalities)
    return build_joint(config, 4, recipes={"radiograph": recipe}, tokenizer=tokenizer).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> JointEncoders:
    return _network({"name": "vit", "width": 16, "layers": 1, "heads": 2, "cell": 4})


@torch.no_grad()
def test_the_word_stands_where_the_template_has_it(network: JointEncoders) -> None:
    """The vector of a real word, put into the text without it, gives the features of the text with it."""
    text = network.text
    (number,) = text.tokenizer(["edema"]).ids[0, 1:-1].tolist()
    without, whole = text.tokenizer(["chest x-ray showing today"]), text.tokenizer(["chest x-ray showing edema today"])
    after = int((text.tokenizer(["chest x-ray showing "]).word >= 0).sum())
    given = prompted_text(text, without, text.vectors[number].view(1, 1, -1), after=after)
    torch.testing.assert_close(given, text(whole).pooled)


@torch.no_grad()
def test_a_text_is_found_whose_code_is_the_one_of_a_word(network: JointEncoders) -> None:
    names = ["edema", "effusion", "fracture"]
    texts = network.text.tokenizer([TEMPLATE.replace("{v}", name) for name in names])
    goal = network("report", texts)
    found = inverted_to_text(network, goal, TEMPLATE, search=Search(150))
    cosine = functional.cosine_similarity(found, goal)
    assert (cosine > 0.99).all()
    assert torch.equal(found, inverted_to_text(network, goal, TEMPLATE, search=Search(150)))
    begun = functional.cosine_similarity(inverted_to_text(network, goal, TEMPLATE, search=Search(1)), goal)
    assert (cosine > begun).all()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


@torch.no_grad()
def test_patches_are_found_for_the_codes_of_texts(network: JointEncoders) -> None:
    goal = functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    first, last = (inverted_to_image(network, "radiograph", goal, search=Search(steps)) for steps in (1, 200))
    assert (functional.cosine_similarity(last, goal) > functional.cosine_similarity(first, goal) + 0.1).all()
    one = network.encoders["radiograph"].transformer.positions.shape[1] - 1
    with pytest.raises(ConfigError, match=f"inversion.patches: {one + 1}"):
        inverted_to_image(network, "radiograph", goal, patches=one + 1, search=Search(1))


@torch.no_grad()
def test_other_encoders_are_refused() -> None:
    plain = _network({"name": "resnet", "depth": 10, "width": 2})
    with pytest.raises(ConfigError, match="is no transformer"):
        inverted_to_image(plain, "radiograph", torch.randn(2, 4), search=Search(1))


def test_scores_compare_a_modality_with_the_way_through_another() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, 30)
    groups[0] = 9  # alone
    centres = np.eye(4)[np.minimum(groups, 3)]
    noisy = torch.from_numpy(centres + 0.9 * rng.normal(size=(30, 4)))
    clean = torch.from_numpy(centres)
    subjects = list(range(30))
    found = score_inversion(noisy, clean, groups, subjects, modality="radiograph", through="report")
    assert found.records == 29
    unit = functional.normalize(noisy, dim=1)
    expected = []
    for row in range(1, 30):
        other = np.arange(30) != row
        similarity = (unit @ unit[row])[other].numpy()
        expected.append(average_precision_score(groups[other] == groups[row], similarity))
    assert found.within.mean == pytest.approx(np.mean(expected))
    assert found.difference.low > 0
    assert found.difference.mean == pytest.approx(found.across.mean - found.within.mean)
    same = score_inversion(noisy, noisy, groups, subjects, modality="radiograph", through="report")
    assert same.difference.mean == 0
    assert same.cosine == pytest.approx(1)
    with pytest.raises(ValueError, match="no two records"):
        score_inversion(noisy, noisy, np.arange(30), subjects, modality="radiograph", through="report")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="it must hold"):
        load_config(InversionConfig, overrides=["template=chest"])
    with pytest.raises(ConfigError, match="a record alone has no like"):
        load_config(RetrieveConfig, overrides=["data.path=a", "weights=b", "inversion={}"])
