"""Standard codes for the names of labels: SNOMED CT, as DICOM uses it for segments (PS3.16, context groups 7150 and 7151).

A name is looked up in lower case with anything but letters and digits as a space, first whole, then without ``left`` or ``right``, which
becomes a modifier. A name that is not in the table keeps its own words and is coded as plain *Tissue*, and so are abbreviations with several
meanings (LV, PZ): a wrong code is worse than none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "SCT"
"""The coding scheme of every :class:`Concept`: SNOMED CT."""


@dataclass(frozen=True)
class Concept:
    """One SNOMED CT concept: its ``code`` and what it means in words."""

    code: str
    meaning: str


@dataclass(frozen=True)
class Coded:
    """What a segment is: a broad ``category`` (PS3.16 CID 7150), a ``kind`` within it (CID 7151), and on which ``side``, where said."""

    category: Concept
    kind: Concept
    side: Concept | None = None


TISSUE = Concept("85756007", "Tissue")
ANATOMY = Concept("91723000", "Anatomical Structure")
ABNORMAL = Concept("49755003", "Morphologically Abnormal Structure")
SUBSTANCE = Concept("91720002", "Body Substance")

_SIDES = {
    **dict.fromkeys(("left", "l"), Concept("7771000", "Left")),
    **dict.fromkeys(("right", "r"), Concept("24028007", "Right")),
}

# "liver tumor" is a tumour: these words say what a thing is, the words before them where
_ENDS_IN = frozenset({"tumor", "tumour", "cancer", "lesion", "lesions", "cyst", "cysts", "nodule", "nodules"})

# code, meaning, and the names that mean it
_NAMES: dict[Concept, tuple[tuple[str, str, str], ...]] = {
    ANATOMY: (
        ("12738006", "Brain", "brain"),
        ("119238007", "Brain Stem", "brain stem, brainstem"),
        ("113305005", "Cerebellum", "cerebellum"),
        ("5366008", "Hippocampus", "hippocampus"),
        ("4958002", "Amygdala", "amygdala"),
        ("42695009", "Thalamus", "thalamus"),
        ("11000004", "Caudate Nucleus", "caudate, caudate nucleus"),
        ("89278009", "Putamen", "putamen"),
        ("14738005", "Globus Pallidus", "pallidum, globus pallidus"),
        ("427667007", "Nucleus Accumbens", "accumbens, nucleus accumbens"),
        ("66720007", "Lateral Ventricle", "lateral ventricle"),
        ("35764002", "Brain ventricle", "brain ventricle, brain ventricles"),
        ("56329008", "Pituitary", "pituitary, pituitary gland"),
        ("244453006", "Optic chiasm", "optic chiasm"),
        ("2748008", "Spinal cord", "spinal cord"),
        ("79652003", "Eyeball", "eyeball"),
        ("45289007", "Parotid gland", "parotid, parotid gland"),
        ("54019009", "Submandibular gland", "submandibular gland"),
        ("69748006", "Thyroid", "thyroid, thyroid gland"),
        ("91609006", "Mandible", "mandible"),
        ("89546000", "Skull", "skull"),
        ("39607008", "Lung", "lung, lungs"),
        ("45653009", "Upper lobe of lung", "lung upper lobe, upper lobe of lung"),
        ("72481006", "Middle lobe of right lung", "lung middle lobe, middle lobe of lung"),
        ("90572001", "Lower lobe of lung", "lung lower lobe, lower lobe of lung"),
        ("44567001", "Trachea", "trachea"),
        ("80891009", "Heart", "heart"),
        ("87878005", "Left ventricle", "left ventricle"),
        ("53085002", "Right ventricle", "right ventricle"),
        ("82471001", "Left atrium", "left atrium"),
        ("73829009", "Right atrium", "right atrium"),
        ("74281007", "Myocardium", "myocardium"),
        (
            "49848007",
            "Left Ventricle Myocardium",
            "left ventricle myocardium, left ventricular myocardium, lv myocardium",
        ),
        ("76848001", "Pericardium", "pericardium"),
        ("15825003", "Aorta", "aorta"),
        ("81040000", "Pulmonary artery", "pulmonary artery"),
        ("64131007", "Inferior vena cava", "inferior vena cava, ivc"),
        ("48345005", "Superior vena cava", "superior vena cava, svc"),
        ("32764006", "Portal vein", "portal vein"),
        ("8993003", "Hepatic vein", "hepatic vein"),
        ("59820001", "Blood Vessel", "vessel, vessels, blood vessel, blood vessels"),
        ("32849002", "Esophagus", "esophagus, oesophagus"),
        ("69695003", "Stomach", "stomach"),
        ("38848004", "Duodenum", "duodenum"),
        ("30315005", "Small intestine", "small intestine, small bowel"),
        ("14742008", "Large intestine", "large intestine, large bowel"),
        ("71854001", "Colon", "colon"),
        ("34402009", "Rectum", "rectum"),
        ("10200004", "Liver", "liver"),
        ("28231008", "Gallbladder", "gallbladder, gall bladder"),
        ("15776009", "Pancreas", "pancreas"),
        ("78961009", "Spleen", "spleen"),
        ("64033007", "Kidney", "kidney, kidneys"),
        ("23451007", "Adrenal gland", "adrenal, adrenal gland"),
        ("89837001", "Bladder", "bladder, urinary bladder"),
        ("41216001", "Prostate", "prostate"),
        ("279706003", "Peripheral zone of the prostate", "peripheral zone, prostate peripheral zone"),
        ("399384005", "Transition zone of the prostate", "transition zone, prostate transition zone"),
        ("64739004", "Seminal Vesicle", "seminal vesicle, seminal vesicles"),
        ("35039007", "Uterus", "uterus"),
        ("51282000", "Vertebra", "vertebra, vertebrae"),
        ("54735007", "Sacrum", "sacrum"),
        ("56873002", "Sternum", "sternum"),
        ("113197003", "Rib", "rib, ribs"),
        ("51299004", "Clavicle", "clavicle, clavicula"),
        ("79601000", "Scapula", "scapula"),
        ("85050009", "Humerus", "humerus"),
        ("71341001", "Femur", "femur"),
    ),
    TISSUE: (
        ("389081007", "Gray Matter", "gray matter, grey matter, gm"),
        ("389080008", "White Matter", "white matter, wm"),
        ("3138006", "Bone", "bone, bones"),
        ("91727004", "Muscle", "muscle, muscles"),
        ("55603005", "Fat", "fat"),
        ("87784001", "Soft tissue", "soft tissue"),
        ("12402003", "Scar tissue", "scar"),
    ),
    ABNORMAL: (
        ("108369006", "Neoplasm", "tumor, tumour, cancer, neoplasm"),
        ("372087000", "Neoplasm, Primary", "primary tumor, primary tumour"),
        ("14799000", "Neoplasm, Secondary", "metastasis, metastases"),
        ("52988006", "Lesion", "lesion, lesions"),
        ("4147007", "Mass", "mass"),
        ("27925004", "Nodule", "nodule, nodules"),
        ("367643001", "Cyst", "cyst, cysts"),
        ("79654002", "Edema", "edema, oedema"),
        ("6574001", "Necrosis", "necrosis"),
        ("50960005", "Hemorrhage", "hemorrhage, haemorrhage"),
    ),
    SUBSTANCE: (
        ("87612001", "Blood", "blood"),
        ("65216001", "Cerebrospinal Fluid", "csf, cerebrospinal fluid"),
    ),
}

_TABLE = {
    name.strip(): Coded(category, Concept(code, meaning))
    for category, rows in _NAMES.items()
    for code, meaning, names in rows
    for name in names.split(",")
}


def code_of(name: str) -> Coded:
    """The standard code of a label called ``name``; *Tissue* where the table does not know it.

    A tumour is coded as one wherever it grows (``"liver tumor"`` is a neoplasm): the label's own name says where.
    """
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    if (found := _TABLE.get(" ".join(words))) is not None:
        return found
    sides = {_SIDES[word] for word in words if word in _SIDES}
    rest = " ".join(word for word in words if word not in _SIDES)
    if len(sides) == 1 and (found := _TABLE.get(rest)) is not None:
        return Coded(found.category, found.kind, sides.pop())
    if len(words) > 1 and words[-1] in _ENDS_IN and (found := _TABLE.get(words[-1])) is not None:
        return found
    return Coded(TISSUE, TISSUE)
