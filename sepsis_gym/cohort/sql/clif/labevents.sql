-- Laboratory results in the features' units.
-- Inputs:  clif_labs, clif_lab_units (itemid, arterial, factor by lab_category and reference_unit),
--          hospitalizations, stays; variable specimen_item
-- Output:  as hosp/labevents
-- Rule:    drawn at lab_collect_dttm, seen at lab_result_dttm. Arterial gases of one moment are one
--          tube, marked 'ART.'.
WITH results AS (
    SELECT h.subject_id, h.hadm_id, u.itemid, u.arterial,
        coalesce(l.lab_collect_dttm, l.lab_result_dttm) + h.clock AS charttime,
        l.lab_result_dttm + h.clock AS storetime, l.lab_value AS value,
        coalesce(l.lab_value_numeric, TRY_CAST(l.lab_value AS DOUBLE)) * u.factor AS valuenum
    FROM clif_labs l
    JOIN clif_lab_units u ON u.factor IS NOT NULL AND u.lab_category = l.lab_category
        AND u.reference_unit IS NOT DISTINCT FROM l.reference_unit
    JOIN hospitalizations h USING (hospitalization_id)
    WHERE h.subject_id IN (SELECT subject_id FROM stays)
), tubes AS (
    SELECT subject_id, hadm_id, charttime, row_number() OVER (ORDER BY hadm_id, charttime)
        AS specimen_id
    FROM results
    WHERE arterial
    GROUP BY subject_id, hadm_id, charttime
)
SELECT r.subject_id, t.specimen_id, r.itemid, r.charttime, r.storetime, r.value, r.valuenum
FROM results r
LEFT JOIN tubes t ON r.arterial AND t.hadm_id = r.hadm_id AND t.charttime = r.charttime
UNION ALL
SELECT subject_id, specimen_id, getvariable('specimen_item'), charttime, charttime, 'ART.', NULL
FROM tubes
