"""Text encoders: real pretrained weights from packages, a BERT on a vocabulary of reports, LoRA; padding changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from medcl.config.text import BertConfig, LoraConfig, PretrainedTextConfig, TokenTableConfig
from medcl.encoders.build_text import build_text_encoder
from medcl.encoders.text import TextEncoder, Tokenizer, learn_vocabulary, needed, pool
from medcl.errors import ConfigError

REPORTS = [
    "The heart is enlarged. No pleural effusion.",
    "No acute cardiopulmonary disease.",
    "Small left pleural effusion, unchanged.",
    "The lungs are clear. Heart size is normal.",
]


def small_bert(pooling: str = "cls") -> TextEncoder:
    torch.manual_seed(0)
    config = BertConfig(layers=2, width=32, heads=2, max_length=32, pooling=pooling)
    return build_text_encoder(config, learn_vocabulary(REPORTS, 200, 32)).eval()


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return build_text_encoder(PretrainedTextConfig(source="minilm")).eval()


class TestVocabulary:
    def test_it_reads_the_words_it_was_learnt_from_in_any_case(self) -> None:
        tokenizer = learn_vocabulary(REPORTS, 400, 32)
        one, other = tokenizer(["PLEURAL effusion", "pleural Effusion"]).ids
        assert one.tolist() == other.tolist()
        assert tokenizer.special["unknown"] not in one
        assert len(one) == 4  # with [CLS] and [SEP]

    def test_it_is_the_same_for_the_same_reports_and_survives_the_file(self, tmp_path: Path) -> None:
        first, second = (learn_vocabulary(REPORTS, 120, 32) for _ in range(2))
        first.save(tmp_path / "tokenizer.json")
        read = Tokenizer.read(tmp_path / "tokenizer.json", 32)
        for other in (second, read):
            assert other(REPORTS).ids.equal(first(REPORTS).ids)
        assert read.special == first.special

    def test_long_texts_are_cut_and_pairs_are_told_apart(self) -> None:
        tokenizer = learn_vocabulary(REPORTS, 400, 8)
        assert tokenizer([REPORTS[0] * 4]).ids.shape == (1, 8)
        tokens = tokenizer([("heart", "effusion")])
        assert tokens.segment[0].tolist() == [0, 0, 0, 1, 1]

    def test_reports_without_words_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="no word to learn a vocabulary from"):
            learn_vocabulary(["", "  "], 100, 8)

    def test_what_is_no_tokenizer_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
        with pytest.raises(ConfigError, match=r"tokenizer.json: is no tokenizer.json .*medcl text-vocabulary"):
            Tokenizer.read(tmp_path / "tokenizer.json", 8)


class TestPadding:
    @pytest.mark.parametrize("pooling", ["cls", "mean", "eos"])
    def test_a_text_beside_a_longer_one_has_the_same_features(self, pooling: str) -> None:
        encoder = small_bert(pooling)
        alone = encoder(encoder.tokenizer([REPORTS[1]]))
        beside = encoder(encoder.tokenizer([REPORTS[1], REPORTS[0]]))
        torch.testing.assert_close(beside.pooled[:1], alone.pooled)
        kept = beside.valid[0]
        torch.testing.assert_close(beside.local[0, :, kept], alone.local[0])

    def test_mean_all_counts_padding_as_the_release_did(self) -> None:
        states = torch.tensor([[[2.0], [4.0], [100.0]]])
        valid = torch.tensor([[True, True, False]])
        assert pool(states, valid, "mean").item() == 3
        assert pool(states, valid, "mean_all").item() == pytest.approx(106 / 3)
        assert pool(states, valid, "eos").item() == 4
        assert pool(states, valid, "cls").item() == 2

    def test_an_empty_report_has_finite_features(self) -> None:
        for encoder in (small_bert("mean"), build_text_encoder(TokenTableConfig()).eval()):
            found = encoder(encoder.tokenizer(["", REPORTS[0]]))
            assert found.pooled.isfinite().all()


class TestPretrained:
    @pytest.mark.parametrize("name", ["minilm", "wordllama"])
    def test_it_knows_that_cardiomegaly_is_an_enlarged_heart(self, name: str, minilm: TextEncoder) -> None:
        encoder = minilm if name == "minilm" else build_text_encoder(TokenTableConfig()).eval()
        with torch.no_grad():
            codes = normalize(encoder(encoder.tokenizer(["cardiomegaly", "enlarged heart", "a ripe banana"])).pooled)
        alike = codes @ codes.T
        assert alike[0, 1] > alike[0, 2] + 0.1

    def test_a_folder_that_lacks_files_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"encoder.source: .* cannot be loaded .*config.json, model.safetensors"):
            build_text_encoder(PretrainedTextConfig(source=str(tmp_path)))

    def test_a_hub_id_without_a_local_copy_says_what_to_do(self) -> None:
        with pytest.raises(ConfigError, match="give a local folder, or set download=true"):
            build_text_encoder(PretrainedTextConfig(source="nobody/no-such-model"))

    def test_tables_and_vocabularies_have_to_fit(self, tmp_path: Path) -> None:
        learn_vocabulary(REPORTS, 100, 8).save(tmp_path / "tokenizer.json")
        save_file({"table": torch.zeros(10, 4)}, tmp_path / "table.safetensors")
        config = TokenTableConfig(table=tmp_path / "table.safetensors", tokenizer=tmp_path / "tokenizer.json")
        with pytest.raises(ConfigError, match="only 10 vectors"):
            build_text_encoder(config)

    def test_a_package_that_is_not_installed_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"no_such_package is not installed; pip install 'medcl\[multimodal\]'"):
            needed("no_such_package")


class TestLora:
    def test_it_begins_as_the_network_itself_and_merges_into_it(self, minilm: TextEncoder) -> None:
        adapted = build_text_encoder(PretrainedTextConfig(source="minilm", lora=LoraConfig())).eval()
        tokens = minilm.tokenizer(REPORTS)
        with torch.no_grad():
            torch.testing.assert_close(adapted(tokens).pooled, minilm(tokens).pooled, atol=1e-6, rtol=0)
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
            changed = adapted(tokens).pooled
            assert (changed - minilm(tokens).pooled).abs().max() > 1e-3
            adapted.network = adapted.network.merge_and_unload()
            torch.testing.assert_close(adapted(tokens).pooled, changed, atol=1e-5, rtol=0)

    def test_the_network_below_is_frozen(self) -> None:
        adapted = build_text_encoder(PretrainedTextConfig(source="minilm", lora=LoraConfig(bias="none")))
        trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        assert trained
        assert all("lora_" in name for name in trained)
