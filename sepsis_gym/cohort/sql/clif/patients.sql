-- Patients.
-- Inputs:  clif_patient, hospitalizations; variable timezone
-- Output:  as hosp/patients; the age stands with the admission, dod is the local date
SELECT h.subject_id, CASE lower(p.sex_category) WHEN 'male' THEN 'M' WHEN 'female' THEN 'F'
        ELSE 'U' END AS gender,
    NULL::INTEGER AS anchor_age, NULL::INTEGER AS anchor_year,
    (p.death_dttm AT TIME ZONE 'UTC' AT TIME ZONE getvariable('timezone'))::DATE AS dod
FROM clif_patient p
JOIN (SELECT DISTINCT patient_id, subject_id FROM hospitalizations) h USING (patient_id)
