-- Counts, over the stays of the cohort, of what reading CLIF dropped or assumed.
-- Inputs:  stays, patients, hospitalizations, clif_labs, clif_lab_units, clif_doses,
--          inputevents, clif_respiratory_support, clif_categories, diagnoses_icd
-- Output:  note, n
WITH mine AS (FROM hospitalizations SEMI JOIN stays USING (hadm_id)), labs AS (
    SELECT l.*, u.factor
    FROM clif_labs l
    SEMI JOIN mine USING (hospitalization_id)
    JOIN clif_lab_units u ON u.lab_category = l.lab_category
        AND u.reference_unit IS NOT DISTINCT FROM l.reference_unit
)
SELECT 'clif_lab_rows_of_unknown_unit' AS note, count(*) AS n FROM labs WHERE factor IS NULL
UNION ALL SELECT 'clif_lab_rows_without_number', count(*) FROM labs
    WHERE coalesce(lab_value_numeric, TRY_CAST(lab_value AS DOUBLE)) IS NULL
UNION ALL SELECT 'clif_infusion_rows_without_dose', count(*) FROM clif_doses
    SEMI JOIN mine USING (hadm_id)
    WHERE continuous AND itemid IS NOT NULL AND dose IS NULL AND action IS DISTINCT FROM 'stop'
UNION ALL SELECT 'clif_infusions_of_assumed_end', count(*) FROM inputevents
    SEMI JOIN stays USING (stay_id) WHERE open_ended
UNION ALL SELECT 'clif_respiratory_rows_of_unknown_device', count(*) FROM clif_respiratory_support
    SEMI JOIN mine USING (hospitalization_id)
    WHERE lower(device_category) NOT IN (
        SELECT category FROM clif_categories WHERE source = 'devices' UNION ALL SELECT 'other')
UNION ALL SELECT 'clif_diagnoses_of_unknown_format', count(*) FROM diagnoses_icd
    SEMI JOIN stays USING (hadm_id) WHERE icd_version IS NULL
UNION ALL SELECT 'clif_stays_of_unknown_sex', count(*) FROM stays JOIN patients USING (subject_id)
    WHERE gender = 'U'
