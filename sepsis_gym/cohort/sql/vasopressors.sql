-- Norepinephrine-equivalent dose per bin: highest and time-weighted mean of the summed rate.
-- Inputs:  inputs, bins
-- Output:  stay_id, bin, highest, mean (ug/kg/min); no row where none ran
-- Rule:    rows of one drug that overlap (a bag change) count once, at the higher rate; different
--          drugs add up. Between two neighbouring times at which a row starts or ends or a bin
--          starts or ends, the sum is constant.
WITH running AS (
    SELECT i.stay_id, b.bin, i.role, i.equivalent, b.ends_at AS bin_ends, b.starts_at AS bin_starts,
        greatest(i.starttime, b.starts_at) AS starts, least(i.endtime, b.ends_at) AS ends
    FROM inputs i
    JOIN bins b ON b.stay_id = i.stay_id AND i.starttime < b.ends_at AND i.endtime > b.starts_at
    WHERE i.dropped IS NULL AND i.equivalent > 0
), times AS (
    SELECT stay_id, bin, starts AS time FROM running
    UNION SELECT stay_id, bin, ends FROM running
), segments AS (
    SELECT *, lead(time) OVER (PARTITION BY stay_id, bin ORDER BY time) AS until FROM times
), by_drug AS (
    SELECT s.stay_id, s.bin, s.time, s.until, r.role, max(r.equivalent) AS equivalent,
        any_value(epoch(r.bin_ends - r.bin_starts)) AS bin_seconds
    FROM segments s
    JOIN running r ON r.stay_id = s.stay_id AND r.bin = s.bin AND r.starts <= s.time
        AND r.ends >= s.until
    GROUP BY ALL
), summed AS (
    SELECT stay_id, bin, sum(equivalent::DECIMAL(18, 9))::DOUBLE AS equivalent,
        any_value(bin_seconds) AS bin_seconds,
        epoch(until - time) AS seconds
    FROM by_drug
    GROUP BY stay_id, bin, time, until
)
SELECT stay_id, bin, max(equivalent) AS highest,
    sum((equivalent * seconds)::DECIMAL(18, 6))::DOUBLE / any_value(bin_seconds) AS mean
FROM summed
GROUP BY stay_id, bin
