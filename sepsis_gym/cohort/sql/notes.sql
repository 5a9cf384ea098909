-- Counts, over the stays of the cohort, of what was dropped, clipped or repaired.
-- Inputs:  stays, bins, chart_readings, lab_readings, fio2_fallback, observations, outputevents,
--          urine_bins, inputs, weight, ventilation, sepsis
-- Output:  note, n
WITH charted AS (FROM chart_readings SEMI JOIN stays USING (stay_id)),
    labs AS (FROM lab_readings l SEMI JOIN stays s ON s.subject_id = l.subject_id
        AND l.drawn_at < s.ends_at AND l.reported_at >= s.intime),
    outputs AS (FROM outputevents SEMI JOIN stays USING (stay_id)),
    urine_sums AS (FROM urine_bins SEMI JOIN stays USING (stay_id)),
    given AS (FROM inputs SEMI JOIN stays USING (stay_id))
SELECT 'chart_rows_out_of_range' AS note, count(*) AS n FROM charted WHERE NOT in_range
UNION ALL SELECT 'chart_rows_outside_the_stay', count(*) FROM charted JOIN stays USING (stay_id)
    WHERE time < intime OR time >= ends_at
UNION ALL SELECT 'celsius_rows_converted_from_fahrenheit', count(*) FROM charted
    WHERE repaired AND in_range
UNION ALL SELECT 'verbal_responses_untestable', count(*) FROM charted WHERE untestable
UNION ALL SELECT 'lab_rows_out_of_range', count(*) FROM labs WHERE NOT in_range
UNION ALL SELECT 'gas_rows_not_arterial', count(*) FROM labs WHERE in_range AND NOT usable
UNION ALL SELECT 'urine_rows_not_finite', count(*) FROM outputs WHERE NOT isfinite(value)
UNION ALL SELECT 'urine_rows_repeated', coalesce(sum(n - 1), 0)::BIGINT
    FROM (SELECT count(*) AS n FROM outputs GROUP BY stay_id, charttime, itemid, value)
UNION ALL SELECT 'urine_bins_clipped', count(*) FROM urine_sums WHERE clipped
UNION ALL SELECT 'urine_bins_out_of_range', count(*) FROM urine_sums WHERE NOT in_range
UNION ALL SELECT 'vasopressor_rows_capped', count(*) FROM given WHERE capped AND dropped IS NULL
UNION ALL SELECT 'input_rows_' || dropped, count(*) FROM given WHERE dropped IS NOT NULL
    GROUP BY dropped
UNION ALL SELECT 'bins_with_fio2_noted_with_a_gas_or_estimated', count(*)
    FROM (SELECT DISTINCT f.stay_id, b.bin FROM fio2_fallback f JOIN bins b
        ON b.stay_id = f.stay_id AND f.time >= b.starts_at AND f.time < b.ends_at
        SEMI JOIN stays s ON s.stay_id = f.stay_id
        ANTI JOIN charted c ON c.stay_id = b.stay_id AND c.feature = 'fio2' AND c.in_range
            AND c.time >= b.starts_at AND c.time < b.ends_at)
UNION ALL SELECT 'values_known_from_before_the_stay', count(DISTINCT (stay_id, feature))
    FROM observations SEMI JOIN stays USING (stay_id) WHERE bin < 0
UNION ALL SELECT 'stays_without_weight', count(*) FROM weight SEMI JOIN stays USING (stay_id)
    WHERE imputed
UNION ALL SELECT 'stays_ventilated_by_procedure', count(DISTINCT stay_id)
    FROM ventilation SEMI JOIN stays USING (stay_id) WHERE from_procedure
UNION ALL SELECT 'stays_by_fallback', count(*) FROM sepsis SEMI JOIN stays USING (stay_id)
    WHERE NOT sepsis3
