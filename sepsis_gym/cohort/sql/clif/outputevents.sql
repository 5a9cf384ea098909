-- Urine, from the output table (later versions) or the intake_output concept (2.1).
-- Inputs:  clif_output, clif_intake_output, hospitalizations, stays
-- Output:  as icu/outputevents
WITH volumes AS (
    SELECT hospitalization_id, recorded_dttm AS time, output_value AS ml
    FROM clif_output
    WHERE lower(output_group) = 'urine' AND coalesce(lower(output_unit) = 'ml', TRUE)
    UNION ALL
    SELECT hospitalization_id, intake_dttm, amount
    FROM clif_intake_output
    WHERE in_out_flag = 0 AND regexp_matches(lower(fluid_name), 'urine|urethral|foley|void')
)
SELECT s.stay_id, 226559 AS itemid, v.time + h.clock AS charttime, v.ml AS value
FROM volumes v
JOIN hospitalizations h USING (hospitalization_id)
JOIN stays s ON s.hadm_id = h.hadm_id AND v.time + h.clock >= s.intime
    AND v.time + h.clock < s.outtime
