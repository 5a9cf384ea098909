-- Hospital admissions.
-- Inputs:  clif_hospitalization, clif_patient, hospitalizations
-- Output:  as hosp/admissions, with the age at this admission
-- Rule:    a patient discharged as expired died at death_dttm; at discharge where it is missing, or
--          is that day's local midnight: then it is a date.
WITH timed AS (
    SELECT h.hadm_id, h.admission_dttm + h.clock AS admittime,
        h.discharge_dttm + h.clock AS dischtime, p.death_dttm + h.clock AS death,
        coalesce(lower(c.discharge_category) = 'expired', FALSE) AS expired,
        c.age_at_admission AS age
    FROM hospitalizations h
    JOIN clif_hospitalization c USING (hospitalization_id)
    JOIN clif_patient p ON p.patient_id = h.patient_id
)
SELECT hadm_id, admittime, dischtime,
    CASE WHEN NOT expired THEN NULL
        WHEN death IS NULL OR death = date_trunc('day', dischtime) THEN dischtime
        ELSE death END AS deathtime,
    expired::INTEGER AS hospital_expire_flag, age
FROM timed
