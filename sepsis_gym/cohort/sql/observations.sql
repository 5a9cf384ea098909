-- Each feature in each bin: the mean; readings of one moment (two cuffs, two tubes) are averaged
-- first. Urine, a sum, has its own concept.
-- Inputs:  stays, chart_readings, lab_readings, urine_bins, features, items; variables step_hours,
--          labs_at ('reported' in the causal alignment: a result counts once it can be seen; else
--          'drawn')
-- Output:  stay_id, bin, feature, value (feature table's unit)
WITH charted_labs AS (
    FROM lab_readings
    WHERE feature IN (SELECT role FROM items WHERE source = 'chartevents')
), readings AS (
    SELECT s.stay_id, s.intime, s.ends_at, c.feature, c.time, c.value
    FROM chart_readings c
    JOIN stays s USING (stay_id)
    -- A nurse's copy of a laboratory value would show the result before the laboratory does.
    ANTI JOIN charted_labs l ON l.subject_id = c.subject_id AND l.feature = c.feature
        AND l.drawn_at = c.time AND l.value = c.value
    WHERE c.in_range AND NOT c.untestable
    UNION ALL
    SELECT s.stay_id, s.intime, s.ends_at, l.feature,
        CASE getvariable('labs_at') WHEN 'reported' THEN l.reported_at ELSE l.drawn_at END AS time,
        l.value
    FROM lab_readings l
    JOIN stays s USING (subject_id)
    WHERE l.in_range AND l.usable
), moments AS (
    SELECT stay_id, intime, feature, time, avg(value) AS value
    FROM readings
    WHERE time >= intime AND time < ends_at
    GROUP BY ALL
)
SELECT stay_id, floor(epoch(time - intime) / (3600 * getvariable('step_hours')))::INTEGER AS bin,
    feature, avg(value) AS value
FROM moments
GROUP BY ALL
UNION ALL
SELECT u.stay_id, u.bin, f.name, u.value
FROM urine_bins u
JOIN features f ON f.kind = 'urine'
WHERE u.in_range
