-- Episodes of respiratory support, from device and ventilator-mode text.
-- Inputs:  chartevents, items, ventilation_text (item role, trimmed text, status, rank),
--          procedureevents, stays
-- Output:  stay_id, starttime, endtime, status (tracheostomy, invasive, noninvasive, high_flow,
--          oxygen, none), from_procedure
-- Rule:    one status per time (lowest rank wins); a change of status or 14 h without a row of the
--          same status opens an episode; an episode ends at the next status unless 14 h pass;
--          episodes of one row are dropped. Stays without any text use the procedure's times.
-- Source:  MIT-LCP/mimic-code, concept "ventilation".
WITH texts AS (
    SELECT c.stay_id, c.charttime, i.role, min(trim(c.value)) AS value
    FROM chartevents c
    JOIN items i ON i.source = 'chartevents' AND i.itemid = c.itemid
    WHERE i.role IN ('oxygen_device', 'ventilator_mode', 'hamilton_mode') AND c.value IS NOT NULL
    GROUP BY ALL
), statuses AS (
    SELECT stay_id, charttime, arg_min(v.status, v.rank) AS status
    FROM texts t
    JOIN ventilation_text v ON v.role = t.role AND v.value = t.value
    GROUP BY stay_id, charttime
), neighbours AS (
    SELECT *,
        lag(charttime) OVER (PARTITION BY stay_id, status ORDER BY charttime) AS same_before,
        lag(status) OVER by_time AS status_before,
        lead(charttime) OVER by_time AS next_time
    FROM statuses
    WINDOW by_time AS (PARTITION BY stay_id ORDER BY charttime)
), numbered AS (
    SELECT *, sum((
            status_before IS DISTINCT FROM status OR charttime - same_before >= INTERVAL 14 HOUR
        )::INTEGER) OVER (PARTITION BY stay_id ORDER BY charttime) AS episode
    FROM neighbours
)
SELECT stay_id, min(charttime) AS starttime,
    max(CASE WHEN next_time - charttime < INTERVAL 14 HOUR THEN next_time ELSE charttime END)
        AS endtime,
    any_value(status) AS status, FALSE AS from_procedure
FROM numbered
GROUP BY stay_id, episode
HAVING min(charttime) <> max(charttime)
UNION ALL
SELECT p.stay_id, p.starttime, p.endtime, 'invasive', TRUE
FROM procedureevents p
JOIN items i ON i.source = 'procedureevents' AND i.itemid = p.itemid
WHERE p.starttime < p.endtime AND p.stay_id NOT IN (SELECT stay_id FROM statuses)
