-- Urine of the last 24 h at each charting, where 22 to 30 h were charted.
-- Inputs:  urine, hours
-- Output:  stay_id, time, urine_24h (mL, scaled to 24 h)
-- Source:  MIT-LCP/mimic-code, concept "urine_output_rate".
WITH spans AS (
    SELECT u.stay_id, u.charttime AS time, u.volume_ml, epoch(u.charttime - coalesce(
            lag(u.charttime) OVER (PARTITION BY u.stay_id ORDER BY u.charttime), h.monitored_from
        )) / 3600 AS span_hours
    FROM urine u
    JOIN (SELECT stay_id, monitored_from FROM hours WHERE hour = 0) h USING (stay_id)
), summed AS (
    SELECT stay_id, time, sum(volume_ml) OVER day AS volume_ml, sum(span_hours) OVER day AS span
    FROM spans
    WINDOW day AS (PARTITION BY stay_id ORDER BY time
        RANGE BETWEEN INTERVAL 23 HOUR PRECEDING AND CURRENT ROW)
)
SELECT stay_id, time, volume_ml / span * 24 AS urine_24h
FROM summed
WHERE span BETWEEN 22 AND 30
