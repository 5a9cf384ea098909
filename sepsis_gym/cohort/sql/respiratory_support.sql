-- Respiratory support as charted: device and ventilator-mode text.
-- Inputs:  stays, chartevents, items, ventilation_text (item role, trimmed text, status, rank)
-- Output:  stay_id, time, status (tracheostomy, invasive, noninvasive, high_flow, oxygen, none)
-- Rule:    one status per time, the lowest rank.
-- Source:  MIT-LCP/mimic-code, concept "ventilation".
WITH texts AS (
    SELECT c.stay_id, c.charttime AS time, i.role, min(trim(c.value)) AS value
    FROM chartevents c
    JOIN items i ON i.source = 'chartevents' AND i.itemid = c.itemid
    SEMI JOIN stays s ON s.stay_id = c.stay_id
    WHERE i.role IN ('oxygen_device', 'ventilator_mode', 'hamilton_mode') AND c.value IS NOT NULL
    GROUP BY ALL
)
SELECT t.stay_id, t.time, arg_min(v.status, v.rank) AS status
FROM texts t
JOIN ventilation_text v ON v.role = t.role AND v.value = t.value
GROUP BY t.stay_id, t.time
