"""The listing is complete: no row of the indexes and no adapter can drop out unseen."""

from __future__ import annotations

import json
import os

import pytest

from tests.oracles.rows import INDEXES, oracle_folder
from tests.oracles.test_oracles import BUILT, ROWS

# Rows whose objective is built. Adding an adapter means adding its name here; removing either alone fails.
DUE = {
    "objectives": "infonce_oneway mnrl_triplet infonce_symmetric ntxent supcon dcl dclw hard_contrastive amcl sogclr_unimodal "
    "isogclr_unimodal sogclr_bimodal isogclr_bimodal moco_queue mochi cacr mv_infonce mv_dhel mcl_masked hydra_gate "
    "group_whitening ipw_infonce meow adameow mean_negative_infonce nspt_rehearsal pamc "
    "multi_similarity noncontrastive_baselines contrastive_search metrics_geometry metrics_rank metrics_lidar metrics_knn "
    "metrics_linear_probe tiled_infonce",
    "volumetric": "nt_xent supcon global_gd_minus global_gd global_gd_released_layout "
    "local_lr_2d local_lr_3d local_ld_2d local_ld_3d dice "
    "pixcontrast_2d pixpro_2d pix3d swav voco core_tuning bpkd_2d bpkd_3d supremix sepclr genview_quality pcl_sr "
    "projection_reweight pseudo_label_local",
    "multimodal": "mm_clip mm_pairwise_clip_m3 mm_velvet_ntxent "
    "mm_clip_smoothed mm_symile_nsq_m3 mm_symile_nsq_m4 mm_symile_n_m3 mm_mip_similarity mm_pairwise_clip_masked mm_gram_volume "
    "mm_gram_loss mm_cwcl mm_contrastive_gap mm_coca mm_m3col_mix mm_m3col_soft mm_dreamlip_multipos mm_dreamlip_grouping "
    "mm_circle_multipos mm_counting mm_filtered_hard_negatives mm_attribution mm_more_loss mm_barlip mm_ecg_preprocess mm_labs_ecdf mm_report_sections mm_dropkey mm_cross_slice_block mm_retrieval_metrics "
    "mm_zeroshot_scores mm_triplet_eval mm_phrase_grounding mm_gloria_local mm_velvet_hierarchical "
    "mm_albef_itc mm_albef_mlm_distill mm_tcl_local_mi mm_tcl_patch_pool mm_tcl_cma_imc mm_degla mm_prompt_regularisers mm_clim_mosaic",
}


def test_every_built_row_has_its_adapter() -> None:
    assert {(index, name) for index, names in DUE.items() for name in names.split()} == set(BUILT)


def test_every_row_of_the_folder_is_listed() -> None:
    folder = oracle_folder()
    found = [path for path in (folder / f"{index}.json" for index in INDEXES) if path.is_file()]
    if not found:
        message = f"no reference vectors at {folder}; set MEDCL_ORACLES to a folder with {', '.join(INDEXES)} as .json"
        if "MEDCL_ORACLES" in os.environ or "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    named = [(path.stem, row["name"]) for path in found for row in json.loads(path.read_text())["oracles"]]
    assert named == [row.key for row in ROWS]
    assert len(set(named)) == len(named)
    absent = sorted("/".join(key) for key in set(BUILT) - set(named))
    if absent:
        pytest.skip(f"rows that this folder does not have: {', '.join(absent)}")
