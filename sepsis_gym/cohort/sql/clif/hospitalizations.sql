-- CLIF hospitalizations under integer ids, each with its clock.
-- Inputs:  clif_hospitalization, clif_patient; variable timezone
-- Output:  hospitalization_id, hadm_id, subject_id, clock (add it to a UTC time), admission_dttm,
--          discharge_dttm (UTC)
-- Rule:    ids that are all numbers stay the same numbers; others are counted in text order. The
--          clock is local time at admission for the whole stay: summer time stretches no interval.
WITH numbered AS (
    SELECT hospitalization_id, admission_dttm, discharge_dttm,
        patient_id, bool_and(regexp_full_match(patient_id, '[1-9]\d{0,17}')) OVER ()
            AS patient_numbers,
        bool_and(regexp_full_match(hospitalization_id, '[1-9]\d{0,17}')) OVER () AS numbers,
        dense_rank() OVER (ORDER BY patient_id) AS patient_rank,
        dense_rank() OVER (ORDER BY hospitalization_id) AS hospitalization_rank
    FROM clif_hospitalization
    SEMI JOIN clif_patient USING (patient_id)
)
SELECT hospitalization_id, patient_id, admission_dttm, discharge_dttm,
    CASE WHEN numbers THEN TRY_CAST(hospitalization_id AS BIGINT) ELSE hospitalization_rank END
        AS hadm_id,
    CASE WHEN patient_numbers THEN TRY_CAST(patient_id AS BIGINT) ELSE patient_rank END
        AS subject_id,
    (admission_dttm AT TIME ZONE 'UTC' AT TIME ZONE getvariable('timezone')) - admission_dttm
        AS clock
FROM numbered
