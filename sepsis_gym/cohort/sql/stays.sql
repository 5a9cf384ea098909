-- One row per ICU stay: who, when, how it ended.
-- Inputs:  icustays, admissions, patients
-- Output:  age (years), hours (h in the ICU), ends_at = the earlier of ICU discharge and death,
--          admission_order (1 = the patient's first ICU stay), died_90d by dates from ICU admission
--          (dod has no time of day, so a death on the day of admission is day 0).
-- Rule:    in before out and two years in the ICU at most: beyond that a clock was wrong.
WITH timed AS (
    SELECT i.stay_id, i.subject_id, i.hadm_id, i.intime, i.outtime, a.admittime,
        a.dischtime, a.deathtime,
        p.gender = 'M' AS male,
        coalesce(a.age, p.anchor_age + year(a.admittime) - p.anchor_year) AS age,
        a.hospital_expire_flag = 1 AS died_in_hospital,
        coalesce(p.dod, a.deathtime::DATE) AS death_date,
        -- A death noted before ICU admission is an error of the clock and cannot end the stay.
        CASE WHEN a.deathtime > i.intime THEN least(i.outtime, a.deathtime) ELSE i.outtime END
            AS ends_at,
        row_number() OVER (PARTITION BY i.subject_id ORDER BY i.intime, i.stay_id)
            AS admission_order
    FROM icustays i
    JOIN admissions a USING (hadm_id)
    JOIN patients p ON p.subject_id = i.subject_id
    WHERE i.intime < i.outtime AND i.outtime <= i.intime + INTERVAL 2 YEAR
)
SELECT * EXCLUDE (death_date),
    epoch(ends_at - intime) / 3600 AS hours,
    coalesce(date_diff('day', intime::DATE, death_date) BETWEEN 0 AND 90, FALSE) AS died_90d,
    coalesce(deathtime > intime AND deathtime <= ends_at, FALSE) AS died_in_icu
FROM timed
