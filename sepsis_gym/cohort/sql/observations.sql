-- Each feature in each bin: the mean; readings of one moment (two cuffs, two tubes) are averaged
-- first. Negative bins lie before ICU admission, as far back as a value is held. Urine, a sum, has
-- its own concept.
-- Inputs:  stays, chart_readings, lab_readings, fio2_fallback, urine_bins, features; variables
--          step_hours, last_bin, labs_at ('reported' in the causal alignment: a result counts once
--          it can be seen; else 'drawn')
-- Output:  stay_id, bin, feature, value (feature table's unit)
-- Rule:    a fallback (rank 1, then 2) counts only in bins without anything better. Sums run over
--          decimals, so that their order cannot change the last digit.
WITH readings AS (
    SELECT stay_id, feature, time, value, 0 AS rank
    FROM chart_readings
    WHERE in_range AND NOT untestable
    UNION ALL
    SELECT s.stay_id, l.feature,
        CASE getvariable('labs_at') WHEN 'reported' THEN l.reported_at ELSE l.drawn_at END,
        l.value, 0
    FROM lab_readings l
    JOIN stays s USING (subject_id)
    WHERE l.in_range AND l.usable
    UNION ALL
    SELECT stay_id, 'fio2', time, value, rank FROM fio2_fallback
), moments AS (
    SELECT r.stay_id, f.position, r.time, r.rank,  -- numbers group faster than names
        floor(epoch(r.time - s.intime) / (3600 * getvariable('step_hours')))::INTEGER AS bin,
        avg(r.value::DECIMAL(18, 6)) AS value
    FROM readings r
    JOIN stays s USING (stay_id)
    JOIN features f ON f.name = r.feature
    WHERE r.time >= s.intime - to_hours(f.hold_hours) AND r.time < s.ends_at
    GROUP BY ALL
), means AS (
    SELECT stay_id, bin, position, rank, avg(value::DECIMAL(18, 6)) AS value
    FROM moments
    WHERE bin <= getvariable('last_bin')
    GROUP BY ALL
)
SELECT m.stay_id, m.bin, f.name AS feature, arg_min(m.value, m.rank) AS value
FROM means m
JOIN features f USING (position)
GROUP BY ALL
UNION ALL
SELECT u.stay_id, u.bin, f.name, u.value
FROM urine_bins u
JOIN features f ON f.kind = 'urine'
WHERE u.in_range
