-- The hourly grid of the 24-h SOFA: hour h is (ends_at - 1 h, ends_at].
-- Hour 0 holds the first heart rate, the last hour the last; hours -24 to -1 look back before it.
-- Inputs:  stays, chart_readings
-- Output:  stay_id, subject_id, hour, ends_at, monitored_from (time of the first heart rate)
WITH monitored AS (
    SELECT stay_id, min(time) AS first, max(time) AS last
    FROM chart_readings
    WHERE feature = 'heart_rate'
    GROUP BY stay_id
), unfolded AS (
    SELECT s.stay_id, s.subject_id, m.first AS monitored_from,
        date_trunc('hour', m.first - INTERVAL 1 MICROSECOND) + INTERVAL 1 HOUR AS first_end,
        unnest(range(-24, ceil(epoch(m.last - m.first) / 3600)::BIGINT + 1)) AS hour
    FROM stays s
    JOIN monitored m USING (stay_id)
)
SELECT stay_id, subject_id, hour, first_end + to_hours(hour) AS ends_at, monitored_from
FROM unfolded
