-- Vital signs, coma score, respiratory support and weights.
-- Inputs:  clif_vitals, clif_patient_assessments, clif_respiratory_support, clif_categories
--          (source, category, itemid, text), hospitalizations, stays; variable lead_hours
-- Output:  as icu/chartevents
-- Rule:    rows of the ICU stay; weights from hospital admission on, devices from lead_hours before
--          the stay on. A verbal response of 0 is untestable. Where a mode stands without a device,
--          a controlled one means an invasive ventilator, any other the device before.
-- Source:  clifpy, waterfall of respiratory support, for the last rule.
WITH supports AS (
    SELECT *, coalesce(lower(device_category), CASE
            WHEN lower(mode_category) IN (SELECT category FROM clif_categories
                WHERE source = 'controlled modes') THEN 'imv'
            WHEN mode_category IS NOT NULL THEN lower(last_value(device_category IGNORE NULLS)
                OVER (PARTITION BY hospitalization_id ORDER BY recorded_dttm))
        END) AS device
    FROM clif_respiratory_support
    WHERE hospitalization_id IN (
        SELECT hospitalization_id FROM hospitalizations SEMI JOIN stays USING (hadm_id))
), scores AS (
    SELECT *, lower(assessment_category) AS category,
        category = 'gcs_verbal' AND numerical_value = 0 AS untestable
    FROM clif_patient_assessments
), readings AS (
    SELECT v.hospitalization_id, v.recorded_dttm AS time, c.source, c.category, c.itemid,
        NULL AS text, v.vital_value AS number
    FROM clif_vitals v
    JOIN clif_categories c ON c.source = 'vitals' AND c.category = lower(v.vital_category)
    UNION ALL
    SELECT a.hospitalization_id, a.recorded_dttm, c.source, c.category, c.itemid,
        CASE WHEN untestable THEN 'No Response-ETT' END,
        CASE WHEN untestable THEN 1 ELSE a.numerical_value END
    FROM scores a
    JOIN clif_categories c ON c.source = 'assessments' AND c.category = a.category
    UNION ALL
    SELECT r.hospitalization_id, r.recorded_dttm, c.source, c.category, c.itemid, NULL,
        CASE c.category WHEN 'fio2_set' THEN r.fio2_set WHEN 'lpm_set' THEN r.lpm_set
            ELSE r.resp_rate_obs END
    FROM supports r
    JOIN clif_categories c ON c.source = 'settings'
    UNION ALL
    SELECT r.hospitalization_id, r.recorded_dttm, c.source, c.category, c.itemid, c.text, NULL
    FROM supports r
    JOIN clif_categories c ON c.source = 'devices' AND c.category = r.device
)
SELECT s.subject_id, s.stay_id, r.itemid, r.time + h.clock AS charttime, r.text AS value,
    r.number AS valuenum
FROM readings r
JOIN hospitalizations h USING (hospitalization_id)
JOIN stays s ON s.hadm_id = h.hadm_id AND r.time + h.clock < s.outtime
    AND (r.category = 'weight_kg' OR r.time + h.clock >= s.intime - CASE r.source
        WHEN 'devices' THEN to_hours(getvariable('lead_hours')) ELSE INTERVAL 0 HOUR END)
WHERE r.number IS NOT NULL OR r.text IS NOT NULL
