"""Charlson comorbidities as ICD code prefixes (Quan et al. 2005, as in MIT-LCP/mimic-code)."""

import re

_RANGE = re.compile(r"([A-Z]?)(\d+)-[A-Z]?(\d+)")
_DIABETES = ("E10", "E11", "E12", "E13", "E14")


def _diabetes(fourth: str) -> str:
    return " ".join(stem + digit for stem in _DIABETES for digit in fourth)


GROUPS: tuple[tuple[str, str, int, str, str], ...] = (
    ("myocardial infarct", "mi", 1, "410 412", "I21 I22 I252"),
    (
        "congestive heart failure",
        "chf",
        1,
        "428 39891 40201 40211 40291 40401 40403 40411 40413 40491 40493 4254-4259",
        "I43 I50 I099 I110 I130 I132 I255 I420 I425-I429 P290",
    ),
    (
        "peripheral vascular disease",
        "pvd",
        1,
        "440 441 0930 4373 4431-4439 4471 5571 5579 V434",
        "I70 I71 I731 I738 I739 I771 I790 I792 K551 K558 K559 Z958 Z959",
    ),
    ("cerebrovascular disease", "cvd", 1, "430-438 36234", "G45 G46 I60-I69 H340"),
    ("dementia", "dementia", 1, "290 2941 3312", "F00-F03 G30 F051 G311"),
    (
        "chronic pulmonary disease",
        "copd",
        1,
        "490-505 4168 4169 5064 5081 5088",
        "J40-J47 J60-J67 I278 I279 J684 J701 J703",
    ),
    (
        "rheumatic disease",
        "rheumatic",
        1,
        "725 4465 7100-7104 7140-7142 7148",
        "M05 M06 M32-M34 M315 M351 M353 M360",
    ),
    ("peptic ulcer disease", "ulcer", 1, "531-534", "K25-K28"),
    (
        "mild liver disease",
        "liver",
        1,
        "570 571 0706 0709 5733 5734 5738 5739 V427 07022 07023 07032 07033 07044 07054",
        "B18 K73 K74 K700-K703 K709 K713-K715 K717 K760 K762-K764 K768 K769 Z944",
    ),
    ("diabetes", "diabetes", 1, "2500-2503 2508 2509", _diabetes("01689")),
    ("diabetes with complications", "diabetes", 2, "2504-2507", _diabetes("23457")),
    (
        "paraplegia",
        "paraplegia",
        2,
        "342 343 3341 3440-3446 3449",
        "G81 G82 G041 G114 G801 G802 G830-G834 G839",
    ),
    (
        "renal disease",
        "renal",
        2,
        "582 585 586 V56 5830-5837 5880 V420 V451 40301 40311 40391 40402 40403 40412 40413 "
        "40492 40493",
        "N18 N19 I120 I131 N032-N037 N052-N057 N250 Z490-Z492 Z940 Z992",
    ),
    (
        "cancer",
        "cancer",
        2,
        "140-172 1740-1958 200-208 2386",
        "C00-C26 C30-C34 C37-C41 C43 C45-C58 C60-C76 C81-C85 C88 C90-C97",
    ),
    (
        "severe liver disease",
        "liver",
        3,
        "4560-4562 5722-5728",
        "I850 I859 I864 I982 K704 K711 K721 K729 K765-K767",
    ),
    ("metastatic cancer", "cancer", 6, "196-199", "C77-C80"),
    ("AIDS", "aids", 6, "042-044", "B20-B22 B24"),
)
"""(group, slot, weight, ICD-9 prefixes, ICD-10 prefixes); of a slot the heaviest group counts."""


def expand(prefixes: str) -> list[str]:
    """Writes ranges of prefixes out: ``"I60-I62"`` to ``["I60", "I61", "I62"]``."""
    expanded = []
    for prefix in prefixes.split():
        if match := _RANGE.fullmatch(prefix):
            letter, first, last = match.groups()
            numbers = range(int(first), int(last) + 1)
            expanded += [f"{letter}{number:0{len(first)}d}" for number in numbers]
        else:
            expanded.append(prefix)
    return expanded


def charlson_rows() -> list[tuple[str, str, int, str, int]]:
    """(group, slot, ICD version, prefix, weight) of every code prefix."""
    return [
        (group, slot, version, prefix, weight)
        for group, slot, weight, *by_version in GROUPS
        for version, prefixes in zip((9, 10), by_version, strict=True)
        for prefix in expand(prefixes)
    ]
