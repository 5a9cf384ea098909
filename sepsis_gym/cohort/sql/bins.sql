-- The clock: bin b of a stay is [intime + b steps, intime + (b + 1) steps), the last one cut short.
-- Inputs:  stays; variables step_hours, last_bin
-- Output:  stay_id, bin, starts_at, ends_at
SELECT stay_id, bin::INTEGER AS bin,
    intime + to_hours(bin * getvariable('step_hours')) AS starts_at,
    least(ends_at, intime + to_hours((bin + 1) * getvariable('step_hours'))) AS ends_at
FROM (
    SELECT stay_id, intime, ends_at,
        unnest(range(least(ceil(hours / getvariable('step_hours')),
            getvariable('last_bin') + 1)::BIGINT)) AS bin
    FROM stays
)
