-- Diagnosis codes.
-- Inputs:  clif_hospital_diagnosis, hospitalizations, stays
-- Output:  as hosp/diagnoses_icd; icd_version NULL where the format names neither 9 nor 10
SELECT h.hadm_id, upper(replace(trim(d.diagnosis_code), '.', '')) AS icd_code,
    regexp_extract(d.diagnosis_code_format, '(?i)^ICD-?(9|10)', 1) AS version_text,
    TRY_CAST(version_text AS INTEGER) AS icd_version
FROM clif_hospital_diagnosis d
JOIN hospitalizations h USING (hospitalization_id)
WHERE h.hadm_id IN (SELECT hadm_id FROM stays)
