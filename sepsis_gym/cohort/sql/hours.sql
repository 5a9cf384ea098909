-- The hourly grid of the 24-h SOFA: hour h is (ends_at - 1 h, ends_at].
-- Hour 0 holds the first heart rate, the last hour the last; hours -24 to -1 look back before it.
-- A heart rate charted more than 30 days outside the stay is an error of the clock and left out.
-- Inputs:  stays, chart_readings
-- Output:  stay_id, subject_id, hour, ends_at, monitored_from (time of the first heart rate)
WITH monitored AS (
    SELECT c.stay_id, min(c.time) AS first, max(c.time) AS last
    FROM chart_readings c
    JOIN stays s USING (stay_id)
    WHERE c.feature = 'heart_rate' AND c.time BETWEEN s.intime - INTERVAL 30 DAY
        AND s.outtime + INTERVAL 30 DAY
    GROUP BY c.stay_id
), unfolded AS (
    SELECT s.stay_id, s.subject_id, m.first AS monitored_from,
        date_trunc('hour', m.first - INTERVAL 1 MICROSECOND) + INTERVAL 1 HOUR AS first_end,
        unnest(range(-24, ceil(epoch(m.last - m.first) / 3600)::BIGINT + 1)) AS hour
    FROM stays s
    JOIN monitored m USING (stay_id)
)
SELECT stay_id, subject_id, hour, first_end + to_hours(hour) AS ends_at, monitored_from
FROM unfolded
