"""Names that say a volume is no plain T1, as public datasets write them, and names that do not."""

import time

import pytest

from ixi_tfds.cohorts import NameFlags
from ixi_tfds.cohorts.catalog import find_scans, find_volumes
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.names import refusal
from ixi_tfds.system.errors import UserError

CONTRAST = """
    T1POST T1_Gd T1wCE sub-01_ce-gadolinium_T1w ce-gadolinium_T1w T1_post t1post T1_POST_001
    brats_001_t1ce T1C T1c_bias pat0001_T1c_subtrMeanDivStd UPENN-GBM-00001_11_T1GD
    UPENN-GBM-00001_11_T1GD_unstripped x_T1Gd T1+C T1_C ax_t1_post AX_T1_POST patient01_T1WKS
    GADO_preprocessed t1_ce_brain T1-contrast p_T1_with_contrast T1wPostContrast post_contrast_T1
    T1postcontrast t1gad T1_KM GdT1 ce_T1 T1_Gd_001 sub-01_acq-postcontrast_T1w T1_enhanced T1CE
    3D_AX_T1_postcontrast T1w_gadolinium MPRAGEpost mprage_post SPGRGd t1_mprage_sag_p2_iso_KM
    t1_se_tra_KM t1_fl3d_sag_KM t1_vibe_tra_fs_post T1_mprage_sag_Gd
"""
OTHER = """
    inplaneT2 sub-01_inplaneT2 inplanet2 STIR TIRM AXT2 T2FLAIR t2_tse sagT2 T2w_space FLAIRreg
    3DFLAIR p01T2 t2flair T2star axt2flair T2_FLAIR sub-01_T2starw R1map R2starmap T2starmap R1_map
    PDmap B1map TB1map MTsat Chimap T1_map T1map M0map mean_func mean_bold meanFunc example_func
    filtered_func_data rest_bold zstat1 tstat2 DP_preprocessed b1000 inv1_MP2RAGE
    sub-01_inv-1_MP2RAGE DSC_ap-rCBV DTI_FA_x T1_FLAIR localizer x_ColFA
    T1_ph sub-01_space-T2w_myelinmap
"""
LABELS = """
    GOLD_STANDARD gold_standard patient01_consensus_gt Consensus ManualSegmentation_1 groundtruth
    ground_truth pat0001_OTMultiClass VSD.Brain.XX.O.OT.123 training01_01_mask1 GM_prob WMH wmh
    T1_brain_pve_0 T1_brain_pveseg OAS1_0003_MR1_mpr_n4_anon_111_t88_masked_gfc_fseg lh.ribbon
    mwp1sub-01_T1w UCSF-PDGM-0004_tumor_segmentation UPENN-GBM-00001_automated_approx_segm T1_gm
    lesionmask p01_lesionmask bmask p01_bmask tumormask lesionseg
    labelsTr/CASE_000 masksTr/OASIS_0001_0000 aseg aparc+aseg seg35 seg4
"""
REAL_T1 = """
    MPRAGE mprage_anon SPGR BRAVO FSPGR t1_mpr_sag T1w_acpc_dc_restore norm brain orig T1 T1w T1n
    IXI012-HH-1211-T1 sub-01_acq-mprage_T1w OAS1_0003_MR1_mpr-1_anon T1mprage p_T1_fs
    OAS1_0003_MR1_mpr_n4_anon_111_t88_masked_gfc KKI2009-01-MPRAGE t1_mprage_sag_p2_iso_0.9
    ADNI_002_S_0295_MR_MPRAGE_br_raw_20060418193713091_1_S13408_I13722 UNIT1 MP2RAGE
    ADNI_002_S_0295_MR_MPR__GradWarp__B1_Correction__N3__Scaled_Br_20070217_S13408_I45108
    100307_3T_T1w_MPR1 p01_post_T1 T1_pre T1_precontrast 3D_AX_T1_precontrast T1_pre_contrast
    T1_noncontrast PD_003_T1w PD_003_SPGR CE_003_T1 sub-01_space-T2w_T1w 3DT1 sag_t1 T1FLAIR nu
    rawavg brain.finalsurfs co20080101_mprage head_001 CASE_000_0000 PATIENT2 PATIENT2_T1 pat2
    subject2 visit2_T1 part2 pt2 SUBJECT2 T1_MNI152_2mm openms_p07_T1_MNI labelled01 GD_001_T1
    restored ibsr_01_ana Hammers_a01 LPBA40_S01 BraTS-GLI-00000-000-t1n defaced_T1 t1_fl3d con_0001
    AD_001 NC01 Caltech_0051456 mean_T1 inplaneT1 mc_001 GradWarp ADNI_003_S_0001_MR_a MR_a CT1_MR_V
    t1_mprage_sag_KMueller MPRAGEsag T1_brain_masked KM_001_T1 t1_se_tra CONTROL_T1 Postma_T1
    Gdansk01
"""


@pytest.mark.parametrize(
    ("names", "reason", "said"),
    [
        (CONTRAST, "other_modality", "contrast agent|another modality"),
        (OTHER, "other_modality", "another modality"),
        (LABELS, "label_map", "label map|SPM"),
    ],
)
def test_names_of_other_things_are_refused_with_the_word_that_says_it(names, reason, said):
    errors = {name: refusal(f"/data/{name}.nii.gz") for name in names.split()}
    assert [name for name, error in errors.items() if error is None] == []
    for error in errors.values():
        assert error.reason == reason, error
        assert any(word in error.detail for word in said.split("|")), error


def test_names_of_real_t1_volumes_are_not_refused():
    refused = [refusal(f"/data/{name}.nii.gz") for name in REAL_T1.split()]
    assert [str(error) for error in refused if error] == []


def test_a_name_that_means_harm_is_judged_at_once():
    started = time.process_time()
    for word in ("postgd", "noncontrast", "axial", "t2flair", "ses1", "T1", "a1B"):
        refusal(f"/data/t1{word * (240 // len(word))}q.nii")
    assert time.process_time() - started < 1


def test_names_are_overruled_by_a_flag_except_those_of_no_text(tmp_path):
    for name in ("PD_001", "PD_002", "a_seg"):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="3 refused by name, 1 label_map, 2 other_modality"):
        find_scans(str(tmp_path), IXI)
    allowed = NameFlags(allow_names=True)
    found = find_scans(str(tmp_path), IXI, names=allowed).scans
    assert [scan.subject for scan in found] == ["PD_001", "PD_002", "a_seg"]
    with_masks = find_scans(str(tmp_path), IXI, names=allowed, but_masks=True)
    assert [scan.subject for scan in with_masks.scans] == ["PD_001", "PD_002"]
    assert len(find_volumes(str(tmp_path), allow_names=True)[0]) == 3


def test_templates_of_freesurfer_are_no_people(tmp_path):
    for name in ("bert/mri/T1", "fsaverage/mri/T1", "fsaverage5/mri/orig/001"):
        path = tmp_path / f"{name}.mgz"
        path.parent.mkdir(parents=True)
        path.touch()
    for folder in ("cvs_avg35_inMNI152/mri", "fsaverage/mri.2mm"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "brain.mgz").touch()
    found = find_scans(str(tmp_path), IXI)
    assert [scan.subject for scan in found.scans] == ["bert"]
    assert [error.reason for error in found.refused] == ["no_person"] * 4
    assert all("template" in error.detail for error in found.refused)
