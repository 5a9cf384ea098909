-- Urine per bin at the pace of mL per 4 h; no row where nothing was charted (not the same as zero).
-- Inputs:  stays, bins, urine, features; variables step_hours, quirks
-- Output:  stay_id, bin, value (mL per 4 h, at least the feature's lower limit), clipped: was below
--          it, more irrigant in than out; in_range: not above the upper limit.
-- Quirk:   uncharted_urine_is_0.
WITH sums AS (
    SELECT s.stay_id,
        sum(u.volume_ml::DECIMAL(18, 6))::DOUBLE * 4 / getvariable('step_hours') AS pace,
        floor(epoch(u.charttime - s.intime) / (3600 * getvariable('step_hours')))::INTEGER AS bin
    FROM urine u
    JOIN stays s USING (stay_id)
    WHERE u.charttime >= s.intime AND u.charttime < s.ends_at
    GROUP BY s.stay_id, bin
)
SELECT stay_id, bin, greatest(pace, f.low) AS value, pace < f.low AS clipped,
    pace <= f.high AS in_range
FROM sums
JOIN features f ON f.kind = 'urine'
UNION ALL
SELECT stay_id, bin, 0, FALSE, TRUE
FROM bins
ANTI JOIN sums USING (stay_id, bin)
WHERE list_contains(getvariable('quirks'), 'uncharted_urine_is_0')
