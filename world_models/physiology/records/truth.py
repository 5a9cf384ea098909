"""What a simulated record hides: hourly doses and states, traits and true risks of each stay."""

from dataclasses import fields

import numpy as np
import pyarrow as pa

from sepsis_gym.dynamics import End
from world_models.physiology.courses import FLAGS, HIDDEN, HOURS_BEFORE
from world_models.physiology.people import People
from world_models.physiology.records.diagnoses import coded_charlson
from world_models.physiology.records.infection import Suspicion
from world_models.physiology.records.stays import Stays, age_years


def hourly_truth(stays: Stays) -> pa.Table:
    """One row per stay and simulated hour: doses, co-interventions and hidden states.

    ``bolus_ml`` is given within the hour, ``carrier_ml`` over it, ``dose`` (ug/kg/min) through it;
    flags and states are those at its start.
    """
    courses = stays.courses
    stay, hour = np.nonzero((np.arange(len(courses.dose))[:, None] < courses.end_hour).T)
    columns = {
        "stay_id": stays.stay_id[stay],
        "hour": hour.astype(np.int16),
        "bolus_ml": 1000 * courses.bolus_l[hour, stay],
        "carrier_ml": 1000 * courses.carrier_l_h[hour, stay],
        "dose": courses.dose[hour, stay],
    }
    flags, hidden = courses.flags[hour, stay], courses.hidden[hour, stay]
    columns |= {name: flags[:, i] > 0 for i, name in enumerate(FLAGS)}
    columns |= {name: hidden[:, i] for i, name in enumerate(HIDDEN)}
    return pa.table(columns)


def stay_truth(stays: Stays, suspicion: Suspicion) -> pa.Table:
    """One row per stay: traits, true risks, and how the stay ended.

    ``risk`` is the expected 90-day death of the whole course, ``late_risk`` that of those who left
    the simulated part alive. ``age_coded`` and ``charlson_coded`` are what the books hold.
    """
    courses, people, fates = stays.courses, stays.courses.people, stays.fates
    columns = {
        "stay_id": stays.stay_id,
        **{item.name: getattr(people, item.name) for item in fields(People)},
        "age_coded": age_years(people),
        "charlson_coded": coded_charlson(people),
        "risk": courses.risk,
        "late_risk": courses.late_risk,
        "end": np.array([end.name.lower() for end in End])[courses.end].tolist(),
        "end_hour": courses.end_hour,
        "icu_hours": fates.icu_hours,
        "died_in_hospital": fates.died_in_hospital,
        "died_90d": fates.died_90d,
        "onset_hour": np.full(len(stays), -HOURS_BEFORE, np.float32),
        "first_antibiotic_hour": suspicion.first_hour,
        "effective_antibiotic_hour": suspicion.effective_hour,
    }
    return pa.table(columns)
