-- What each bin adds to the observations: ventilation, doses, 24-h SOFA.
-- Inputs:  bins, ventilated, chart_readings, fluids, vasopressors, sofa; variable step_hours
-- Output:  stay_id, bin, ventilated, verbal_untestable, fluid_ml, norepinephrine_equivalent
--          (highest, ug/kg/min), norepinephrine_equivalent_mean (over time), sofa_24h (highest of
--          the hours that end in the bin; NULL without any)
WITH untestable AS (
    SELECT DISTINCT b.stay_id, b.bin
    FROM bins b
    JOIN chart_readings c ON c.stay_id = b.stay_id AND c.time >= b.starts_at AND c.time < b.ends_at
    WHERE c.untestable
), scored AS (
    SELECT b.stay_id, b.bin, max(s.sofa_24h) AS sofa_24h
    FROM bins b
    JOIN sofa s ON s.stay_id = b.stay_id AND s.ends_at > b.starts_at
        AND s.ends_at <= b.starts_at + to_hours(getvariable('step_hours'))
    GROUP BY b.stay_id, b.bin
)
SELECT b.stay_id, b.bin, v.stay_id IS NOT NULL AS ventilated,
    u.stay_id IS NOT NULL AS verbal_untestable,
    coalesce(f.volume_ml, 0) AS fluid_ml,
    coalesce(p.highest, 0) AS norepinephrine_equivalent,
    coalesce(p.mean, 0) AS norepinephrine_equivalent_mean,
    s.sofa_24h
FROM bins b
LEFT JOIN ventilated v USING (stay_id, bin)
LEFT JOIN untestable u USING (stay_id, bin)
LEFT JOIN fluids f USING (stay_id, bin)
LEFT JOIN vasopressors p USING (stay_id, bin)
LEFT JOIN scored s USING (stay_id, bin)
