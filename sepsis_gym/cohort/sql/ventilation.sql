-- Episodes of respiratory support, looked at from their end: for the 24-h SOFA, not for a state.
-- Inputs:  respiratory_support, procedureevents, items
-- Output:  stay_id, starttime, endtime, status, from_procedure
-- Rule:    a change of status or 14 h without a row of the same status opens an episode; an episode
--          ends at the next status unless 14 h pass; episodes of one row are dropped. Stays without
--          any text use the procedure's times.
-- Source:  MIT-LCP/mimic-code, concept "ventilation".
WITH neighbours AS (
    SELECT *,
        lag(time) OVER (PARTITION BY stay_id, status ORDER BY time) AS same_before,
        lag(status) OVER by_time AS status_before,
        lead(time) OVER by_time AS next_time
    FROM respiratory_support
    WINDOW by_time AS (PARTITION BY stay_id ORDER BY time)
), numbered AS (
    SELECT *, sum((
            status_before IS DISTINCT FROM status OR time - same_before >= INTERVAL 14 HOUR
        )::INTEGER) OVER (PARTITION BY stay_id ORDER BY time) AS episode
    FROM neighbours
)
SELECT stay_id, min(time) AS starttime,
    max(CASE WHEN next_time - time < INTERVAL 14 HOUR THEN next_time ELSE time END) AS endtime,
    any_value(status) AS status, FALSE AS from_procedure
FROM numbered
GROUP BY stay_id, episode
HAVING min(time) <> max(time)
UNION ALL
SELECT p.stay_id, p.starttime, p.endtime, 'invasive', TRUE
FROM procedureevents p
JOIN items i ON i.source = 'procedureevents' AND i.itemid = p.itemid
WHERE p.starttime < p.endtime AND p.stay_id NOT IN (SELECT stay_id FROM respiratory_support)
