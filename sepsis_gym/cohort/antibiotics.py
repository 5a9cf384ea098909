"""Antibiotic names and infection codes: what makes an infection suspected.

The names are those of systemic antibacterials and antifungals, generic and brand, as free text of
hosp/prescriptions spells them; they include those MIT-LCP/mimic-code lists. The infection codes
follow Angus et al. 2001, carried over to ICD-10.
"""

import re

from sepsis_gym.cohort.charlson import expand

_NAMES = """
    amikacin amikin amoxicillin amphotericin ampicillin ancef anidulafungin augmentin avelox
    avibactam azactam azithromycin aztreonam bactocill bactrim bactroban bethkis bezlotoxumab biaxin
    bicillin caspofungin cayston cedax cefaclor cefadroxil cefazolin cefdinir cefditoren cefepime
    cefiderocol cefixime cefotan cefotaxime cefotetan cefoxitin cefpodoxime cefprozil ceftaroline
    ceftazidime ceftibuten ceftin ceftobiprole ceftolozane ceftriaxone cefuroxime cephalexin
    chloramphenicol cipro claforan clarithromycin clavulan cleocin clindamycin colistimethate
    colistin cubicin dalbavancin daptomycin dicloxacillin doripenem doxycycline duricef dynacin
    eravacycline ertapenem ery-tab erythrocin erythromycin factive fidaxomicin flagyl flucytosine
    fortaz fosfomycin furadantin garamycin gatifloxacin gemifloxacin gentamicin imipenem invanz
    isavuconazonium kanamycin keflex kefzol ketek lefamulin levaquin levofloxacin lincocin
    lincomycin linezolid macrobid macrodantin maxipime mefoxin meropenem merrem metronidazole
    micafungin minocin minocycline monurol moxifloxacin mupirocin nafcillin neomycin nitrofurantoin
    norfloxacin ofloxacin omadacycline omnicef oritavancin oxacillin pediazole penicillin pfizerpen
    piperacillin plazomicin polymyxin posaconazole primaxin primsol quinupristin rifadin rifampin
    rocephin septra smz-tmp streptomycin sulbactam sulfadiazine sulfamethoxazole sulfatrim
    sulfisoxazole suprax synercid tazicef tazobactam tedizolid telavancin telithromycin teflaro
    tetracycline ticarcillin tigecycline timentin tobramycin trimethoprim unasyn vabomere vancocin
    vancomycin vantin vibativ vibramycin voriconazole xerava zerbaxa zinacef zithromax zosyn zyvox
"""
ANTIBIOTIC_NAMES: tuple[str, ...] = tuple(_NAMES.split())

EXCLUDED_ROUTES: tuple[str, ...] = ("OU", "OS", "OD", "AU", "AS", "AD", "TP", "%ear%", "%eye%")
"""Eye, ear and skin; ``%`` stands for any text, case does not matter."""
EXCLUDED_NAMES: tuple[str, ...] = ("%cream%", "%desensitization%", "%ophth oint%", "%gel%")

INFECTION_ICD9 = (
    "001-005 008-018 020-027 030-041 090-098 100-104 110-112 114-118 320 322 324 325 420 421 "
    "461-465 481 482 485 486 494 510 513 540-542 56201 56203 56211 56213 566 567 5695 56983 "
    "5720 5721 5750 590 597 5990 601 614-616 681-683 686 7110 730 7907 9966 9985 9993 99591 99592 "
    "78552"
)
INFECTION_ICD10 = (
    "A00-A09 A15-A28 A30-A49 A50-A53 A54-A58 A65-A69 B35-B49 G00-G06 G08 H70 I301 I33 I38 I39 "
    "J01-J06 J13-J18 J20 J85 J86 J440 J690 K35-K37 K570 K572 K574 K578 K61 K630 K631 K650 K651 "
    "K652 K658 K659 K67 K750 K751 K810 K830 L00-L05 L08 M00 M01 M46 M86 N10 N12 N151 N159 N136 "
    "N300 N308 N309 N34 N390 N41 N70-N74 R6520 R6521 R7881 T80211 T802 T814 T826 T827 T835 T836 "
    "T845-T847 T857"
)


def antibiotic_pattern() -> str:
    """Regular expression that finds any of the names in a lower-case drug text."""
    return "|".join(re.escape(name) for name in ANTIBIOTIC_NAMES)


def infection_rows() -> list[tuple[int, str]]:
    """(ICD version, prefix) of every infection code."""
    by_version = ((9, INFECTION_ICD9), (10, INFECTION_ICD10))
    return [(version, prefix) for version, text in by_version for prefix in expand(text)]
