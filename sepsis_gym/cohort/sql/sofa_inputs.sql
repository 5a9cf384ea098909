-- Worst value of each SOFA input in each hour.
-- Inputs:  hours, chart_readings, gcs, lab_readings, blood_gases, ventilation, urine_24h, inputs
-- Output:  stay_id, hour, and in clinical units: meanbp, gcs, bilirubin_total, creatinine,
--          platelet, urine_24h, pao2_fio2_ventilated, pao2_fio2_unventilated, and the rates
--          (ug/kg/min) of norepinephrine or epinephrine, dopamine, dobutamine that run as it ends
-- Rule:    labs count when drawn: this is a label, not what the bedside knew.
-- Source:  MIT-LCP/mimic-code, concept "sofa".
WITH grid AS (
    SELECT stay_id, subject_id, ends_at AS first_end FROM hours WHERE hour = 0
), stay_points AS (
    SELECT stay_id, time, 'meanbp' AS what, avg(value::DECIMAL(18, 6)) AS value
    FROM chart_readings
    WHERE feature = 'meanbp' AND in_range
    GROUP BY stay_id, time
    UNION ALL SELECT stay_id, time, 'gcs', gcs FROM gcs
    UNION ALL SELECT stay_id, time, 'urine', urine_24h FROM urine_24h
), patient_points AS (
    SELECT subject_id, drawn_at AS time, feature AS what, value
    FROM lab_readings
    WHERE feature IN ('bilirubin_total', 'creatinine', 'platelet') AND in_range
    UNION ALL SELECT subject_id, time, 'ratio', pao2_fio2 FROM blood_gases
), points AS (
    SELECT g.stay_id, g.first_end, p.time, p.what, p.value
    FROM stay_points p JOIN grid g USING (stay_id)
    UNION ALL
    SELECT g.stay_id, g.first_end, p.time, p.what, p.value
    FROM patient_points p JOIN grid g USING (subject_id)
), ventilated AS (
    SELECT p.stay_id, p.time, p.what
    FROM points p
    SEMI JOIN ventilation v ON v.stay_id = p.stay_id AND v.status = 'invasive'
        AND p.time >= v.starttime AND p.time <= v.endtime
    WHERE p.what = 'ratio'
), marked AS (
    SELECT p.stay_id, p.value, ceil(epoch(p.time - p.first_end) / 3600)::BIGINT AS hour,
        CASE WHEN p.what <> 'ratio' THEN p.what
            WHEN v.stay_id IS NULL THEN 'unventilated' ELSE 'ventilated' END AS what
    FROM points p
    LEFT JOIN (SELECT DISTINCT * FROM ventilated) v USING (stay_id, time, what)
), worst AS (
    SELECT stay_id, hour,
        min(value) FILTER (what = 'meanbp') AS meanbp,
        min(value) FILTER (what = 'gcs') AS gcs,
        max(value) FILTER (what = 'urine') AS urine_24h,
        max(value) FILTER (what = 'bilirubin_total') AS bilirubin_total,
        max(value) FILTER (what = 'creatinine') AS creatinine,
        min(value) FILTER (what = 'platelet') AS platelet,
        min(value) FILTER (what = 'ventilated') AS pao2_fio2_ventilated,
        min(value) FILTER (what = 'unventilated') AS pao2_fio2_unventilated
    FROM marked
    GROUP BY stay_id, hour
), running AS (
    SELECT h.stay_id, h.hour,
        max(i.rate) FILTER (i.role IN ('norepinephrine', 'epinephrine')) AS norepinephrine,
        max(i.rate) FILTER (i.role = 'dopamine') AS dopamine,
        max(i.rate) FILTER (i.role = 'dobutamine') AS dobutamine
    FROM hours h
    JOIN inputs i ON i.stay_id = h.stay_id AND h.ends_at > i.starttime AND h.ends_at <= i.endtime
    WHERE i.dropped IS NULL
    GROUP BY h.stay_id, h.hour
)
SELECT h.stay_id, h.hour, w.* EXCLUDE (stay_id, hour), r.* EXCLUDE (stay_id, hour)
FROM hours h
LEFT JOIN worst w USING (stay_id, hour)
LEFT JOIN running r USING (stay_id, hour)
ORDER BY h.stay_id, h.hour
