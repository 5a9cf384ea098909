-- What each bin adds to the observations: ventilation, doses, 24-h SOFA.
-- Inputs:  bins, ventilation, fluids, vasopressors, sofa; variable step_hours
-- Output:  stay_id, bin, ventilated, fluid_ml, norepinephrine_equivalent (highest, ug/kg/min),
--          sofa_24h (highest of the hours that end in the bin; NULL without any)
WITH ventilated AS (
    SELECT DISTINCT b.stay_id, b.bin
    FROM bins b
    JOIN ventilation v ON v.stay_id = b.stay_id AND v.starttime < b.ends_at
        AND v.endtime > b.starts_at
    WHERE v.status IN ('invasive', 'tracheostomy')
), scored AS (
    SELECT b.stay_id, b.bin, max(s.sofa_24h) AS sofa_24h
    FROM bins b
    JOIN sofa s ON s.stay_id = b.stay_id AND s.ends_at > b.starts_at
        AND s.ends_at <= b.starts_at + to_hours(getvariable('step_hours'))
    GROUP BY b.stay_id, b.bin
)
SELECT b.stay_id, b.bin, v.stay_id IS NOT NULL AS ventilated,
    coalesce(f.volume_ml, 0) AS fluid_ml,
    coalesce(p.highest, 0) AS norepinephrine_equivalent,
    s.sofa_24h
FROM bins b
LEFT JOIN ventilated v USING (stay_id, bin)
LEFT JOIN fluids f USING (stay_id, bin)
LEFT JOIN vasopressors p USING (stay_id, bin)
LEFT JOIN scored s USING (stay_id, bin)
